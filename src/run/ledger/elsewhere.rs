//! Streams of a run that another life of it has closed: a chunker that was killed, or one that is still there.
//!
//! A life of a run with a name sees finals that it has not asked for. What such a stream must come to is known all the same, since
//! seed and ID tell: so its final is compared with what is computed from them, and it ends as verified or mismatched. When
//! its closing chunk was due, and when it was stored, this life does not know: it has no latency, and is not called late.

use crate::run::ledger::{Ending, Final, Ledger, Seen};
use crate::sum::running::Sum;
use crate::sum::stream_id::StreamId;
use std::collections::HashSet;

#[derive(Default)]
pub(super) struct Elsewhere {
    /// The run may have other lives.
    is_possible: bool,
    /// Streams whose final is here, and was not compared yet.
    unjudged: HashSet<StreamId>,
}

impl Elsewhere {
    pub fn is_judged(&self) -> bool {
        self.unjudged.is_empty()
    }

    pub fn unjudged(&self) -> usize {
        self.unjudged.len()
    }

    /// Whether it was to be judged, and is no more.
    pub fn forget(&mut self, id: StreamId) -> bool {
        self.unjudged.remove(&id)
    }
}

impl Ledger {
    /// The run may have other lives, which close streams too.
    pub fn with_other_lives(mut self) -> Self {
        self.elsewhere.is_possible = true;
        self
    }

    /// Takes a stream whose final has come for one that another life has closed, if it is one that this life has not closed. It
    /// counts as opened from here on, and is not opened again.
    pub(super) fn is_elsewhere(&mut self, id: StreamId) -> bool {
        if !self.elsewhere.is_possible {
            return false;
        }
        let is_open = self.open.remove(&id);
        if !is_open {
            if self.unopened.is_opened(id) || !self.unopened.pass_over(id) {
                return false;
            }
            self.counts.streams += 1;
        }
        self.elsewhere.unjudged.insert(id);
        true
    }

    /// What the sum of a stream must be that another life has closed. `None` where it has ended otherwise meanwhile.
    pub fn computed(&mut self, found: Final, expected: Sum) -> Option<Seen> {
        let id = expected.id;
        if !self.elsewhere.forget(id) {
            return None;
        }
        if found.sum != Some(expected) {
            return Some(self.ended(id, Ending::Mismatched));
        }
        self.counts.resumed += 1;
        Some(self.ended(id, Ending::Verified))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::ledger::Copies;
    use crate::run::unopened::{Drawn, Unopened};
    use crate::sum::chunk::SeqNo;
    use crate::sum::running::Value;
    use crate::sum::stream_id::RunPrefix;
    use jetfold::MessageMark;
    use std::time::Duration;

    const RUN: RunPrefix = RunPrefix([1, 2, 3, 4]);

    fn id(n: u64) -> StreamId {
        StreamId::of_run(RUN, n)
    }

    fn sum(n: u64) -> Sum {
        Sum { id: id(n), seq_no: SeqNo::new(4).unwrap(), value: Value([n as u8; 20]) }
    }

    fn stored(n: u64) -> Final {
        Final { sum: Some(sum(n)), mark: MessageMark { position: n + 1, time: 1 } }
    }

    fn ledger(streams: u64) -> Ledger {
        Ledger::new(Unopened::new(RUN, 1, streams), Duration::from_secs(40)).with_other_lives()
    }

    #[test]
    fn finals_of_an_earlier_life_are_compared_and_their_streams_are_not_opened() {
        let mut ledger = ledger(4);
        for n in [0, 1] {
            assert_eq!(ledger.arrived(Some(id(n)), stored(n), Duration::ZERO), Seen::Elsewhere(id(n)));
        }
        assert!(!ledger.is_settled());
        assert_eq!(ledger.report(Duration::ZERO).counts.unfinished, 2);
        assert_eq!(ledger.computed(stored(0), sum(0)), Some(Seen::Ended(id(0), Ending::Verified)));
        let wrong = Final { sum: Some(sum(9)), ..stored(1) };
        assert_eq!(ledger.computed(wrong, sum(1)), Some(Seen::Ended(id(1), Ending::Mismatched)));
        assert_eq!(ledger.computed(stored(0), sum(0)), None, "once");
        assert_eq!([2, 3].map(|n| ledger.open_next(|_| true) == Drawn::Stream(id(n))), [true; 2]);
        assert_eq!(ledger.open_next(|_| true), Drawn::Never);
        let counts = ledger.counts();
        assert_eq!((counts.streams, counts.verified, counts.resumed, counts.mismatched), (4, 1, 1, 1));
    }

    #[test]
    fn a_stream_that_is_open_here_may_have_been_closed_elsewhere() {
        let mut ledger = ledger(1);
        ledger.open(id(0));
        assert_eq!(ledger.arrived(Some(id(0)), stored(0), Duration::ZERO), Seen::Elsewhere(id(0)));
        // The generator goes on to the end of the stream.
        ledger.close(sum(0), Duration::ZERO);
        assert_eq!(ledger.awaited(), 0);
        ledger.computed(stored(0), sum(0));
        assert!(ledger.is_settled());
        assert_eq!((ledger.counts().streams, ledger.counts().verified), (1, 1));
    }

    #[test]
    fn what_is_none_of_the_run_is_unexpected_and_a_second_final_is_asked_for() {
        let mut ledger = ledger(1);
        assert_eq!(ledger.arrived(Some(id(1)), stored(1), Duration::ZERO), Seen::Unexpected);
        ledger.arrived(Some(id(0)), stored(0), Duration::ZERO);
        assert_eq!(ledger.arrived(Some(id(0)), stored(2), Duration::ZERO), Seen::Again(id(0)));
        assert_eq!(ledger.came_again(id(0), Copies::Several, None), Some(Ending::Duplicate));
        assert_eq!(ledger.computed(stored(0), sum(0)), None);
        let counts = ledger.counts();
        assert_eq!((counts.duplicate, counts.verified, counts.unexpected, counts.streams), (1, 0, 1, 1));
    }

    #[test]
    fn a_run_without_a_name_has_no_other_lives() {
        let mut ledger = Ledger::new(Unopened::new(RUN, 1, 2), Duration::from_secs(40));
        assert_eq!(ledger.arrived(Some(id(1)), stored(1), Duration::ZERO), Seen::Unexpected);
    }
}
