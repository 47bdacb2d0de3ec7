//! `Schedule`: when each chunk of a run is due, if chunks are sent by a rate.

use crate::run::presence::Moment;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shared by the threads of a run.
#[derive(Debug)]
pub struct Schedule {
    /// Chunks a second; 0: as fast as it goes.
    rate: u64,
    /// When the first chunk is due.
    first: Moment,
    next_chunk: AtomicU64,
}

impl Schedule {
    /// It begins at `first`, and not with the run: one that is gone on with reads first what earlier lives have done.
    pub fn new(rate: u64, first: Moment) -> Self {
        Self { rate, first, next_chunk: AtomicU64::new(0) }
    }

    /// When the next chunk is due; `None` where it is due at once, whenever that is.
    ///
    /// Lateness is not forgiven: the latency of a late chunk counts from its scheduled time.
    pub fn due(&self) -> Option<Moment> {
        (self.rate > 0).then(|| self.first + self.lasts(self.next_chunk.fetch_add(1, Ordering::Relaxed)))
    }

    /// How long so many chunks take; no time at all without a rate.
    pub fn lasts(&self, chunks: u64) -> Duration {
        let nanos = (u128::from(chunks) * 1_000_000_000).checked_div(u128::from(self.rate)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_due_one_after_the_other_from_when_chunking_begins() {
        let ms = Duration::from_millis;
        let schedule = Schedule::new(100, ms(7_000));
        assert_eq!([(); 3].map(|()| schedule.due()), [7_000, 7_010, 7_020].map(|at| Some(ms(at))));
        assert_eq!(schedule.lasts(250), ms(2_500));
        let at_once = Schedule::new(0, ms(7_000));
        assert_eq!((at_once.due(), at_once.lasts(250)), (None, Duration::ZERO));
        assert_eq!(Schedule::new(1, Duration::ZERO).lasts(u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
