//! The ledger: did each stream get exactly one final, the right one, in time?
//!
//! | a stream ends as | when |
//! | --- | --- |
//! | verified | its final is right, and was stored within the deadline; before its ack too |
//! | late | its final is right, but was stored after the deadline |
//! | missing | nothing came within twice the deadline, and the leader has none |
//! | mismatched | its final is wrong, or came before the stream was closed |
//! | duplicate | two messages of its subject are both in `sums`, by leader read |
//! | unfinished | the run was interrupted before any of these |
//!
//! A final that nobody opened is unexpected. One that came again although the leader has it once is republished:
//! `sums` had forgotten it, and that breaks nothing.
//!
//! What came within the deadline of its closing chunk's first send was stored in time, whoever was slow. Where more has passed,
//! the servers' timestamps of closing chunk and final decide, for the run itself may have been what was late. No deadline runs
//! while NATS is away, and nobody is delayed or missing while the run itself is: see [`Presence`].
//!
//! Time is injected: a [`Moment`] is the time since the run began.

use crate::ahead::Ahead;
use crate::checkpoint::Position;
use crate::identity::MessageMark;
use crate::ladder::{Ladder, Tick};
use crate::latency::Latencies;
use crate::presence::{Contact, Moment, Presence};
use crate::report::{Counts, Report};
use crate::row::UnixNanos;
use crate::stream_id::StreamId;
use crate::sum::Sum;
use crate::unopened::{Drawn, Unopened};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Streams that ended badly and are remembered, so that a second final of theirs is not taken for a verified one's.
const MOST_REMEMBERED: usize = 1 << 20;

/// What a final that arrived means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The stream's own final: it has ended as this.
    Ended(StreamId, Ending),
    /// The stream's own final, the right one: it ends once it is known when its closing chunk was stored. Where nobody
    /// asks for that yet, this is the batch to ask for.
    Doubtful(Option<BatchPlace>),
    /// The stream had its final before: the leader must say how many there are.
    Again(StreamId),
    /// It was counted when the leader showed it.
    Known,
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

/// A message of the run in `sums`, delivered or shown by its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Final {
    /// What it says, where it is a final at all.
    pub sum: Option<Sum>,
    pub mark: MessageMark,
}

/// Where a chunk batch was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchPlace {
    pub partition: u32,
    pub position: Position,
}

/// How many messages of one subject the leader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    Several,
    /// One, and it says this, where it is a final at all.
    One(Option<Sum>),
    None,
}

/// A closed stream whose final has not come, or is in doubt.
struct Awaited {
    expected: Sum,
    scheduled: Moment,
    first_sent: Option<Moment>,
    /// When its time began to count: at the ack, or at the last send where no ack came.
    since: Option<Moment>,
    /// Where its closing chunk is stored.
    acked: Option<BatchPlace>,
    asked: Asked,
}

/// What the leaders are asked about an awaited stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// It is overdue: whether `sums` has its final.
    ForFinal,
    /// Its right final has come: when its closing chunk was stored.
    ForClosing,
}

/// A right final that is late or in time, as will be known.
struct Doubt {
    id: StreamId,
    stored: UnixNanos,
    at: Moment,
}

pub struct Ledger {
    deadline: Duration,
    presence: Presence,
    counts: Counts,
    /// Opened, and not closed.
    open: HashSet<StreamId>,
    awaited: HashMap<StreamId, Awaited>,
    /// By the batches that hold the closing chunks.
    doubts: HashMap<BatchPlace, Vec<Doubt>>,
    /// Streams that ended other than verified.
    badly: HashMap<StreamId, Ending>,
    ahead: Ahead,
    unopened: Unopened,
    ladder: Ladder,
    latencies: Latencies,
}

