//! The application that is simulated, and what is expected of it, said once more and simpler.
//!
//! A tale has one to four words, numbered from 1; the last of them ends it, and its digest is put out. Words come again, come late,
//! and are missing, as chunks of streams do.

use crate::application::{Application, Cx, Input, Output, Row, Slot, Undecodable};
use crate::checkpoint::Checkpoint;
use crate::time::{LogTime, UnixNanos};
use crate::transaction::Batch;
use std::collections::BTreeMap;

/// Bytes of a record: tale, number, word. The word 0 ends the tale.
const RECORD: usize = 3;

/// The most that one message moves the log's clock.
const LONGEST_STEP: LogTime = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tales {
    /// How long a tale is remembered after its last word.
    pub expiry: LogTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub number: u8,
    pub digest: u64,
    pub is_over: bool,
    pub is_broken: bool,
    pub at: LogTime,
}

impl Row for Told {
    fn encode(&self, _: &mut Vec<u8>) {
        unreachable!("rows are kept as they are here")
    }

    fn decode(_: &[u8]) -> Option<Self> {
        unreachable!("rows are kept as they are here")
    }
}

/// The end of a tale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub tale: u64,
    pub digest: u64,
}

impl Output for End {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&self.tale.to_string());
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.digest.to_le_bytes());
    }
}

pub struct Word {
    tale: u64,
    number: u8,
    word: u8,
}

fn told_on(digest: u64, word: u8) -> u64 {
    digest.wrapping_mul(0x100_0000_01b3) ^ u64::from(word)
}

impl Application for Tales {
    const NAME: &'static str = "tales";
    const INPUT: Input = Input::Own;

    type Key = u64;
    type Row = Told;
    type Record<'a> = Word;
    type Output = End;
    type Reason = &'static str;
    type Tally = ();

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<Word, Undecodable>> {
        payload.chunks(RECORD).enumerate().map(|(index, record)| match *record {
            [tale, number, word] if number > 0 => Ok(Word { tale: u64::from(tale), number, word }),
            _ => Err(Undecodable { index, what: "no word" }),
        })
    }

    fn key<'r>(&self, record: &'r Word) -> &'r u64 {
        &record.tale
    }

    fn fold(&self, slot: Slot<'_, Told>, record: &Word, cx: &mut Cx<'_, Self>) -> Result<(), &'static str> {
        let Word { tale, number, word } = *record;
        let before = match slot.get() {
            None if number > 1 => return Err("unknown"),
            None => Told { number: 0, digest: 0, is_over: false, is_broken: false, at: 0 },
            Some(row) => *row,
        };
        if before.is_broken {
            return Err("broken");
        }
        if number <= before.number {
            return Ok(());
        }
        if before.is_over {
            return Err("after-end");
        }
        if number > before.number + 1 {
            slot.set(Told { is_broken: true, at: cx.now, ..before });
            return Err("gap");
        }
        let digest = told_on(before.digest, word);
        slot.set(Told { number, digest, is_over: word == 0, is_broken: false, at: cx.now });
        if word == 0 {
            cx.put_out(End { tale, digest });
        }
        Ok(())
    }

    fn longest_step(&self) -> LogTime {
        LONGEST_STEP
    }

    fn is_expired(&self, row: &Told, now: LogTime) -> bool {
        now - row.at > self.expiry
    }

    fn was_put_out(&self, tale: &u64, row: &Told) -> Option<(End, LogTime)> {
        (row.is_over && !row.is_broken).then_some((End { tale: *tale, digest: row.digest }, row.at))
    }

    fn is_live(&self, row: &Told) -> bool {
        !row.is_over
    }
}

/// How many words a tale has.
fn words(tale: u8) -> u8 {
    1 + tale % 4
}

fn word(tale: u8, number: u8) -> u8 {
    if number == words(tale) { 0 } else { tale.wrapping_mul(7).wrapping_add(number) | 1 }
}

/// What the end of a tale is, however it was sent.
pub fn truth(tale: u64) -> u64 {
    let tale = u8::try_from(tale).expect("a byte");
    (1..=words(tale)).fold(0, |digest, number| told_on(digest, word(tale, number)))
}

/// The batches of a log of so many tales, several of them at a time, with so many records in one.
pub fn batches(tales: u8, at_once: u8, records: usize) -> Vec<Vec<u8>> {
    let mut all: Vec<[u8; RECORD]> = Vec::new();
    for from in (0..tales).step_by(usize::from(at_once.max(1))) {
        let some = from..tales.min(from.saturating_add(at_once.max(1)));
        for number in 1..=4 {
            all.extend(
                some.clone().filter(|tale| number <= words(*tale)).map(|tale| [tale, number, word(tale, number)]),
            );
        }
    }
    all.chunks(records.max(1)).map(|records| records.concat()).collect()
}

/// What a store must hold, by a fold that has nothing of the table's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    pub rows: BTreeMap<u64, Told>,
    pub log_time: LogTime,
    message_time: UnixNanos,
}

/// What a batch must ask for.
#[derive(Debug, Default, PartialEq)]
pub struct Asks {
    pub ends: Vec<End>,
    pub is_rejected: bool,
}

impl Expected {
    /// Goes on as a store does that has accepted a loss, or has begun.
    pub fn at(&mut self, checkpoint: &Checkpoint) {
        (self.message_time, self.log_time) = (checkpoint.message_time, checkpoint.log_time);
    }

    pub fn fold(&mut self, tales: &Tales, batch: &Batch, refolds_through: u64) -> Asks {
        if self.message_time != 0 && batch.position > refolds_through {
            self.log_time += (batch.time - self.message_time).clamp(0, LONGEST_STEP);
        }
        self.message_time = batch.time;
        let mut asks = Asks::default();
        let payload = &batch.payload;
        if !payload.len().is_multiple_of(RECORD) || payload.chunks_exact(RECORD).any(|record| record[1] == 0) {
            asks.is_rejected = true;
            return asks;
        }
        for record in payload.chunks_exact(RECORD) {
            let (tale, number, word) = (u64::from(record[0]), record[1], record[2]);
            let row = self.rows.get(&tale).filter(|row| self.log_time - row.at <= tales.expiry);
            let before = row.copied();
            let last = before.map_or(0, |row| row.number);
            let (is_broken, is_over) = before.map_or((false, false), |row| (row.is_broken, row.is_over));
            if is_broken || is_over && number > last || before.is_none() && number > 1 {
                asks.is_rejected = true;
            } else if number > last + 1 {
                asks.is_rejected = true;
                let row = before.expect("it has a row");
                self.rows.insert(tale, Told { is_broken: true, at: self.log_time, ..row });
            } else if number == last + 1 {
                let digest = told_on(before.map_or(0, |row| row.digest), word);
                let is_over = word == 0;
                self.rows.insert(tale, Told { number, digest, is_over, is_broken: false, at: self.log_time });
                if is_over {
                    asks.ends.push(End { tale, digest });
                }
            }
        }
        asks
    }

    /// Says how rows differ, but for those that are forgotten.
    pub fn differs(&self, tales: &Tales, rows: &BTreeMap<u64, Told>) -> Option<String> {
        let counts = |(_, row): &(&u64, &Told)| self.log_time - row.at <= tales.expiry;
        let (expected, found) = (self.rows.iter().filter(counts), rows.iter().filter(counts));
        (!expected.clone().eq(found.clone()))
            .then(|| format!("{:?} instead of {:?}", found.collect::<Vec<_>>(), expected.collect::<Vec<_>>()))
    }
}
