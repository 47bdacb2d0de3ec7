//! The ledger: did each stream get exactly one final, the right one, in time?
//!
//! | a stream ends as | when |
//! | --- | --- |
//! | verified | its final is right, and came before the deadline; before its ack too |
//! | late | its final is right, but came after the deadline |
//! | missing | nothing came within twice the deadline, and the leader has none |
//! | mismatched | its final is wrong, or came before the stream was closed |
//! | duplicate | two messages of its subject are both in `sums`, by leader read |
//! | unfinished | the run was interrupted before any of these |
//!
//! A final that nobody opened is unexpected. One that came again although the leader has it once is republished:
//! `sums` had forgotten it, and that breaks nothing.
//!
//! Time is injected: a [`Moment`] is the time since the run began.

use crate::report::{Counts, Latency, Report};
use crate::stream_id::{RunPrefix, StreamId};
use crate::sum::Sum;
use hdrhistogram::Histogram;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Time since the run began.
pub type Moment = Duration;

/// After these delays a final is complained about, as far as they lie before the deadline.
const LADDER_MS: [u64; 14] =
    [100, 250, 500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 15_000, 20_000, 25_000, 30_000, 35_000];

/// Streams that ended badly and are remembered, so that a second final of theirs is not taken for a verified one's.
const MOST_REMEMBERED: usize = 1 << 20;

/// What a final that arrived means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The stream's own final: it has ended as this.
    Ended(StreamId, Ending),
    /// The stream had its final before: the leader must say how many there are.
    Again(StreamId),
    Unexpected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Verified,
    Late,
    Missing,
    Mismatched,
    Duplicate,
}

/// How many messages of one subject the leader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    Several,
    /// One, and it says this, where it is a final at all.
    One(Option<Sum>),
    None,
}

/// Finals that have been waited for longer than a step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed {
    pub by: Duration,
    pub streams: u64,
    /// One of them.
    pub example: StreamId,
}

/// What the passing of time has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    pub delayed: Vec<Delayed>,
    /// Streams that the leader must be asked about: nothing has come within twice the deadline.
    pub overdue: Vec<StreamId>,
}

/// A closed stream whose final has not come.
struct Awaited {
    expected: Sum,
    scheduled: Moment,
    /// When its time began to count: at the ack, or at the last send where no ack came.
    since: Option<Moment>,
    acked: bool,
}

pub struct Ledger {
    run: RunPrefix,
    deadline: Duration,
    counts: Counts,
    /// Opened, and not closed.
    open: HashSet<StreamId>,
    awaited: HashMap<StreamId, Awaited>,
    /// Streams that ended other than verified.
    badly: HashMap<StreamId, Ending>,
    /// The first ID of the run that was not opened yet.
    next: u64,
    /// Delays of the ladder, then the deadline, then twice the deadline; and for each the streams that have not waited
    /// so long yet, the longest first.
    rungs: Vec<(Duration, VecDeque<(Moment, StreamId)>)>,
    latency_us: Histogram<u64>,
}