impl Ledger {
    /// Of a run with these streams.
    pub fn new(unopened: Unopened, deadline: Duration) -> Self {
        Self {
            deadline,
            presence: Presence::default(),
            counts: Counts::default(),
            open: HashSet::new(),
            awaited: HashMap::new(),
            doubts: HashMap::new(),
            badly: HashMap::new(),
            ahead: Ahead::default(),
            unopened,
            ladder: Ladder::new(deadline),
            latencies: Latencies::default(),
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Notes whether the run is there to see what comes. To be called before anything that has come is told.
    pub fn observe(&mut self, now: Moment, contact: Contact) {
        self.presence.observe(now, contact);
    }

    /// How long the run was there.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Streams that are closed and have not ended.
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// The stream that has waited longest for its final, and how long, absences not counted; `None` where none waits.
    pub fn longest_wait(&self, now: Moment) -> Option<(StreamId, Duration)> {
        let waiting = self.awaited.iter().filter(|(_, awaited)| awaited.asked != Asked::ForClosing);
        let waiting = waiting.filter_map(|(id, awaited)| Some((awaited.since?, *id)));
        waiting.min().map(|(since, id)| (id, self.presence.present(since, now)))
    }

    /// Whether the stream is closed and its final has not come.
    pub fn is_awaited(&self, id: StreamId) -> bool {
        self.awaited.get(&id).is_some_and(|awaited| awaited.asked != Asked::ForClosing)
    }

    /// Whether every stream that was opened has ended.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty() && self.awaited.is_empty()
    }

    /// A stream of the run is about to send its first chunk, after all before it.
    pub fn open(&mut self, id: StreamId) {
        self.unopened.opened(id);
        self.opened(id);
    }

    /// Opens the next stream of a partition that `takes` streams.
    pub fn open_next(&mut self, takes: impl Fn(u32) -> bool) -> Drawn {
        let drawn = self.unopened.draw(takes);
        if let Drawn::Stream(id) = drawn {
            self.opened(id);
        }
        drawn
    }

    fn opened(&mut self, id: StreamId) {
        self.open.insert(id);
        self.counts.streams += 1;
    }

    /// A stream is about to send its closing chunk, which was due at `scheduled`.
    pub fn close(&mut self, expected: Sum, scheduled: Moment) {
        if self.open.remove(&expected.id) {
            let (first_sent, since, acked, asked) = (None, None, None, Asked::Nothing);
            self.awaited.insert(expected.id, Awaited { expected, scheduled, first_sent, since, acked, asked });
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
        self.begin(ids, now, None);
    }

    /// The closing chunks of these streams were acknowledged, all as one batch.
    pub fn acked(&mut self, ids: &[StreamId], batch: BatchPlace, now: Moment) {
        self.begin(ids, now, Some(batch));
    }

    fn begin(&mut self, ids: &[StreamId], now: Moment, acked: Option<BatchPlace>) {
        for id in ids {
            if let Some(awaited) = self.awaited.get_mut(id)
                && awaited.acked.is_none()
            {
                awaited.first_sent.get_or_insert(now);
                (awaited.acked, awaited.asked) = (acked, Asked::Nothing);
                // A stream stands on the ladder once for each moment.
                if awaited.since.replace(now) != Some(now) {
                    self.ladder.begin(now, *id);
                }
            }
        }
    }

    /// A message of the run was delivered: the stream that its subject names, and what it is.
    pub fn arrived(&mut self, id: Option<StreamId>, found: Final, at: Moment) -> Seen {
        if self.ahead.deliver(found.mark) {
            return Seen::Known;
        }
        let Some(id) = id.filter(|id| self.unopened.is_opened(*id)) else {
            self.counts.unexpected += 1;
            return Seen::Unexpected;
        };
        if self.is_awaited(id) {
            return self.seen(id, found, at);
        }
        if self.open.remove(&id) {
            // Nobody can know the sum of what was not sent yet.
            self.end(id, Ending::Mismatched);
            return Seen::Ended(id, Ending::Mismatched);
        }
        Seen::Again(id)
    }

    /// The final of an awaited stream was seen.
    fn seen(&mut self, id: StreamId, found: Final, at: Moment) -> Seen {
        let awaited = self.awaited.get_mut(&id).expect("an awaited stream");
        if found.sum != Some(awaited.expected) {
            return self.ended(id, Ending::Mismatched);
        }
        self.latencies.record(at, at.saturating_sub(awaited.scheduled));
        let first_sent = awaited.first_sent.unwrap_or(at);
        if self.presence.connected(first_sent, at) <= self.deadline {
            return self.ended(id, Ending::Verified);
        }
        let Some(batch) = awaited.acked else {
            let ending = self.judged_here(id, at);
            return self.ended(id, ending);
        };
        awaited.asked = Asked::ForClosing;
        let doubts = self.doubts.entry(batch).or_default();
        doubts.push(Doubt { id, stored: found.mark.time, at });
        Seen::Doubtful((doubts.len() == 1).then_some(batch))
    }

    /// Whether a right final is late by the clock of this process alone.
    fn judged_here(&self, id: StreamId, at: Moment) -> Ending {
        let since = self.awaited.get(&id).and_then(|awaited| awaited.since).unwrap_or(at);
        if self.presence.present(since, at) > self.deadline { Ending::Late } else { Ending::Verified }
    }

    /// When the log's leader has stored a batch that was to be asked for; `None` where the log has it no more. The streams
    /// that have ended by that.
    pub fn judged(&mut self, batch: BatchPlace, closing: Option<UnixNanos>) -> Vec<(Sum, Ending)> {
        let deadline = i64::try_from(self.deadline.as_nanos()).unwrap_or(i64::MAX);
        let mut ended = Vec::new();
        for Doubt { id, stored, at } in self.doubts.remove(&batch).unwrap_or_default() {
            let ending = match closing {
                Some(closing) if stored.saturating_sub(closing) > deadline => Ending::Late,
                Some(_) => Ending::Verified,
                None => self.judged_here(id, at),
            };
            // One that has ended otherwise meanwhile stays what it is.
            if let Some(awaited) = self.awaited.remove(&id) {
                self.end(id, ending);
                ended.push((awaited.expected, ending));
            }
        }
        ended
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
        if self.awaited.remove(&id).is_none() {
            *self.counter(before) = self.counter(before).saturating_sub(1);
        }
        self.end(id, ending);
        Some(ending)
    }

    /// What the leader says of an overdue stream: its final, or that there is none. `None` where that changes nothing.
    pub fn overdue_answered(&mut self, id: StreamId, found: Option<Final>, now: Moment) -> Option<Seen> {
        let awaited = self.awaited.get_mut(&id).filter(|awaited| awaited.asked != Asked::ForClosing)?;
        if let Some(found) = found {
            self.ahead.show(found.mark);
            return Some(self.seen(id, found, now));
        }
        // Its closing chunk was sent again meanwhile: it is overdue no more, and stands on the ladder already.
        let since = awaited.since.filter(|_| awaited.asked == Asked::ForFinal)?;
        if self.presence.present(since, now) < self.deadline.saturating_mul(2) {
            // The run was away, as has turned out since.
            awaited.asked = Asked::Nothing;
            self.ladder.go_on(since, id);
            return None;
        }
        Some(self.ended(id, Ending::Missing))
    }

    /// Sees who has been waiting for how long.
    pub fn tick(&mut self, now: Moment) -> Tick {
        let Self { ladder, presence, awaited, .. } = self;
        let tick = ladder.climb(
            |since| presence.present(since, now),
            // Others have ended, or their closing chunk was sent again, and they have a newer entry in this queue.
            |since, id| awaited.get(&id).is_some_and(|it| it.since == Some(since) && it.asked == Asked::Nothing),
        );
        for id in &tick.overdue {
            self.awaited.get_mut(id).expect("it waits").asked = Asked::ForFinal;
        }
        tick
    }

    /// How the run stands, and how it ends if it ends now: what has not ended is unfinished.
    pub fn report(&self, elapsed: Duration) -> Report {
        let unfinished = self.counts.unfinished + (self.open.len() + self.awaited.len()) as u64;
        Report {
            counts: Counts { unfinished, ..self.counts },
            elapsed_s: elapsed.as_secs_f64(),
            away_s: self.presence.away().as_secs_f64(),
            latency_ms: self.latencies.whole(),
            interval: self.latencies.interval(elapsed),
            ..Report::default()
        }
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

    /// An awaited stream has ended.
    fn ended(&mut self, id: StreamId, ending: Ending) -> Seen {
        self.awaited.remove(&id);
        self.end(id, ending);
        Seen::Ended(id, ending)
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
    use crate::stream_id::RunPrefix;
    use crate::sum::Value;

    const RUN: RunPrefix = RunPrefix([1, 2, 3, 4]);
    const DEADLINE: Duration = Duration::from_secs(40);
    const BATCH: BatchPlace = BatchPlace { partition: 1, position: 7 };

    fn id(n: u64) -> StreamId {
        StreamId::of_run(RUN, n)
    }

    fn sum(n: u64) -> Sum {
        Sum { id: id(n), seq_no: SeqNo::new(4).unwrap(), value: Value([n as u8; 20]) }
    }

    fn s(seconds: f64) -> Moment {
        Duration::from_secs_f64(seconds)
    }

    /// As the server stamps it, whose clock runs as ours does.
    fn stamp(seconds: f64) -> UnixNanos {
        1_000_000_000_000_000_000 + (seconds * 1e9) as i64
    }

    /// The right final of stream `n`, at the place `n` + 1 of `sums`.
    fn stored(n: u64, at: f64) -> Final {
        Final { sum: Some(sum(n)), mark: MessageMark { position: n + 1, time: stamp(at) } }
    }

    /// A ledger with streams 0 to `n` - 1 opened and closed, and sent at 1 s.
    fn closed(n: u64) -> Ledger {
        let mut ledger = Ledger::new(Unopened::new(RUN, 1, u64::MAX), DEADLINE);
        for n in 0..n {
            ledger.open(id(n));
            ledger.close(sum(n), s(0.5));
            ledger.sent(&[id(n)], s(1.0));
        }
        ledger
    }

    /// Observed every half second in a stretch of time; where `heard` is given, nothing is after that.
    fn observe(ledger: &mut Ledger, from: f64, until: f64, heard: Option<f64>) {
        let mut now = from;
        while now <= until {
            let heard = heard.map_or(now, |heard| heard.min(now));
            ledger.observe(s(now), Contact { stands: true, heard: s(heard) });
            now += 0.5;
        }
    }

    #[test]
    fn the_right_final_in_time_is_verified_before_its_ack_too() {
        let mut ledger = closed(2);
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, 1.4), s(1.5)), Seen::Ended(id(0), Ending::Verified));
        ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
        assert_eq!(ledger.arrived(Some(id(1)), stored(1, 40.9), s(41.0)), Seen::Ended(id(1), Ending::Verified));
        let report = ledger.report(s(43.0));
        assert_eq!(report.counts, Counts { streams: 2, verified: 2, ..Counts::default() });
        assert!(!report.counts.is_broken());
    }

    #[test]
    fn latency_counts_from_the_scheduled_send() {
        let mut ledger = closed(1);
        ledger.arrived(Some(id(0)), stored(0, 1.4), s(1.5));
        let latency = ledger.report(s(2.0)).latency_ms;
        assert!((latency.max - 1000.0).abs() < 2.0 && (latency.p50 - 1000.0).abs() < 2.0, "{latency:?}");
    }

    #[test]
    fn whether_a_final_is_late_is_judged_by_the_servers_two_timestamps() {
        // Sent at 1, acked at 2, delivered at 50. When closing chunk and final were stored, and what that makes.
        for (closing, final_stored, ending) in [
            (Some(1.5), 2.0, Ending::Verified),
            (Some(1.5), 41.5, Ending::Verified),
            (Some(1.5), 41.6, Ending::Late),
            (Some(1.5), 49.9, Ending::Late),
            // The batch was stored twice, and the first copy was answered.
            (Some(9.0), 8.0, Ending::Verified),
            // It is purged: our own clock remains.
            (None, 2.0, Ending::Late),
        ] {
            let mut ledger = closed(1);
            ledger.acked(&[id(0)], BATCH, s(2.0));
            assert_eq!(ledger.arrived(Some(id(0)), stored(0, final_stored), s(50.0)), Seen::Doubtful(Some(BATCH)));
            assert!(!ledger.is_settled() && !ledger.is_awaited(id(0)) && ledger.longest_wait(s(50.0)).is_none());
            assert_eq!(ledger.tick(s(500.0)).overdue, []);
            assert_eq!(ledger.judged(BATCH, closing.map(stamp)), [(sum(0), ending)], "{closing:?} {final_stored}");
            assert!(ledger.is_settled());
            assert_eq!(ledger.counts().is_broken(), ending == Ending::Late);
        }
    }

    #[test]
    fn streams_that_one_batch_closes_are_judged_by_one_question() {
        let mut ledger = closed(3);
        ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
        let other = BatchPlace { position: 8, ..BATCH };
        ledger.acked(&[id(2)], other, s(2.0));
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, 3.0), s(60.0)), Seen::Doubtful(Some(BATCH)));
        assert_eq!(ledger.arrived(Some(id(1)), stored(1, 55.0), s(60.0)), Seen::Doubtful(None));
        assert_eq!(ledger.arrived(Some(id(2)), stored(2, 3.0), s(60.0)), Seen::Doubtful(Some(other)));
        assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), [(sum(0), Ending::Verified), (sum(1), Ending::Late)]);
        assert_eq!(ledger.judged(other, Some(stamp(1.5))), [(sum(2), Ending::Verified)]);
    }

    #[test]
    fn a_second_final_of_a_stream_in_doubt_is_a_duplicate_once() {
        let mut ledger = closed(1);
        ledger.acked(&[id(0)], BATCH, s(2.0));
        ledger.arrived(Some(id(0)), stored(0, 3.0), s(60.0));
        assert_eq!(ledger.arrived(Some(id(0)), stored(7, 3.0), s(60.0)), Seen::Again(id(0)));
        assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), Some(Ending::Duplicate));
        assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), []);
        assert_eq!(ledger.report(s(61.0)).counts, Counts { streams: 1, duplicate: 1, ..Counts::default() });
    }

    #[test]
    fn without_an_ack_the_time_since_the_last_send_decides() {
        for (at, ending) in [(70.0, Ending::Verified), (70.1, Ending::Late)] {
            let mut ledger = closed(1);
            ledger.sent(&[id(0)], s(30.0));
            assert!(ledger.tick(s(80.0)).overdue.is_empty());
            assert_eq!(ledger.arrived(Some(id(0)), stored(0, at), s(at)), Seen::Ended(id(0), ending));
        }
    }

    #[test]
    fn time_in_which_nats_is_away_is_no_delay() {
        let mut ledger = closed(3);
        ledger.acked(&[id(0), id(1), id(2)], BATCH, s(2.0));
        observe(&mut ledger, 0.0, 10.0, None);
        observe(&mut ledger, 10.5, 200.0, Some(10.0));
        assert_eq!(ledger.tick(s(200.0)).overdue, []);
        assert_eq!(ledger.longest_wait(s(200.0)), Some((id(0), s(8.0))));
        observe(&mut ledger, 200.5, 201.0, None);
        // Whatever the server's timestamps say, who was away as well.
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, 201.0), s(201.0)), Seen::Ended(id(0), Ending::Verified));
        observe(&mut ledger, 201.5, 231.0, None);
        assert_eq!(ledger.arrived(Some(id(1)), stored(1, 231.0), s(231.0)), Seen::Ended(id(1), Ending::Verified));
        observe(&mut ledger, 231.5, 272.5, None);
        assert_eq!(ledger.tick(s(272.0)).overdue, []);
        assert_eq!(ledger.tick(s(272.5)).overdue, [id(2)]);
        assert_eq!(ledger.report(s(272.5)).away_s, 190.5);
    }

    #[test]
    fn a_pause_of_the_run_is_no_delay_either_but_hides_nothing_that_is_late() {
        let mut ledger = closed(3);
        ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
        observe(&mut ledger, 0.0, 10.0, None);
        observe(&mut ledger, 200.0, 201.0, None);
        assert_eq!(ledger.tick(s(201.0)).overdue, []);
        assert_eq!(ledger.longest_wait(s(201.0)), Some((id(2), s(10.0))));
        ledger.arrived(Some(id(0)), stored(0, 11.0), s(201.0));
        ledger.arrived(Some(id(1)), stored(1, 199.0), s(201.0));
        assert_eq!(ledger.judged(BATCH, Some(stamp(2.0))), [(sum(0), Ending::Verified), (sum(1), Ending::Late)]);
        // Where nobody knows when its closing chunk was stored, a pause of ours is not held against it.
        assert_eq!(ledger.arrived(Some(id(2)), stored(2, 199.0), s(201.0)), Seen::Ended(id(2), Ending::Verified));
        assert_eq!(ledger.report(s(201.0)).away_s, 190.0);
    }

    #[test]
    fn nothing_within_twice_the_deadline_is_missing_if_the_leader_says_so() {
        let mut ledger = closed(4);
        observe(&mut ledger, 0.0, 81.0, None);
        assert!(ledger.tick(s(80.9)).overdue.is_empty());
        let mut overdue = ledger.tick(s(81.0)).overdue;
        overdue.sort();
        assert_eq!(overdue, [id(0), id(1), id(2), id(3)]);
        assert_eq!(ledger.tick(s(82.0)).overdue, [], "each is asked about once");
        let ended = |n, ending| Some(Seen::Ended(id(n), ending));
        assert_eq!(ledger.overdue_answered(id(0), None, s(82.0)), ended(0, Ending::Missing));
        assert_eq!(ledger.overdue_answered(id(1), Some(stored(1, 60.0)), s(82.0)), ended(1, Ending::Late));
        ledger.arrived(Some(id(2)), stored(2, 82.0), s(82.0));
        assert_eq!(ledger.overdue_answered(id(2), Some(stored(2, 82.0)), s(82.0)), None, "it came while we asked");
        ledger.sent(&[id(3)], s(81.5));
        assert_eq!(ledger.overdue_answered(id(3), None, s(82.0)), None, "it was sent again while we asked");
        assert_eq!((ledger.counts().missing, ledger.counts().late), (1, 2));
        observe(&mut ledger, 81.5, 162.0, None);
        assert_eq!(ledger.tick(s(162.0)).overdue, [id(3)]);
    }

    #[test]
    fn a_stream_is_not_missing_if_the_run_was_away_when_it_asked() {
        let mut ledger = closed(1);
        ledger.acked(&[id(0)], BATCH, s(1.0));
        observe(&mut ledger, 0.0, 80.0, None);
        // The connection hangs; the question is sent before that is known, and answered after it.
        assert_eq!(ledger.tick(s(81.0)).overdue, [id(0)]);
        observe(&mut ledger, 80.5, 100.0, Some(80.0));
        observe(&mut ledger, 100.5, 101.0, None);
        assert_eq!(ledger.overdue_answered(id(0), None, s(101.0)), None);
        observe(&mut ledger, 101.5, 103.0, None);
        assert_eq!(ledger.tick(s(103.0)).overdue, [id(0)]);
        assert_eq!(
            ledger.overdue_answered(id(0), None, s(103.0)),
            Some(Seen::Ended(id(0), Ending::Missing)),
            "it was there to see it"
        );
    }

    #[test]
    fn a_final_that_the_leader_has_shown_is_no_second_one_when_it_is_delivered() {
        let mut ledger = closed(4);
        ledger.acked(&[id(1), id(2)], BATCH, s(1.0));
        assert_eq!(ledger.tick(s(81.0)).overdue.len(), 4);
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, 2.0), s(81.0)), Seen::Ended(id(0), Ending::Late));
        let doubtful = Seen::Doubtful(Some(BATCH));
        assert_eq!(ledger.overdue_answered(id(2), Some(stored(2, 2.0)), s(82.0)), Some(doubtful));
        assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), [(sum(2), Ending::Verified)]);
        assert_eq!(ledger.arrived(Some(id(1)), stored(1, 2.0), s(83.0)), doubtful);
        assert_eq!(ledger.arrived(Some(id(2)), stored(2, 2.0), s(83.0)), Seen::Known);
        // What has the same place and another time, or comes at another place, is another message.
        assert_eq!(ledger.arrived(Some(id(2)), stored(2, 2.1), s(83.0)), Seen::Again(id(2)));
        assert!(ledger.overdue_answered(id(3), Some(stored(3, 2.0)), s(84.0)).is_some());
        let elsewhere = Final { mark: MessageMark { position: 9, time: stamp(2.0) }, ..stored(3, 2.0) };
        assert_eq!(ledger.arrived(Some(id(3)), elsewhere, s(84.0)), Seen::Again(id(3)));
        assert_eq!(ledger.arrived(Some(id(3)), stored(3, 2.0), s(84.0)), Seen::Again(id(3)), "remembered until passed");
    }

    #[test]
    fn a_wrong_value_a_wrong_end_and_no_final_at_all_are_mismatched() {
        let mut ledger = closed(3);
        let says = |n, sum| Final { sum, ..stored(n, 2.0) };
        ledger.arrived(Some(id(0)), says(0, Some(Sum { value: Value([9; 20]), ..sum(0) })), s(2.0));
        ledger.arrived(Some(id(1)), says(1, Some(Sum { seq_no: SeqNo::FIRST, ..sum(1) })), s(2.0));
        ledger.arrived(Some(id(2)), says(2, None), s(2.0));
        ledger.open(id(3));
        ledger.arrived(Some(id(3)), stored(3, 2.0), s(2.0));
        ledger.close(sum(3), s(3.0));
        assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 4, mismatched: 4, ..Counts::default() });
    }

    #[test]
    fn a_second_message_is_a_duplicate_only_if_the_leader_has_both() {
        let mut ledger = closed(2);
        for n in 0..2 {
            ledger.arrived(Some(id(n)), stored(n, 2.0), s(2.0));
            assert_eq!(ledger.arrived(Some(id(n)), stored(n, 3.0), s(3.0)), Seen::Again(id(n)));
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
        ledger.arrived(Some(id(0)), stored(0, 2.0), s(2.0));
        assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(7))), Some(sum(0))), Some(Ending::Mismatched));
        assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 1, mismatched: 1, ..Counts::default() });
    }

    #[test]
    fn what_comes_again_after_a_bad_end_changes_nothing() {
        let mut ledger = closed(2);
        observe(&mut ledger, 0.0, 82.0, None);
        ledger.tick(s(82.0));
        ledger.overdue_answered(id(0), None, s(82.0));
        assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(0))), Some(sum(0))), None);
        ledger.arrived(Some(id(1)), stored(1, 2.0), s(2.0));
        assert_eq!(ledger.came_again(id(1), Copies::None, Some(sum(1))), None);
        assert_eq!((ledger.counts().missing, ledger.counts().republished), (1, 0));
        assert_eq!(ledger.came_again(id(1), Copies::One(None), Some(sum(1))), Some(Ending::Mismatched));
    }

    #[test]
    fn a_final_that_nobody_opened_is_unexpected() {
        let mut ledger = closed(1);
        assert_eq!(ledger.arrived(Some(id(1)), stored(1, 2.0), s(2.0)), Seen::Unexpected);
        assert_eq!(ledger.arrived(Some(StreamId::new([9; 16])), stored(2, 2.0), s(2.0)), Seen::Unexpected);
        assert_eq!(ledger.arrived(None, stored(3, 2.0), s(2.0)), Seen::Unexpected);
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
}
