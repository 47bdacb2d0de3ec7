//! The threads of the chunker that make chunks: of streams that take turns, for lanes that have room, by a schedule or as fast
//! as it goes.

use crate::run::interleaved::{Interleaved, Turn};
use crate::run::lanes::{Closed, LaneEntries};
use crate::run::ledger::Ledger;
use crate::run::lock;
use crate::run::outbox::Outbox;
use crate::run::presence::Moment;
use crate::run::schedule::Schedule;
use crate::run::unopened::Drawn;
use crate::run::workload::Workload;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Closed streams whose finals have not come: with more, no stream is opened, which bounds the ledger's memory.
const MOST_AWAITED: usize = 500_000;

/// Chunks that a generator makes before it tells the ledger.
const MOST_UNREPORTED: u64 = 256;

/// Chunks that a generator makes before it hands in what it holds back, and looks whether to go on.
const MOST_HELD_BACK: u64 = 1024;

/// By a schedule, chunks that close no stream are held back so long at the most.
const LONGEST_HELD_BACK: Duration = Duration::from_millis(20);

/// By a schedule, chunks that close no stream are made so early at the most: a thread wakes up for each closing chunk, whose
/// final somebody waits for, and makes many others meanwhile.
const MOST_EARLY: Duration = Duration::from_millis(1);

/// Waking up for every single chunk would take a core at some rates.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// A thread that waits looks so often, at the least, whether to go on.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Turns between two looks for streams to open, where none was found: partitions that take some are rare then.
const MOST_VAIN_TURNS: u64 = 64;

/// Chunks handed over that the ledger was not told of yet.
#[derive(Default)]
struct Made {
    chunks: u64,
    bytes: u64,
}

impl Made {
    fn report(&mut self, ledger: &mut Ledger) {
        ledger.produced(std::mem::take(&mut self.chunks), std::mem::take(&mut self.bytes));
    }
}

/// What the generator threads of one run share.
pub struct Generation {
    pub workload: Workload,
    pub live_streams: usize,
    pub schedule: Schedule,
    pub began: Instant,
    pub ledger: Arc<Mutex<Ledger>>,
    pub entries: LaneEntries,
    pub stop: CancellationToken,
}

impl Generation {
    /// One generator thread: until all streams are closed, or the run ends.
    pub fn generate(&self, worker: u64) {
        let mut made = Made::default();
        self.make(worker, &mut made);
        made.report(&mut lock(&self.ledger));
    }

    fn make(&self, worker: u64, made: &mut Made) {
        let mut streams = Interleaved::new(self.workload, self.entries.partitions(), worker);
        let mut outbox = Outbox::new(self.entries.clone(), self.workload.chunk_bytes);
        // Where the run has ended, nobody takes it; where this thread ends, what it has made must be sent.
        self.fill(&mut streams, &mut outbox, made).or_else(|Closed| outbox.flush()).ok();
    }

    /// Until all streams are closed and handed in.
    fn fill(&self, streams: &mut Interleaved, outbox: &mut Outbox, made: &mut Made) -> Result<(), Closed> {
        let (mut all_opened, mut found_none) = (false, false);
        let mut flushed = self.began.elapsed();
        for turn in 0u64.. {
            if turn.is_multiple_of(MOST_HELD_BACK) {
                outbox.hand_in_all()?;
                self.go_on()?;
            }
            outbox.try_again()?;
            for partition in outbox.freed() {
                streams.unpark(partition);
                outbox.tell_waiting(partition, 0);
            }
            if !all_opened && (!found_none || streams.live() == 0 || turn.is_multiple_of(MOST_VAIN_TURNS)) {
                let drawn = self.open_streams(streams, outbox)?;
                (all_opened, found_none) = (drawn == Some(Drawn::Never), drawn == Some(Drawn::Later));
            }
            if streams.live() == 0 {
                if all_opened && streams.open_streams() == 0 {
                    break;
                }
                if streams.has_parked() {
                    self.wait_for_room(outbox)?;
                }
                continue;
            }
            let due = self.schedule.due();
            let Turn { partition, chunk, sum } = streams.next_chunk().expect("a stream takes turns");
            if let Some(due) = due {
                self.wait_for(due, chunk.closes(), outbox, &mut flushed)?;
            }
            made.chunks += 1;
            made.bytes += chunk.data.len() as u64;
            if sum.is_some() || made.chunks >= MOST_UNREPORTED {
                let mut ledger = lock(&self.ledger);
                made.report(&mut ledger);
                // Before it can be sent: its final must find the stream closed.
                if let Some(sum) = sum {
                    ledger.close(sum, due.unwrap_or_else(|| self.began.elapsed()));
                }
            }
            let closes = chunk.closes();
            outbox.push(partition, &chunk);
            // By a schedule, somebody waits for the final. As fast as it goes, every lane has more than it can send.
            if closes && due.is_some() {
                outbox.hand_in(partition)?;
            }
            if !outbox.has_room(partition)? {
                streams.park(partition);
                outbox.tell_waiting(partition, streams.parked_streams(partition).unwrap_or(0));
            }
        }
        outbox.flush()
    }

