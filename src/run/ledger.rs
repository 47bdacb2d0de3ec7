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
//! Of a run that has other lives, streams may be closed by any of them: see `elsewhere`.
//!
//! Time is injected: a [`Moment`] is the time since the run began.

mod elsewhere;

use crate::run::ahead::Ahead;
use crate::run::endings::{Endings, Told};
use crate::run::ladder::{Ladder, Tick};
use crate::run::latency::Latencies;
use crate::run::presence::{Contact, Moment, Presence};
use crate::run::report::{Counts, Report};
use crate::run::unopened::{Drawn, Unopened};
use crate::sum::running::Sum;
use crate::sum::stream_id::StreamId;
use elsewhere::Elsewhere;
use jetfold::MessageMark;
use jetfold::Position;
use jetfold::UnixNanos;
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
    /// Another life of the run has closed the stream: what its sum must be is to be computed.
    Elsewhere(StreamId),
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
    elsewhere: Elsewhere,
    awaited: HashMap<StreamId, Awaited>,
    /// By the batches that hold the closing chunks.
    doubts: HashMap<BatchPlace, Vec<Doubt>>,
    /// Streams that ended other than verified.
    badly: HashMap<StreamId, Ending>,
    ahead: Ahead,
    unopened: Unopened,
    ladder: Ladder,
    latencies: Latencies,
    endings: Endings,
}

impl Ledger {
    /// Of a run with these streams.
    pub fn new(unopened: Unopened, deadline: Duration) -> Self {
        Self {
            deadline,
            presence: Presence::default(),
            counts: Counts::default(),
            open: HashSet::new(),
            elsewhere: Elsewhere::default(),
            awaited: HashMap::new(),
            doubts: HashMap::new(),
            badly: HashMap::new(),
            ahead: Ahead::default(),
            unopened,
            ladder: Ladder::new(deadline),
            latencies: Latencies::default(),
            endings: Endings::default(),
        }
    }

    /// The same, and each ending is told.
    pub fn telling(self, endings: Endings) -> Self {
        Self { endings, ..self }
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
        self.open.is_empty() && self.awaited.is_empty() && self.elsewhere.is_judged()
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
        if let Some(id) = id.filter(|id| self.is_elsewhere(*id)) {
            return Seen::Elsewhere(id);
        }
        let Some(id) = id.filter(|id| self.unopened.is_opened(*id)) else {
            self.counts.unexpected += u64::from(!jetfold::planted!("what-nobody-has-opened-is-not-counted"));
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
        if found.sum != Some(awaited.expected) && !jetfold::planted!("a-wrong-final-is-verified") {
            return self.ended(id, Ending::Mismatched);
        }
        let took = at.saturating_sub(awaited.scheduled);
        self.latencies.record(at, took);
        self.endings.tell(Told::Came { at, took });
        let first_sent = awaited.first_sent.unwrap_or(at);
        if self.presence.connected(first_sent, at) <= self.deadline || jetfold::planted!("no-final-is-ever-late") {
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
                Some(closing)
                    if stored.saturating_sub(closing) > deadline
                        && !jetfold::planted!("servers-stamps-do-not-count") =>
                {
                    Ending::Late
                }
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
            Copies::Several if jetfold::planted!("a-second-final-is-not-seen") => return None,
            Copies::Several => Ending::Duplicate,
            Copies::One(found) if found.is_none() || expected.is_some() && found != expected => Ending::Mismatched,
            Copies::One(_) => {
                self.counts.republished += 1;
                return None;
            }
            // Forgotten again, or expired since.
            Copies::None => return None,
        };
        if self.awaited.remove(&id).is_none() && !self.elsewhere.forget(id) {
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
        if self.presence.present(since, now) < self.deadline.saturating_mul(2)
            && !jetfold::planted!("absences-count-against-streams")
        {
            // The run was away, as has turned out since.
            awaited.asked = Asked::Nothing;
            self.ladder.go_on(since, id);
            return None;
        }
        let ending = if jetfold::planted!("what-is-missing-is-verified") { Ending::Verified } else { Ending::Missing };
        Some(self.ended(id, ending))
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
        let unfinished =
            self.counts.unfinished + (self.open.len() + self.awaited.len() + self.elsewhere.unjudged()) as u64;
        Report {
            counts: Counts { unfinished, ..self.counts },
            elapsed_s: elapsed.as_secs_f64(),
            away_s: self.presence.away().as_secs_f64(),
            awaited: self.awaited.len() as u64,
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
        if ending != Ending::Verified {
            self.endings.tell(Told::Badly(ending));
        }
        if ending != Ending::Verified && self.badly.len() < MOST_REMEMBERED {
            self.badly.insert(id, ending);
        }
    }
}

#[cfg(test)]
mod tests;
