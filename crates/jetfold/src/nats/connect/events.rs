//! What the client reports of a connection: counted, said now and then, and kept for whoever asks why nothing moves.

use super::denied::Denied;
use crate::throttle::Throttle;
use async_nats::{ConnectErrorKind, Event, ServerError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a refusal counts after it was said: whoever is refused tries again more often than that.
const COUNTS: Duration = Duration::from_secs(15);

/// Where everything that is reported goes.
#[derive(Default)]
pub(super) struct Events {
    /// How many times the connection was made.
    pub connects: watch::Sender<u64>,
    pub trouble: watch::Sender<Trouble>,
}

/// Said now and then: once for all connections of the process, which share their fate.
static LOST: Throttle = Throttle::new();
static MADE: Throttle = Throttle::new();
static REFUSED: Throttle = Throttle::new();
static DENIED: Throttle = Throttle::new();
static ERRORS: Throttle = Throttle::new();

/// What keeps a connection from being of use.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    /// The server refuses the credentials: the connection is lost, and not made again.
    refused: bool,
    /// What the user was last not allowed to do, and when.
    denied: Option<(Instant, Denied)>,
}

impl Trouble {
    pub fn denied(&self) -> Option<&Denied> {
        self.denied.as_ref().map(|(_, denied)| denied)
    }

    /// In words, as it stands at `now`.
    pub fn said(&self, now: Instant) -> Option<String> {
        if self.refused {
            return Some("the NATS server refuses the credentials".to_owned());
        }
        let (at, denied) = self.denied.as_ref()?;
        (now.saturating_duration_since(*at) < COUNTS).then(|| denied.to_string())
    }
}

impl Events {
    pub fn note(&self, event: Event) {
        match event {
            Event::Connected => {
                // Whoever connects anew may be allowed other things.
                self.trouble.send_replace(Trouble::default());
                self.connects.send_modify(|n| *n += 1);
                if *self.connects.borrow() > 1
                    && let Some(times) = MADE.count()
                {
                    tracing::info!(times, "connected to NATS again");
                }
            }
            Event::Disconnected => self.complain(LOST.count()),
            Event::LameDuckMode => tracing::info!("the NATS server is about to shut down"),
            Event::Draining | Event::Closed => {}
            Event::SlowConsumer(subscription) => {
                tracing::error!(subscription, "the client dropped messages that came too fast")
            }
            Event::ServerError(error) => self.note_error(&error),
            // Every try to reconnect that fails is one: the connection is not back.
            Event::ClientError(error) => {
                let refusals = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
                let said = error.to_string();
                if refusals.iter().any(|kind| said.ends_with(&kind.to_string())) {
                    self.trouble.send_modify(|trouble| trouble.refused = true);
                    if let Some(times) = REFUSED.count() {
                        tracing::warn!(
                            times,
                            "the NATS server refuses the credentials: trying again, with what the configuration names then"
                        );
                    }
                } else {
                    self.complain(LOST.held_back());
                }
                tracing::debug!(%error, "the NATS client reported an error");
            }
        }
    }

    fn note_error(&self, error: &ServerError) {
        let Some(denied) = Denied::read(&error.to_string()) else {
            // It ends the connection, and is what the next try to connect meets.
            let told_of_later = *error == ServerError::AuthorizationViolation;
            if !told_of_later && let Some(times) = ERRORS.count() {
                tracing::warn!(times, %error, "the NATS server reported an error");
            }
            return;
        };
        if let Some(times) = DENIED.count() {
            tracing::warn!(times, "{denied}");
        }
        self.trouble.send_modify(|trouble| trouble.denied = Some((Instant::now(), denied)));
    }

    fn complain(&self, times: Option<u64>) {
        if let Some(times) = times {
            tracing::warn!(times, "lost the connection to NATS: trying again until it is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::ClientError;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_trouble_until_the_connection_is_back_or_it_is_not_said_again() {
        let events = Events::default();
        let said = || events.trouble.borrow().said(Instant::now());
        events.note(Event::Connected);
        assert_eq!(said(), None);
        // As the client reports each try.
        let refused = ClientError::Other(ConnectErrorKind::AuthorizationViolation.to_string());
        events.note(Event::ClientError(refused));
        assert!(said().is_some_and(|said| said.contains("refuses the credentials")));
        events.note(Event::Connected);
        assert_eq!(said(), None);
        let denied = || ServerError::Other("Permissions Violation for Publish to \"sums.1\"".to_owned());
        events.note(Event::ServerError(denied()));
        assert!(said().is_some_and(|said| said.contains("sums.1")));
        tokio::time::advance(COUNTS).await;
        assert_eq!(said(), None);
        assert_eq!(*events.connects.borrow(), 2);
    }
}
