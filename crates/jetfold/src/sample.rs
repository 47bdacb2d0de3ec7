//! Applications for tests.

use crate::application::{Application, Cx, Input, Never, Output, Row, Slot, Undecodable};
use crate::stamp::Stamp;
use crate::time::LogTime;
use crate::transaction::Batch;

/// Batches are stamped. A record is one byte, which is its key. Every third time it is told how often that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters;

/// How long a producer is remembered.
pub const EXPIRY: LogTime = 100;

/// A letter, in the upper half, and how often it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said(pub u64);

impl Said {
    pub fn of(letter: u64, times: u64) -> Self {
        Self(letter << 32 | times)
    }
}

impl Output for Said {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&self.0.to_string());
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.0.to_le_bytes());
    }
}

impl Application for Letters {
    const NAME: &'static str = "letters";

    type Key = u64;
    type Row = u64;
    type Record<'a> = u64;
    type Output = Said;
    type Reason = &'static str;
    type Tally = ();

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<u64, Undecodable>> {
        let record = |(index, byte): (usize, &u8)| match byte {
            0..128 => Ok(u64::from(*byte)),
            _ => Err(Undecodable { index, what: "no letter" }),
        };
        payload.iter().enumerate().map(record)
    }

    fn key<'r>(&self, letter: &'r u64) -> &'r u64 {
        letter
    }

    fn fold(&self, slot: Slot<'_, u64>, letter: &u64, cx: &mut Cx<'_, Self>) -> Result<(), &'static str> {
        if *letter == u64::from(b'?') {
            return Err("no letter");
        }
        let times = slot.get().unwrap_or(&0) + 1;
        slot.set(times);
        if times.is_multiple_of(3) {
            cx.put_out(Said::of(*letter, times));
        }
        Ok(())
    }

    fn producer_expiry(&self) -> LogTime {
        EXPIRY
    }

    /// Producers expire by one message.
    fn longest_step(&self) -> LogTime {
        LogTime::MAX
    }
}

/// A batch of letters, stamped with a name, life, number and offset.
pub fn batch(position: u64, time: i64, stamp: Option<(&str, u64, u64, u64)>, letters: &[u8]) -> Batch {
    let stamp = stamp.map(|(name, life, number, offset)| Stamp { producer: name.to_owned(), life, number, offset });
    Batch { position, time, payload: letters.to_vec().into(), stamp }
}

/// Keeps bytes as they are, for tests of what keeps them. Nothing is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts;

/// A row of any length that does not begin with a 9: that is of another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// So many bytes that depend on `seed`.
    pub fn of(seed: u64, len: usize) -> Self {
        let byte = |n: usize| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (n % 8 * 8)) as u8 ^ n as u8;
        let mut bytes: Vec<u8> = (0..len).map(byte).collect();
        bytes[0] = 1;
        Self(bytes)
    }
}

impl Row for Text {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.first() != Some(&9)).then(|| Self(bytes.to_vec()))
    }
}

impl Application for Texts {
    const NAME: &'static str = "texts";
    const INPUT: Input = Input::Own;

    type Key = [u8; 16];
    type Row = Text;
    type Record<'a> = [u8; 16];
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    fn records(&self, _: &[u8]) -> impl Iterator<Item = Result<[u8; 16], Undecodable>> {
        std::iter::empty()
    }

    fn key<'r>(&self, record: &'r [u8; 16]) -> &'r [u8; 16] {
        record
    }

    fn fold(&self, _: Slot<'_, Text>, _: &[u8; 16], _: &mut Cx<'_, Self>) -> Result<(), Never> {
        Ok(())
    }
}
