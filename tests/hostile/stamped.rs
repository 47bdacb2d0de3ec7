//! Stamped batches: headers that are no stamps, and stamps that lie.

use crate::dice::{Dice, messages};
use crate::producers::{Last, Letters, judge, stamp};
use jetfold::{Batch, Checkpoint, STAMP, Share, Stamp, Table};
use std::collections::HashMap;
use std::sync::Arc;

/// The text of a header: a stamp that follows on what is known, or something like one.
fn header(dice: &mut Dice, known: &HashMap<String, Last>) -> Option<String> {
    const EDGES: [&str; 12] =
        ["", "0", "1", "-1", "+1", "01", "1.0", "1e3", "18446744073709551615", "18446744073709551616", "٣", " 1"];
    let name = match dice.below(12) {
        0 => hex::encode(dice.bytes(32)),
        1 => format!("{}x", hex::encode(dice.bytes(32))),
        2 => String::from_utf8_lossy(&dice.bytes(9)).into_owned(),
        3 => dice.of_these(&["", "*", ">", "a.b", "\u{1b}[31m", "a\tb", "ä", "\0", "%s"]).to_owned(),
        n => format!("shop-{}", n % 5),
    };
    let last = known.get(&name).copied().unwrap_or(Last { life: 1, number: 0, offset: 0, contested: false });
    let near = |dice: &mut Dice, number: u64| match dice.below(8) {
        0 => number.wrapping_sub(1),
        1 => number.wrapping_add(2),
        2 => dice.any(),
        3 => dice.of_these(&[0, 1, u64::MAX]),
        _ => number,
    };
    // A life that can't rise any more would leave nothing to try.
    let life = if dice.one_in(6) { last.life.wrapping_add(dice.below(3) as u64).wrapping_sub(1) } else { last.life };
    let number = near(dice, last.number.wrapping_add(1));
    let offset = if dice.one_in(4) { near(dice, last.offset) } else { last.offset.wrapping_add(3) };
    let mut text = format!("{name} {life} {number} {offset}");
    match dice.below(16) {
        0 => return None,
        1 => text.truncate(text.char_indices().map(|(at, _)| at).nth(dice.below(text.len())).unwrap_or(0)),
        2 => text.push_str(dice.of_these(&[" ", " 1", "\r\n", "\0", " x"])),
        3 => text = text.replacen(' ', dice.of_these(&["  ", "\t", "", "\u{a0}"]), 1),
        4 | 5 => {
            let at = dice.below(3) + 1;
            let mut parts: Vec<_> = text.split(' ').map(str::to_owned).collect();
            if let Some(part) = parts.get_mut(at) {
                *part = dice.of_these(&EDGES).to_owned();
            }
            text = parts.join(" ");
        }
        6 => {
            let mut bytes = text.into_bytes();
            let at = dice.below(bytes.len());
            bytes[at] = dice.byte();
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        7 if dice.one_in(16) => text = format!("{} 1 1 1", "x".repeat(1 << 16)),
        _ => {}
    }
    Some(text)
}

#[test]
fn stamps_that_lie_and_headers_that_are_none_are_judged_as_the_documentation_says() {
    assert_eq!(STAMP, "Jetfold-Stamp");
    let mut dice = Dice::of(5);
    let mut known = HashMap::new();
    let share = Share { partition: 0, partitions: 1 };
    let mut table = Table::new(Arc::new(Letters), share, u64::MAX, Checkpoint::start_of(1));
    let mut fates: HashMap<&str, u64> = HashMap::new();
    let mut folded_records = 0;
    for position in 1..=messages(200_000) {
        let text = header(&mut dice, &known);
        dice.is_sent(text.as_deref().unwrap_or_default().as_bytes());
        let parsed = text.as_deref().and_then(|text| text.parse::<Stamp>().ok());
        let expected = text.as_deref().and_then(stamp);
        let as_parsed = parsed.as_ref().map(|stamp| (stamp.producer.clone(), [stamp.life, stamp.number, stamp.offset]));
        assert_eq!(as_parsed, expected, "{text:?}");

        let len = dice.below(6);
        let mut letters = dice.bytes(len);
        letters.iter_mut().for_each(|letter| *letter &= if dice.one_in(16) { 0xff } else { 0x7f });
        let undecodable = letters.iter().position(|letter| *letter > 127);
        let records = if undecodable.is_some() { 0 } else { letters.len() };
        let batch = Batch { position, time: 1, payload: letters.into(), stamp: parsed };
        let staged = table.stage(&batch.payload);
        let folded = table.fold(&batch, staged);

        let fate = judge(&mut known, expected.as_ref());
        *fates.entry(fate).or_default() += 1;
        let rejected = match fate {
            "again" => None,
            "folded" => undecodable.map(|index| format!("{index} undecodable")),
            reason if records > 1 => Some(format!("0-{} {reason}", records - 1)),
            reason => Some(format!("0 {reason}")),
        };
        let found = folded.rejected.as_ref().map(|rejected| rejected.rejections.describe(4 << 10));
        assert_eq!(found, rejected, "{text:?}");
        let counted = if fate == "again" { 0 } else { records as u64 };
        assert_eq!((folded.tally.records, folded.tally.again), (counted, u64::from(fate == "again")), "{text:?}");
        assert_eq!(folded.loss.is_some(), ["producer-gap", "overlapping"].contains(&fate), "{text:?}");
        assert!(folded.loss.is_none_or(|loss| loss.len() < 1 << 10), "what is said of a loss is bounded");
        folded_records += if fate == "folded" { records as u64 } else { 0 };
    }
    assert_eq!(fates.len(), 8 - 1, "each fate but that of one producer too many: {fates:?}");
    let rows = table.seal(0, &[]).expect("batches were folded").rows;
    assert_eq!(rows.iter().map(|(_, times)| times).sum::<u64>(), folded_records);
    println!("{} headers: {fates:?}", messages(200_000));
}
