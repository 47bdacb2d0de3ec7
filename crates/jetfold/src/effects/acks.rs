//! Publishes whose acknowledgements are gathered: one subscription for all of them, and for each a place in a window.
//!
//! A request of its own for each would cost more than all else that is done about an output. What is not acknowledged in
//! time, or refused, is handed back: whoever published it finds out what became of it.

use crate::commit::effect::Answer;
use crate::nats::connect::Connection;
use crate::nats::publish;
use async_nats::{SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Publishes that the oldest unanswered one may be behind.
const MOST_BEHIND: usize = 1 << 14;

/// Publishes to one stream, and what each of them is for.
pub struct Acks<T> {
    connection: Connection,
    stream: String,
    /// Subjects of acknowledgements: this, and a number.
    inbox: String,
    arriving: Subscriber,
    connects: watch::Receiver<u64>,
    /// In the order in which they were sent; `None` if it is answered already.
    waiting: VecDeque<Option<Waiting<T>>>,
    /// The number of the first of them.
    first: u64,
    unanswered: usize,
}

struct Waiting<T> {
    what: T,
    until: Instant,
}

/// The part of an acknowledgement that matters.
#[derive(Deserialize)]
struct Ack<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    seq: u64,
    /// A refusal names the stream as well, and 0 for a sequence.
    #[serde(default, borrow)]
    error: Option<Refused<'a>>,
}

#[derive(Deserialize)]
struct Refused<'a> {
    #[serde(default, borrow)]
    description: Cow<'a, str>,
}

impl Ack<'_> {
    fn answer(payload: &[u8], stream: &str) -> Answer {
        match serde_json::from_slice::<Ack>(payload) {
            Ok(Ack { error: Some(error), .. }) if publish::says_taken(&error.description) => Answer::SubjectTaken,
            Ok(Ack { error: None, stream: found, seq }) if found == stream && seq > 0 => Answer::Stored(seq),
            _ if crate::planted!("a-refusal-is-taken-for-stored") => Answer::Stored(1),
            _ => Answer::Unknown,
        }
    }
}

impl<T> Acks<T> {
    /// For publishes that `stream` stores.
    pub async fn new(connection: Connection, stream: String) -> Result<Self, SubscribeError> {
        let inbox = format!("{}.", connection.client.new_inbox());
        // Before anything is sent, so that a reconnect in between is seen.
        let mut connects = connection.connects();
        connects.mark_unchanged();
        let arriving = connection.client.subscribe(format!("{inbox}*")).await?;
        let (waiting, first, unanswered) = (VecDeque::new(), 0, 0);
        Ok(Self { connection, stream, inbox, arriving, connects, waiting, first, unanswered })
    }

    /// Publishes that are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Publishes, if that can be done without waiting; says whether it was.
    pub fn publish(&mut self, subject: String, payload: Bytes, what: T) -> bool {
        if self.waiting.len() >= MOST_BEHIND {
            return false;
        }
        let reply = format!("{}{}", self.inbox, self.first + self.waiting.len() as u64);
        let sending = self.connection.client.publish_with_reply(subject, reply, payload);
        // A future that is dropped has sent nothing. Unconstrained: the scheduler would have every 128th wait.
        let sent = matches!(tokio::task::unconstrained(sending).now_or_never(), Some(Ok(())));
        if sent {
            self.waiting.push_back(Some(Waiting { what, until: Instant::now() + self.connection.request_timeout }));
            self.unanswered += 1;
        }
        sent
    }

    /// The next publish that is answered, or is known not to be. To be asked only while there are unanswered ones.
    /// Cancel-safe.
    pub async fn next(&mut self) -> (T, Answer) {
        loop {
            let until = match self.waiting.front() {
                Some(Some(first)) => first.until,
                Some(None) => {
                    self.waiting.pop_front();
                    self.first += 1;
                    continue;
                }
                None => std::future::pending().await,
            };
            tokio::select! {
                biased;
                changed = self.connects.changed() => match changed {
                    // What was in flight when the connection broke is lost without a word.
                    Ok(()) => self.give_up(),
                    // The connection is closed for good.
                    Err(_) => return (self.take_first(), Answer::Unknown),
                },
                message = self.arriving.next() => match message {
                    Some(message) => {
                        let number = message.subject.strip_prefix(self.inbox.as_str()).and_then(|n| n.parse().ok());
                        if let Some(what) = number.and_then(|number| self.take(number)) {
                            return (what, Ack::answer(&message.payload, &self.stream));
                        }
                    }
                    None => return (self.take_first(), Answer::Unknown),
                },
                () = sleep_until(until) => return (self.take_first(), Answer::Unknown),
            }
        }
    }

    /// Nothing that is waiting will be answered: the time for all of it is over.
    fn give_up(&mut self) {
        let now = Instant::now();
        self.waiting.iter_mut().flatten().for_each(|waiting| waiting.until = now);
    }

    fn take_first(&mut self) -> T {
        self.take(self.first).expect("the first is waiting")
    }

    fn take(&mut self, number: u64) -> Option<T> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let waiting = self.waiting.get_mut(place)?.take()?;
        self.unanswered -= 1;
        Some(waiting.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_stream_has_stored_has_a_sequence() {
        let answer = |payload: &str| Ack::answer(payload.as_bytes(), "sums");
        assert_eq!(answer(r#"{"stream":"sums","seq":7}"#), Answer::Stored(7));
        assert_eq!(answer(r#"{"stream":"sums","domain":"hub","seq":8,"duplicate":true}"#), Answer::Stored(8));
        let refused = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"sums","seq":0}"#;
        for taken in [refused, &refused.replace("\"seq\":0", "\"seq\":9")] {
            assert_eq!(answer(taken), Answer::SubjectTaken, "{taken}");
        }
        for other in [
            &refused.replace(" per subject", ""),
            r#"{"error":{"code":503},"stream":"sums","seq":0}"#,
            r#"{"stream":"other","seq":7}"#,
            r#"{"stream":"sums","seq":0}"#,
            "",
        ] {
            assert_eq!(answer(other), Answer::Unknown, "{other}");
        }
    }
}