impl Ledger {
    pub fn new(run: RunPrefix, deadline: Duration) -> Self {
        let ladder = LADDER_MS.map(Duration::from_millis).into_iter().filter(|rung| *rung < deadline);
        let rungs = ladder.chain([deadline, deadline.saturating_mul(2)]).map(|rung| (rung, VecDeque::new())).collect();
        // Up to an hour in microseconds, to three digits.
        let latency_us = Histogram::new_with_max(3_600_000_000, 3).expect("bounds that a histogram takes");
        Self {
            run,
            deadline,
            counts: Counts::default(),
            open: HashSet::new(),
            awaited: HashMap::new(),
            badly: HashMap::new(),
            next: 0,
            rungs,
            latency_us,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Streams that are closed and have not ended.
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// The stream that has waited longest for its final, and how long; `None` where none waits.
    pub fn longest_wait(&self, now: Moment) -> Option<(StreamId, Duration)> {
        let waiting = self.awaited.iter().filter_map(|(id, awaited)| Some((awaited.since?, *id)));
        waiting.min().map(|(since, id)| (id, now.saturating_sub(since)))
    }

    /// Whether the stream is closed and has not ended.
    pub fn is_awaited(&self, id: StreamId) -> bool {
        self.awaited.contains_key(&id)
    }

    /// Whether every stream that was opened has ended.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty() && self.awaited.is_empty()
    }

    /// A stream of the run is about to send its first chunk.
    pub fn open(&mut self, id: StreamId) {
        let n = id.nth_of_run(self.run).expect("streams of this run are opened");
        self.next = self.next.max(n + 1);
        self.open.insert(id);
        self.counts.streams += 1;
    }

    /// A stream is about to send its closing chunk, which was due at `scheduled`.
    pub fn close(&mut self, expected: Sum, scheduled: Moment) {
        if self.open.remove(&expected.id) {
            self.awaited.insert(expected.id, Awaited { expected, scheduled, since: None, acked: false });
        }
    }

    /// Gives up a stream that is open: it gets no closing chunk.
    pub fn give_up(&mut self, id: StreamId) {
        if self.open.remove(&id) {
            self.counts.unfinished += 1;
        }
    }

    /// Chunks were handed over to be sent.
    pub fn produced(&mut self, chunks: u64, bytes: u64) {
        self.counts.chunks += chunks;
        self.counts.bytes += bytes;
    }

    /// The closing chunks of these streams were sent, for the first time or again.
    pub fn sent(&mut self, ids: &[StreamId], now: Moment) {
        self.begin(ids, now, false);
    }

    /// The closing chunks of these streams were acknowledged.
    pub fn acked(&mut self, ids: &[StreamId], now: Moment) {
        self.begin(ids, now, true);
    }

    fn begin(&mut self, ids: &[StreamId], now: Moment, acked: bool) {
        for id in ids {
            if let Some(awaited) = self.awaited.get_mut(id)
                && !awaited.acked
            {
                awaited.since = Some(now);
                awaited.acked = acked;
                self.rungs[0].1.push_back((now, *id));
            }
        }
    }

    /// A final has arrived: the stream that its subject names, and what it says, where it is a final at all.
    pub fn arrived(&mut self, id: Option<StreamId>, sum: Option<Sum>, now: Moment) -> Seen {
        let Some(id) = id.filter(|id| id.nth_of_run(self.run).is_some_and(|n| n < self.next)) else {
            self.counts.unexpected += 1;
            return Seen::Unexpected;
        };
        if let Some(awaited) = self.awaited.remove(&id) {
            let late = awaited.since.is_some_and(|since| now > since + self.deadline);
            let ending = match sum == Some(awaited.expected) {
                false => Ending::Mismatched,
                true if late => Ending::Late,
                true => Ending::Verified,
            };
            if ending != Ending::Mismatched {
                let latency = now.saturating_sub(awaited.scheduled).as_micros();
                self.latency_us.saturating_record(u64::try_from(latency).unwrap_or(u64::MAX).max(1));
            }
            self.end(id, ending);
            return Seen::Ended(id, ending);
        }
        if self.open.remove(&id) {
            // Nobody can know the sum of what was not sent yet.
            self.end(id, Ending::Mismatched);
            return Seen::Ended(id, Ending::Mismatched);
        }
        Seen::Again(id)
    }

    /// What the leader says of a stream whose final came again. `expected` is what its sum must be.
    pub fn came_again(&mut self, id: StreamId, copies: Copies, expected: Option<Sum>) -> Option<Ending> {
        let before = self.badly.get(&id).copied().unwrap_or(Ending::Verified);
        // A stream ends as one thing: the first violation stands.
        if before != Ending::Verified && before != Ending::Late {
            return None;
        }
        let ending = match copies {
            Copies::Several => Ending::Duplicate,
            Copies::One(found) if found.is_none() || expected.is_some() && found != expected => Ending::Mismatched,
            Copies::One(_) => {
                self.counts.republished += 1;
                return None;
            }
            // Forgotten again, or expired since.
            Copies::None => return None,
        };
        *self.counter(before) = self.counter(before).saturating_sub(1);
        self.end(id, ending);
        Some(ending)
    }

    /// What the leader says of an overdue stream: its final, or that there is none.
    pub fn overdue_answered(&mut self, id: StreamId, found: Option<Option<Sum>>, now: Moment) -> Option<Ending> {
        match found {
            Some(sum) => match self.awaited.contains_key(&id).then(|| self.arrived(Some(id), sum, now)) {
                Some(Seen::Ended(_, ending)) => Some(ending),
                _ => None,
            },
            None => {
                self.awaited.remove(&id)?;
                self.end(id, Ending::Missing);
                Some(Ending::Missing)
            }
        }
    }

    /// Sees who has been waiting for how long.
    pub fn tick(&mut self, now: Moment) -> Tick {
        let mut tick = Tick::default();
        for rung in 0..self.rungs.len() {
            let by = self.rungs[rung].0;
            let mut delayed: Option<Delayed> = None;
            while let Some((since, id)) = self.rungs[rung].1.front().copied()
                && since + by <= now
            {
                self.rungs[rung].1.pop_front();
                // Ended meanwhile, or its time began anew: then it stands further back in the queue as well.
                if self.awaited.get(&id).is_none_or(|awaited| awaited.since != Some(since)) {
                    continue;
                }
                match self.rungs.get_mut(rung + 1) {
                    Some(next) => {
                        next.1.push_back((since, id));
                        delayed.get_or_insert(Delayed { by, streams: 0, example: id }).streams += 1;
                    }
                    None => tick.overdue.push(id),
                }
            }
            tick.delayed.extend(delayed);
        }
        tick
    }

    /// How the run stands, and how it ends if it ends now: what has not ended is unfinished.
    pub fn report(&self, elapsed: Duration) -> Report {
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile| ms(self.latency_us.value_at_quantile(quantile));
        let latency_ms = match self.latency_us.is_empty() {
            true => Latency::default(),
            false => {
                Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(self.latency_us.max()) }
            }
        };
        let unfinished = self.counts.unfinished + (self.open.len() + self.awaited.len()) as u64;
        Report { counts: Counts { unfinished, ..self.counts }, elapsed_s: elapsed.as_secs_f64(), latency_ms }
    }

