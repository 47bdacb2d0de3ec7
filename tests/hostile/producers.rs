//! An application whose batches are stamped, and what is to become of them, in the words of the documentation.

use jetfold::{Application, Cx, Never, Slot, Undecodable};
use std::collections::HashMap;

/// A record is one byte below 128, and its row counts it.
#[derive(Clone)]
pub struct Letters;

impl Application for Letters {
    const NAME: &'static str = "letters";

    type Key = u64;
    type Row = u64;
    type Record<'a> = u64;
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<u64, Undecodable>> {
        payload.iter().enumerate().map(|(index, byte)| match byte {
            0..128 => Ok(u64::from(*byte)),
            _ => Err(Undecodable { index, what: "no letter" }),
        })
    }

    fn key<'r>(&self, letter: &'r u64) -> &'r u64 {
        letter
    }

    fn fold(&self, slot: Slot<'_, u64>, _: &u64, _: &mut Cx<'_, Self>) -> Result<(), Never> {
        let before = slot.get().copied().unwrap_or(0);
        slot.set(before + 1);
        Ok(())
    }
}

/// A stamp by the words of its documentation: a name and three numbers, one space between each, the second of them from 1.
pub fn stamp(text: &str) -> Option<(String, [u64; 3])> {
    let parts: Vec<_> = text.split(' ').collect();
    let [name, numbers @ ..] = <[&str; 4]>::try_from(parts).ok()?;
    let number = |digits: &str| {
        let sound = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .bytes()
            .filter(|_| sound)
            .try_fold(0, |number: u64, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|_| sound)
    };
    let numbers = [number(numbers[0])?, number(numbers[1])?, number(numbers[2])?];
    ((1..=64).contains(&name.len()) && numbers[1] > 0).then(|| (name.to_owned(), numbers))
}

/// What is known of a producer: life, number, offset, and whether two batches bear its last number.
#[derive(Clone, Copy)]
pub struct Last {
    pub life: u64,
    pub number: u64,
    pub offset: u64,
    pub contested: bool,
}

/// What becomes of a batch, by the table in the documentation.
pub fn judge(known: &mut HashMap<String, Last>, stamp: Option<&(String, [u64; 3])>) -> &'static str {
    let Some((name, [life, number, offset])) = stamp else { return "unstamped" };
    let (life, number, offset) = (*life, *number, *offset);
    let next = Last { life, number, offset, contested: false };
    let Some(last) = known.get_mut(name) else {
        return match number {
            1 if known.len() == 65_536 => "too-many-producers",
            1 => {
                known.insert(name.clone(), next);
                "folded"
            }
            _ => "unknown-producer",
        };
    };
    let is_possible = if number == last.number { offset == last.offset } else { offset <= last.offset };
    let fate = if life < last.life {
        "fenced"
    } else if number <= last.number && life == last.life && is_possible {
        return "again";
    } else if number <= last.number {
        "overlapping"
    } else if number - last.number > 1 {
        "producer-gap"
    } else if last.contested {
        "overlapping"
    } else {
        *last = next;
        return "folded";
    };
    last.contested |= number == last.number;
    fate
}
