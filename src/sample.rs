//! An application for tests: counts bytes by their values, and says each that it has counted three times.

use crate::application::{Application, Cx, Output, Slot, Undecodable};

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