    /// Opens as many streams as are to be open at once. What the last draw has come to, where that was not a stream.
    fn open_streams(&self, streams: &mut Interleaved, outbox: &mut Outbox) -> Result<Option<Drawn>, Closed> {
        while self.takes_more(streams) {
            let mut ledger = lock(&self.ledger);
            if ledger.awaited() >= MOST_AWAITED {
                drop(ledger);
                self.wait_for_finals(outbox)?;
                ledger = lock(&self.ledger);
            }
            match ledger.open_next(|partition| self.takes(streams.parked_streams(partition))) {
                Drawn::Stream(id) => {
                    drop(ledger);
                    let partition = streams.open(id);
                    if let Some(parked) = streams.parked_streams(partition) {
                        outbox.tell_waiting(partition, parked);
                    }
                }
                none => return Ok(Some(none)),
            }
        }
        Ok(None)
    }

    /// Whether one more stream is to be open. Those that are parked count, but leave half of the places to others.
    fn takes_more(&self, streams: &Interleaved) -> bool {
        let has_place = streams.open_streams() < self.live_streams || streams.live() < self.live_streams.div_ceil(2);
        has_place && !streams.all_parked()
    }

    /// Whether a stream may be opened of a partition with so many parked ones; `None`: it is not parked. One that stands
    /// still may have twice its share of places, which a full lane of a healthy run does not reach.
    fn takes(&self, parked: Option<usize>) -> bool {
        let most = 2 * self.live_streams / self.entries.partitions() as usize;
        parked.is_none_or(|parked| parked < most.max(1))
    }

    /// Waits until a chunk may be handed in: one that closes a stream when it is due, others a little earlier too. What
    /// has come together since `flushed` may wait for company a little longer: a message for each chunk would cost the
    /// server more than the chunks do.
    fn wait_for(&self, due: Moment, closes: bool, outbox: &mut Outbox, flushed: &mut Moment) -> Result<(), Closed> {
        let most_early = if closes { Duration::ZERO } else { MOST_EARLY };
        loop {
            let now = self.began.elapsed();
            if due.max(now) >= *flushed + LONGEST_HELD_BACK {
                outbox.hand_in_all()?;
                *flushed = now;
            }
            outbox.try_again()?;
            let early = due.saturating_sub(now);
            if early <= most_early {
                return Ok(());
            }
            self.pause(early.max(SHORTEST_PAUSE), outbox)?;
        }
    }

    /// Holds up new streams while too many finals are awaited.
    fn wait_for_finals(&self, outbox: &mut Outbox) -> Result<(), Closed> {
        outbox.hand_in_all()?;
        while lock(&self.ledger).awaited() >= MOST_AWAITED {
            self.pause(Duration::from_millis(5), outbox)?;
            outbox.try_again()?;
        }
        Ok(())
    }

    /// Nothing takes turns: hands in what others have left behind, and waits until a lane has room.
    fn wait_for_room(&self, outbox: &mut Outbox) -> Result<(), Closed> {
        outbox.hand_in_all()?;
        self.pause(LONGEST_PAUSE, outbox)
    }

    /// Waits, but never long enough to hold up a stop, and no longer than until a lane has room for what it had none for.
    fn pause(&self, duration: Duration, outbox: &Outbox) -> Result<(), Closed> {
        self.go_on()?;
        outbox.wait(duration.min(LONGEST_PAUSE));
        Ok(())
    }

    fn go_on(&self) -> Result<(), Closed> {
        if self.stop.is_cancelled() { Err(Closed) } else { Ok(()) }
    }
}
