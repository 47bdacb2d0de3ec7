//! `MaySend`: whether a life of a run with a name may send, since it was the last that had claimed the run a moment ago.
//!
//! Chunks of several lives may come in any mixture, and no gap comes of it. Each life sends every stream from its first chunk on, and
//! a lane sends a batch only when the one before is stored: so wherever a log holds chunk `n` of a stream, from whichever life,
//! it holds 1 to `n - 1` of the same life before it. Their content is the same, so the row stands at `n - 1` at the least: the chunk
//! extends it, or is a duplicate.
//!
//! That holds for as long as the stream's row is remembered. A life that is paused for longer than `idle_expiry` amid a stream may wake
//! when a later one has begun that stream again, behind the row that has expired; its next chunk would be the gap. So it
//! sends only what it may: after a pause, and on a connection that was made anew, no batch is sent, for the first time or
//! again, until the leader has said that no other life has claimed the run since. Such a look counts for a small part of
//! `idle_expiry`. All that is left is a batch that had left the lane and not the process when it was paused.

use jetfold::nats::connect::Connection;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A look counts for this part of the time for which a stream is remembered without a new chunk, ...
const PART: u32 = 8;

/// ... and no longer than this.
const LONGEST: Duration = Duration::from_secs(30);

/// For how long a look counts.
pub fn lasts(idle_expiry: Duration) -> Duration {
    (idle_expiry / PART).min(LONGEST)
}

/// A look at the record: on which connection it was answered, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub connects: u64,
    pub at: Instant,
}

#[derive(Clone)]
pub struct MaySend {
    connects: watch::Receiver<u64>,
    last: watch::Receiver<Look>,
    lasts: Duration,
}

impl MaySend {
    pub fn new(connection: &Connection, last: watch::Receiver<Look>, lasts: Duration) -> Self {
        Self { connects: connection.connects(), last, lasts }
    }

    /// When this life has to wait, if nothing more is heard; `None`: it has to already.
    fn until(&mut self) -> Option<Instant> {
        let Look { connects, at } = *self.last.borrow_and_update();
        let until = at + self.lasts;
        (*self.connects.borrow_and_update() == connects && Instant::now() < until).then_some(until)
    }

    /// Waits until this life may send. Cancel-safe.
    pub async fn granted(&mut self) {
        while self.until().is_none() {
            self.changed().await;
        }
    }

    /// Waits until it may no longer. Cancel-safe.
    pub async fn withdrawn(&mut self) {
        while let Some(until) = self.until() {
            tokio::select! {
                () = self.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.connects.changed() => {}
            Ok(()) = self.last.changed() => {}
            // Nobody looks any more: the run has ended.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const LASTS: Duration = LONGEST;

    #[tokio::test]
    async fn a_life_may_send_for_a_while_after_each_look_on_the_connection_that_stands() {
        let (connected, connects) = watch::channel(1);
        let (looked, last) = watch::channel(Look { connects: 1, at: Instant::now() });
        let mut may_send = MaySend { connects, last, lasts: LASTS };
        let look = |connects, age| looked.send_replace(Look { connects, at: Instant::now() - age });
        let may = |may_send: &mut MaySend| {
            let (granted, withdrawn) = (may_send.granted().now_or_never(), may_send.withdrawn().now_or_never());
            assert_ne!(granted, withdrawn, "one of them");
            granted.is_some()
        };
        assert!(may(&mut may_send));
        look(1, LASTS - Duration::from_secs(10));
        assert!(may(&mut may_send));
        // As after a pause.
        look(1, LASTS);
        assert!(!may(&mut may_send));
        look(1, Duration::ZERO);
        assert!(may(&mut may_send));
        connected.send_replace(2);
        assert!(!may(&mut may_send), "another connection");
        look(1, Duration::ZERO);
        assert!(!may(&mut may_send), "it was answered on the one before");
        look(2, Duration::ZERO);
        assert!(may(&mut may_send));
    }

    #[tokio::test]
    async fn who_waits_is_told_by_a_look_and_who_sends_when_looks_stay_out() {
        let (_connected, connects) = watch::channel(1);
        let (looked, last) = watch::channel(Look { connects: 1, at: Instant::now() - LASTS });
        let mut may_send = MaySend { connects, last, lasts: LASTS };
        let soon = LASTS - Duration::from_millis(50);
        let looking = async { looked.send_replace(Look { connects: 1, at: Instant::now() - soon }) };
        tokio::join!(may_send.granted(), looking);
        may_send.withdrawn().await;
        assert!(may_send.granted().now_or_never().is_none());
    }
}
