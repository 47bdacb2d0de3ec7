//! Applications for tests.

use crate::application::{Application, Cx, Input, Never, Output, Row, Slot, Undecodable};

/// Counts bytes by their values, and says each that it has counted three times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample;

/// A value that was counted three times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said(pub u64);

impl Output for Said {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&self.0.to_string());
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.0.to_le_bytes());
    }
}

impl Application for Sample {
    const NAME: &'static str = "sample";

    type Key = u64;
    type Row = u64;
    type Record<'a> = u64;
    type Output = Said;
    type Reason = &'static str;
    type Tally = ();

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<u64, Undecodable>> {
        payload.iter().map(|byte| Ok(u64::from(*byte)))
    }

    fn key<'r>(&self, record: &'r u64) -> &'r u64 {
        record
    }

    fn fold(&self, slot: Slot<'_, u64>, record: &u64, cx: &mut Cx<'_, Self>) -> Result<(), &'static str> {
        let times = slot.get().map_or(1, |times| times + 1);
        if times == 3 {
            cx.put_out(Said(*record));
        }
        slot.set(times);
        Ok(())
    }
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
