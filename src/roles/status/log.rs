//! A partition log as it was found: there, gone, or without an answer; and how far behind its end a position is.

use crate::roles::status::State;
use jetfold::LogState;
use jetfold::PartitionStanding;
use jetfold::Position;
use jetfold::UnixNanos;
use jetfold::age;
use jetfold::nats::read::{self, NoAnswer, StreamNow};

/// What is known of a log.
#[derive(Clone, Debug)]
pub enum Log {
    There(LogNow),
    Gone,
    /// Why nobody answers.
    Unanswered(String),
}

/// A log that is there.
#[derive(Clone, Copy, Debug)]
pub struct LogNow {
    pub state: LogState,
    pub bytes: u64,
    /// When that was, by the clock that stamps its messages.
    pub at: UnixNanos,
}

impl From<Result<Option<StreamNow>, NoAnswer>> for Log {
    fn from(answer: Result<Option<StreamNow>, NoAnswer>) -> Self {
        match answer {
            Ok(Some(StreamNow { info, at })) => {
                Self::There(LogNow { state: read::log_state(&info), bytes: info.state.bytes, at })
            }
            Ok(None) => Self::Gone,
            Err(cause) => Self::Unanswered(cause.to_string()),
        }
    }
}

impl Log {
    pub fn now(&self) -> Option<LogNow> {
        match self {
            Self::There(now) => Some(*now),
            Self::Gone | Self::Unanswered(_) => None,
        }
    }

    /// What is wrong with it, and the way out.
    pub fn absence(&self, name: &str, partition: u32) -> Option<(State, String)> {
        match self {
            Self::There(_) => None,
            Self::Gone => {
                let way_out = format!(
                    "the log {name} is gone: bring it back from a backup; or make it anew with `stream-sum topology apply`, \
                     and let each summer go on with --accept replaced:{partition}"
                );
                Some((State::Gone, way_out))
            }
            Self::Unanswered(cause) => {
                let way_out =
                    format!("nobody answers for the log {name} ({cause}): see that the servers that keep it run");
                Some((State::Unanswered, way_out))
            }
        }
    }
}

impl LogNow {
    /// How far whoever has told `standing` is behind the end: unknown where its position is of another log than this.
    pub fn lag(&self, standing: &PartitionStanding) -> Option<u64> {
        let is_another = standing.log_created.is_some_and(|created| created != self.state.created);
        let is_beyond = standing.trouble.is_some() && standing.position > self.state.last;
        (!is_another && !is_beyond).then(|| self.behind(standing.position))
    }

    pub fn behind(&self, position: Position) -> u64 {
        self.state.last.saturating_sub(position)
    }

    /// The position that nobody has to have told: nothing before the first message is there to be folded.
    pub fn least(&self) -> Position {
        self.state.first.saturating_sub(1)
    }

    /// How long ago something was stored, in seconds, to the millisecond.
    pub fn seconds_since(&self, stored_at: UnixNanos) -> f64 {
        (age(stored_at, self.at).as_secs_f64() * 1e3).round() / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: UnixNanos = 1_000_000_000;

    #[test]
    fn without_anybody_s_word_the_lag_is_all_that_the_log_holds() {
        let state = LogState { created: 1, first: 11, first_time: SECOND, last: 100, last_time: 2 * SECOND };
        let log = LogNow { state, bytes: 9, at: 5 * SECOND };
        assert_eq!((log.least(), log.behind(log.least())), (10, 90));
        let empty = LogNow { state: LogState { first: 0, last: 0, ..log.state }, ..log };
        assert_eq!((empty.least(), empty.behind(empty.least())), (0, 0));
        let emptied = LogNow { state: LogState { first: 101, ..log.state }, ..log };
        assert_eq!(emptied.behind(emptied.least()), 0);
        assert_eq!((log.seconds_since(SECOND), log.seconds_since(6 * SECOND)), (4.0, 0.0));
    }
}