    fn counter(&mut self, ending: Ending) -> &mut u64 {
        match ending {
            Ending::Verified => &mut self.counts.verified,
            Ending::Late => &mut self.counts.late,
            Ending::Missing => &mut self.counts.missing,
            Ending::Mismatched => &mut self.counts.mismatched,
            Ending::Duplicate => &mut self.counts.duplicate,
        }
    }

    fn end(&mut self, id: StreamId, ending: Ending) {
        *self.counter(ending) += 1;
        if ending != Ending::Verified && self.badly.len() < MOST_REMEMBERED {
            self.badly.insert(id, ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::SeqNo;
    use crate::sum::Value;

    const RUN: RunPrefix = RunPrefix([1, 2, 3, 4]);
    const DEADLINE: Duration = Duration::from_secs(40);

    fn id(n: u64) -> StreamId {
        StreamId::of_run(RUN, n)
    }

    fn sum(n: u64) -> Sum {
        Sum { id: id(n), seq_no: SeqNo::new(4).unwrap(), value: Value([n as u8; 20]) }
    }

    fn s(seconds: f64) -> Moment {
        Duration::from_secs_f64(seconds)
    }

    /// A ledger with streams 0 to `n` - 1 opened and closed, and sent at 1 s.
    fn closed(n: u64) -> Ledger {
        let mut ledger = Ledger::new(RUN, DEADLINE);
        for n in 0..n {
            ledger.open(id(n));
            ledger.close(sum(n), s(0.5));
            ledger.sent(&[id(n)], s(1.0));
        }
        ledger
    }

    #[test]
    fn the_right_final_in_time_is_verified_before_its_ack_too() {
        let mut ledger = closed(2);
        assert_eq!(ledger.arrived(Some(id(0)), Some(sum(0)), s(1.5)), Seen::Ended(id(0), Ending::Verified));
        ledger.acked(&[id(0), id(1)], s(2.0));
        assert_eq!(ledger.arrived(Some(id(1)), Some(sum(1)), s(42.0)), Seen::Ended(id(1), Ending::Verified));
        let report = ledger.report(s(43.0));
        assert_eq!(report.counts, Counts { streams: 2, verified: 2, ..Counts::default() });
        assert!(!report.counts.is_broken());
    }

    #[test]
    fn latency_counts_from_the_scheduled_send() {
        let mut ledger = closed(1);
        ledger.arrived(Some(id(0)), Some(sum(0)), s(1.5));
        let latency = ledger.report(s(2.0)).latency_ms;
        assert!((latency.max - 1000.0).abs() < 2.0 && (latency.p50 - 1000.0).abs() < 2.0, "{latency:?}");
    }

    #[test]
    fn a_right_final_after_the_deadline_is_late() {
        let mut ledger = closed(1);
        ledger.acked(&[id(0)], s(2.0));
        assert_eq!(ledger.arrived(Some(id(0)), Some(sum(0)), s(42.1)), Seen::Ended(id(0), Ending::Late));
        assert!(ledger.counts().is_broken());
    }

    #[test]
    fn the_deadline_counts_from_the_last_send_while_no_ack_comes() {
        let mut ledger = closed(1);
        ledger.sent(&[id(0)], s(30.0));
        assert!(ledger.tick(s(80.0)).overdue.is_empty());
        assert_eq!(ledger.arrived(Some(id(0)), Some(sum(0)), s(70.0)), Seen::Ended(id(0), Ending::Verified));
    }

    #[test]
    fn nothing_within_twice_the_deadline_is_missing_if_the_leader_says_so() {
        let mut ledger = closed(3);
        assert!(ledger.tick(s(80.9)).overdue.is_empty());
        let mut overdue = ledger.tick(s(81.0)).overdue;
        overdue.sort();
        assert_eq!(overdue, [id(0), id(1), id(2)]);
        assert_eq!(ledger.overdue_answered(id(0), None, s(82.0)), Some(Ending::Missing));
        assert_eq!(ledger.overdue_answered(id(1), Some(Some(sum(1))), s(82.0)), Some(Ending::Late));
        ledger.arrived(Some(id(2)), Some(sum(2)), s(82.0));
        assert_eq!(ledger.overdue_answered(id(2), Some(Some(sum(2))), s(82.0)), None, "it came while we asked");
        assert_eq!((ledger.counts().missing, ledger.counts().late), (1, 2));
    }

    #[test]
    fn a_wrong_value_a_wrong_end_and_no_final_at_all_are_mismatched() {
        let mut ledger = closed(3);
        ledger.arrived(Some(id(0)), Some(Sum { value: Value([9; 20]), ..sum(0) }), s(2.0));
        ledger.arrived(Some(id(1)), Some(Sum { seq_no: SeqNo::FIRST, ..sum(1) }), s(2.0));
        ledger.arrived(Some(id(2)), None, s(2.0));
        ledger.open(id(3));
        ledger.arrived(Some(id(3)), Some(sum(3)), s(2.0));
        ledger.close(sum(3), s(3.0));
        assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 4, mismatched: 4, ..Counts::default() });
    }

    #[test]
    fn a_second_message_is_a_duplicate_only_if_the_leader_has_both() {
        let mut ledger = closed(2);
        for n in 0..2 {
            ledger.arrived(Some(id(n)), Some(sum(n)), s(2.0));
            assert_eq!(ledger.arrived(Some(id(n)), Some(sum(n)), s(3.0)), Seen::Again(id(n)));
        }
        assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), Some(Ending::Duplicate));
        assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), None, "a stream ends once");
        assert_eq!(ledger.came_again(id(1), Copies::One(Some(sum(1))), Some(sum(1))), None);
        let counts = ledger.report(s(4.0)).counts;
        assert_eq!(counts, Counts { streams: 2, verified: 1, duplicate: 1, republished: 1, ..Counts::default() });
    }

    #[test]
    fn a_final_published_again_with_another_value_is_mismatched() {
        let mut ledger = closed(1);
        ledger.arrived(Some(id(0)), Some(sum(0)), s(2.0));
        assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(7))), Some(sum(0))), Some(Ending::Mismatched));
        assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 1, mismatched: 1, ..Counts::default() });
    }

    #[test]
    fn what_comes_again_after_a_bad_end_changes_nothing() {
        let mut ledger = closed(2);
        ledger.overdue_answered(id(0), None, s(82.0));
        assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(0))), Some(sum(0))), None);
        ledger.arrived(Some(id(1)), Some(sum(1)), s(2.0));
        assert_eq!(ledger.came_again(id(1), Copies::None, Some(sum(1))), None);
        assert_eq!((ledger.counts().missing, ledger.counts().republished), (1, 0));
        assert_eq!(ledger.came_again(id(1), Copies::One(None), Some(sum(1))), Some(Ending::Mismatched));
    }

    #[test]
    fn a_final_that_nobody_opened_is_unexpected() {
        let mut ledger = closed(1);
        assert_eq!(ledger.arrived(Some(id(1)), Some(sum(1)), s(2.0)), Seen::Unexpected);
        assert_eq!(ledger.arrived(Some(StreamId::new([9; 16])), None, s(2.0)), Seen::Unexpected);
        assert_eq!(ledger.arrived(None, None, s(2.0)), Seen::Unexpected);
        assert_eq!(ledger.counts().unexpected, 3);
    }

    #[test]
    fn what_is_open_at_an_interrupt_is_unfinished_and_breaks_nothing() {
        let mut ledger = closed(2);
        ledger.open(id(2));
        ledger.open(id(3));
        ledger.give_up(id(3));
        let counts = ledger.report(s(2.0)).counts;
        assert_eq!(counts, Counts { streams: 4, unfinished: 4, ..Counts::default() });
        assert!(!counts.is_broken());
    }

    #[test]
    fn delays_climb_the_ladder_once_each() {
        let mut ledger = closed(2);
        ledger.sent(&[id(1)], s(1.2));
        assert_eq!(ledger.tick(s(1.05)), Tick::default());
        let first = ledger.tick(s(1.1)).delayed;
        assert_eq!(first, [Delayed { by: s(0.1), streams: 1, example: id(0) }]);
        assert_eq!(ledger.tick(s(1.1)), Tick::default());
        let both = ledger.tick(s(2.3)).delayed;
        let steps: Vec<_> = both.iter().map(|delayed| (delayed.by, delayed.streams)).collect();
        assert_eq!(steps, [(s(0.1), 1), (s(0.25), 2), (s(0.5), 2), (s(1.0), 2)]);
        assert_eq!(ledger.tick(s(60.0)).delayed.last().unwrap().by, DEADLINE);
    }

    #[test]
    fn a_short_deadline_has_a_short_ladder() {
        let mut ledger = Ledger::new(RUN, s(0.3));
        ledger.open(id(0));
        ledger.close(sum(0), s(0.0));
        ledger.acked(&[id(0)], s(0.0));
        let tick = ledger.tick(s(9.0));
        assert_eq!(tick.delayed.iter().map(|delayed| delayed.by).collect::<Vec<_>>(), [s(0.1), s(0.25), s(0.3)]);
        assert_eq!(tick.overdue, [id(0)]);
    }
}
