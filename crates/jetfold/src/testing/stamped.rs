//! What holds for every log of stamped batches.

use super::restart_points;
use crate::producer::{Fate, Producer};
use crate::sample::{EXPIRY, Letters, batch};
use crate::stamp::Stamp;
use crate::transaction::Batch;
use proptest::collection::vec;
use proptest::prelude::*;

/// What a producer sends next, seen from the last batch that it has sent.
#[derive(Clone, Copy, Debug)]
enum Sends {
    Next,
    /// The one of so many before.
    Again(u64),
    /// So many are left out.
    Gap(u64),
    /// The next one of a later life, or one of so many before.
    LaterLife(u64),
    EarlierLife,
    FromTheStart,
    Unstamped,
}

fn sends() -> impl Strategy<Value = Sends> {
    prop_oneof![
        8 => Just(Sends::Next),
        2 => (0..3u64).prop_map(Sends::Again),
        1 => (1..3u64).prop_map(Sends::Gap),
        2 => (0..3u64).prop_map(Sends::LaterLife),
        1 => Just(Sends::EarlierLife),
        1 => Just(Sends::FromTheStart),
        1 => Just(Sends::Unstamped),
    ]
}

/// Any log at all: what three producers send, of letters, others and junk, and time that steps back and far ahead.
fn any_log() -> impl Strategy<Value = Vec<Batch>> {
    let letter = prop_oneof![20 => b'a'..b'e', 2 => Just(b'?'), 1 => Just(0xff)];
    let step = prop_oneof![12 => -5..20i64, 1 => EXPIRY - 20..EXPIRY + 20];
    vec((0..3usize, sends(), vec(letter, 0..5), step), 1..24).prop_map(|sent| {
        let mut lasts = [(1, 0); 3];
        let mut time = 1_000;
        let numbered = sent.into_iter().zip(1..).map(|((producer, sends, letters, step), position)| {
            time += step;
            let (life, number): (u64, u64) = lasts[producer];
            let (life, number) = match sends {
                Sends::Next => (life, number + 1),
                Sends::Again(before) => (life, number.saturating_sub(before)),
                Sends::Gap(more) => (life, number + 1 + more),
                Sends::LaterLife(before) => (life + 1, (number + 1).saturating_sub(before)),
                Sends::EarlierLife => (life - 1, number + 1),
                Sends::FromTheStart => (life, 1),
                Sends::Unstamped => return batch(position, time, None, &letters),
            };
            lasts[producer] = (life.max(1), number.max(1));
            let stamp = (["a", "b", "c"][producer], life, number.max(1), number);
            batch(position, time, Some(stamp), &letters)
        });
        numbered.collect()
    })
}

/// What happens to a producer that keeps to the log's end, and to the log.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// A batch of so many records is sent behind the one that its process has seen last.
    Sent(u64),
    /// The last batch of its process is sent again.
    SentAgain,
    /// Another process goes on behind the log's end.
    Restarted,
    /// The log loses so many batches at its end, after they were folded.
    Lost(usize),
    /// A process that was paused wakes, and the one that has run is paused.
    Woken,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => (1..6u64).prop_map(Happens::Sent),
        2 => Just(Happens::SentAgain),
        2 => Just(Happens::Restarted),
        2 => (1..4usize).prop_map(Happens::Lost),
        1 => Just(Happens::Woken),
    ]
}

/// Where a process of the producer stands.
#[derive(Clone, Debug)]
struct Process {
    life: u64,
    /// The last batch that it knows to be in the log, or has found there.
    behind: Option<Stamp>,
    /// What it has sent last: what it was behind, and the batch.
    sent: Option<(Option<Stamp>, Stamp)>,
}

impl Process {
    fn at_the_end_of(log: &[Stamp]) -> Self {
        let behind = log.last().cloned();
        Self { life: behind.as_ref().map_or(0, |last| last.life) + 1, behind, sent: None }
    }

    fn next(&self, records: u64) -> Stamp {
        let (number, offset) = self.behind.as_ref().map_or((0, 0), |last| (last.number, last.offset));
        Stamp { producer: "p".to_owned(), life: self.life, number: number + 1, offset: offset + records }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_restart_point_gives_the_same_store(log in any_log()) {
        prop_assert_eq!(restart_points(Letters, &log), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// Records are numbered by offset, and whatever a log loses, those that are folded are 1, 2, 3 and so on.
    #[test]
    fn whatever_a_log_loses_no_record_of_a_producer_is_folded_twice_or_out_of_order(
        happens in vec(happens(), 1..24),
    ) {
        let mut log: Vec<Stamp> = Vec::new();
        let mut row: Option<Producer> = None;
        let (mut running, mut paused) = (Process::at_the_end_of(&log), Process::at_the_end_of(&log));
        for happened in happens {
            let (behind, stamp) = match happened {
                Happens::Restarted => {
                    running = Process::at_the_end_of(&log);
                    continue;
                }
                Happens::Lost(batches) => {
                    log.truncate(log.len().saturating_sub(batches));
                    continue;
                }
                Happens::Woken => {
                    std::mem::swap(&mut running, &mut paused);
                    continue;
                }
                Happens::Sent(records) => (running.behind.clone(), running.next(records)),
                Happens::SentAgain => match &running.sent {
                    Some(sent) => sent.clone(),
                    None => continue,
                },
            };
            running.sent = Some((behind.clone(), stamp.clone()));
            // The server takes a batch only behind the one that its sender has seen last.
            if log.last() != behind.as_ref() {
                continue;
            }
            running.behind = Some(stamp.clone());
            log.push(stamp.clone());
            let folded_to = row.map_or(0, |row| row.offset);
            let starts_behind = behind.map_or(0, |last| last.offset);
            let fate = match &row {
                None => { prop_assert_eq!(stamp.number, 1); Fate::Next }
                Some(row) => row.judge(&stamp),
            };
            match fate {
                Fate::Next => {
                    prop_assert_eq!(starts_behind, folded_to, "{:?}", stamp);
                    row = Some(Producer::after(&stamp, 0));
                }
                Fate::Again => prop_assert!(stamp.offset <= folded_to, "{stamp:?} is dropped, and {folded_to} is folded"),
                Fate::Refused(_) => {
                    let known = row.as_mut().expect("what is not known is folded or numbered from 1");
                    known.contested |= known.is_contested_by(&stamp);
                }
            }
        }
    }
}
