//! A small application whose batches are stamped: letters, and how often each was said.

use crate::application::{Application, Cx, Output, Slot, Undecodable};
use crate::stamp::Stamp;
use crate::time::LogTime;
use crate::transaction::Batch;

/// A record is one byte, which is its key. Every third time it is told how often that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letters;

/// How long a producer is remembered.
pub const EXPIRY: LogTime = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub letter: u64,
    pub times: u64,
}

impl Output for Said {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&format!("{}.{}", self.letter, self.times));
    }

    fn encode(&self, _: &mut Vec<u8>) {}
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
            cx.put_out(Said { letter: *letter, times });
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
