//! Applications that are no folds, each found out.

use crate::application::{Cx, Input, Slot, Undecodable};
use crate::sample::Letters;
use crate::testing::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds up bytes by their last bit, and puts out each sum. It fails as it is told to.
#[derive(Clone, Default)]
struct Sums {
    fault: Option<Fault>,
    calls: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// An earlier call changes what is folded.
    CountsCalls,
    /// An earlier call changes what is put out, and no row.
    PutsOutCalls,
    /// An earlier call changes a row, and no output.
    KeepsCalls,
    /// What is refused depends on whether a forgotten row is still there.
    ShowsForgotten,
    /// Rows are decoded as others than were encoded.
    LosesBits,
    TalliesCalls,
}

#[derive(Clone, Debug, PartialEq)]
struct Sum(u64, LogTime);

impl crate::application::Row for Sum {
    fn encode(&self, out: &mut Vec<u8>) {
        // What is beyond a million is lost.
        out.extend_from_slice(&(self.0 % 1_000_000).to_le_bytes());
        out.extend_from_slice(&self.1.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, at) = bytes.split_first_chunk()?;
        Some(Self(u64::from_le_bytes(*sum), LogTime::from_le_bytes(at.try_into().ok()?)))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Said {
    position: Position,
    byte: u64,
    sum: u64,
}

impl Output for Said {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&format!("{}.{}", self.position, self.byte));
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(self.sum.to_string().as_bytes());
    }
}

impl crate::application::Tally for u64 {
    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

impl Application for Sums {
    const NAME: &'static str = "sums";
    const INPUT: Input = Input::Own;

    type Key = u64;
    type Row = Sum;
    type Record<'a> = (u64, u64);
    type Output = Said;
    type Reason = &'static str;
    type Tally = u64;

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<(u64, u64), Undecodable>> {
        payload.iter().map(|byte| Ok((u64::from(byte % 2), u64::from(*byte))))
    }

    fn key<'r>(&self, record: &'r (u64, u64)) -> &'r u64 {
        &record.0
    }

    fn fold(&self, slot: Slot<'_, Sum>, record: &(u64, u64), cx: &mut Cx<'_, Self>) -> Result<(), &'static str> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fault == Some(Fault::ShowsForgotten) && slot.expired().is_some() {
            return Err("expired");
        }
        let mut sum = slot.get().map_or(0, |sum| sum.0) + record.1;
        match self.fault {
            Some(Fault::CountsCalls) if calls == 30 => sum += 1,
            Some(Fault::LosesBits) if record.1 == 7 => sum += 1_000_000,
            Some(Fault::TalliesCalls) => *cx.tally += calls,
            _ => {}
        }
        let said = if self.fault == Some(Fault::PutsOutCalls) { calls } else { sum };
        cx.put_out(Said { position: cx.position, byte: record.1, sum: said });
        let at = if self.fault == Some(Fault::KeepsCalls) { cx.now + (calls % 7).cast_signed() } else { cx.now };
        slot.set(Sum(sum, at));
        Ok(())
    }

    fn is_expired(&self, row: &Sum, now: LogTime) -> bool {
        now - row.1 > 25
    }
}

/// Twelve batches, of which the sixth comes after everything before it is forgotten.
fn log() -> Vec<Batch> {
    let batch = |position: u64| {
        let time = 10 * position.cast_signed() + if position < 6 { 0 } else { 50 };
        let payload = vec![2 * position as u8, 5, 7];
        Batch { position, time, payload: payload.into(), stamp: None }
    };
    (1..=12).map(batch).collect()
}

/// Sees that a fault is found out, with these words.
fn found_out(fault: Fault, words: &str) {
    let found = restart_points(Sums { fault: Some(fault), ..Sums::default() }, &log()).unwrap_err();
    assert!(found.contains(words), "{found}");
}

#[test]
fn a_fold_arrives_at_the_same_place_from_any_restart_point() {
    assert_eq!(restart_points(Sums::default(), &log()), Ok(()));
    assert_eq!(restart_points(Sums::default(), &[]), Ok(()));
}

#[test]
fn a_log_of_payloads_is_folded_by_stamped_applications_as_well() {
    let mut log = super::log([&b"aab"[..], b"", b"a"]);
    // Before the producer expires, which letters have it do soon.
    log.iter_mut().for_each(|batch| batch.time /= 1_000_000);
    let letters = Arc::new(Letters);
    let way = Way { restarts: false, interval: None, collects: false };
    let folded = fold_all(&letters, &log, way, &[]).unwrap();
    assert_eq!((folded.rows, folded.tally.rejected), (vec![(b'a'.into(), 3), (b'b'.into(), 1)], 0));
    assert_eq!(restart_points(Letters, &log), Ok(()));
}

#[test]
fn an_application_that_remembers_its_calls_is_found_out() {
    let (found, expected) = ("11.22: 102, 11.5: 65, 11.7: 72", "11.22: 103, 11.5: 65, 11.7: 72");
    let words =
        format!("after each batch: batch 11 asks for outputs [{found}], rejects [] instead of outputs [{expected}]");
    found_out(Fault::CountsCalls, &words);
    found_out(Fault::PutsOutCalls, "batch 1 asks for outputs [1.2: 36");
    found_out(Fault::KeepsCalls, "the row of 0 is Sum(");
    found_out(Fault::TalliesCalls, "the tally is Tally {");
}

#[test]
fn an_application_that_shows_whether_rows_were_collected_is_found_out() {
    let words = "forgotten rows collected: batch 8 asks for outputs [8.16: 16, 8.5: 5, 8.7: 12], rejects [] instead of \
                 outputs [], rejects [0-2 expired]";
    found_out(Fault::ShowsForgotten, words);
}

#[test]
fn rows_that_do_not_come_back_from_their_bytes_are_found_out() {
    found_out(Fault::LosesBits, "batch 2 asks for outputs [2.4: 6, 2.5: 17, 2.7: 1000024]");
}

#[test]
fn batches_that_are_no_log_are_refused() {
    let said = restart_points(Sums::default(), &log()[1..]);
    assert_eq!(said, Err("position 2 stands where 1 belongs: the batches are no log".to_owned()));
}
