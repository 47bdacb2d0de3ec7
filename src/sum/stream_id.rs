//! `StreamId`: the name of one piece of content, and the partition it belongs to.

use jetfold::{Key, partition_of_token};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The ID of a content stream: 16 opaque bytes, written as 32 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId([u8; 16]);

/// As one number: as a slice of bytes, its length would be hashed as well.
impl Hash for StreamId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

/// How many leading bytes of its IDs one chunker run keeps the same.
pub const RUN_PREFIX_BYTES: usize = 4;

/// The first four bytes of every ID of one run: what its finals are filtered by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunPrefix(pub [u8; RUN_PREFIX_BYTES]);

impl StreamId {
    pub const BYTES: usize = 16;

    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The `n`-th ID of a run. IDs of one run differ in `n` alone, so a run knows its own without remembering them.
    pub fn of_run(prefix: RunPrefix, n: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..RUN_PREFIX_BYTES].copy_from_slice(&prefix.0);
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        Self(bytes)
    }

    /// Which ID of the run `prefix` this is; `None` for an ID that such a run never makes.
    pub fn nth_of_run(&self, prefix: RunPrefix) -> Option<u64> {
        let (head, tail) = self.0.split_at(8);
        let ours = head[..RUN_PREFIX_BYTES] == prefix.0 && head[RUN_PREFIX_BYTES..] == [0; 4];
        ours.then(|| u64::from_be_bytes(tail.try_into().expect("8 of 16 bytes")))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The partition of this stream among `partitions`, by the [token](partition_of_token) that the lower-case hex of its ID is.
    pub fn partition(&self, partitions: u32) -> u32 {
        let mut hex_chars = [0; 32];
        hex::encode_to_slice(self.0, &mut hex_chars).expect("32 characters hold 16 bytes");
        partition_of_token(&hex_chars, partitions)
    }
}

impl Key for StreamId {
    type Ref = StreamId;
    type Stored = &'static [u8; 16];

    fn stored(id: &StreamId) -> &[u8; 16] {
        &id.0
    }

    fn loaded(stored: &[u8; 16]) -> Self {
        Self(*stored)
    }

    fn partition(id: &StreamId, partitions: u32) -> u32 {
        id.partition(partitions)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a `StreamId`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a stream ID is 32 hex characters")]
pub struct NotAStreamId;

impl FromStr for StreamId {
    type Err = NotAStreamId;

    fn from_str(text: &str) -> Result<Self, NotAStreamId> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAStreamId)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for RunPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RunPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a `RunPrefix`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a run is 8 hex characters")]
pub struct NotARunPrefix;

impl FromStr for RunPrefix {
    type Err = NotARunPrefix;

    fn from_str(text: &str) -> Result<Self, NotARunPrefix> {
        let mut bytes = [0; RUN_PREFIX_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotARunPrefix)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_those_of_the_golden_values() {
        let first: StreamId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!([8, 16, 3].map(|n| first.partition(n)), [3, 11, 1]);
        let second: StreamId = "6d61727461206d6172746120303030ff".parse().unwrap();
        assert_eq!([8, 16, 3].map(|n| second.partition(n)), [2, 2, 0]);
    }

    #[test]
    fn a_run_recognises_its_own_ids_and_no_others() {
        let prefix = RunPrefix([0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(StreamId::of_run(prefix, 77).nth_of_run(prefix), Some(77));
        assert_eq!(StreamId::of_run(RunPrefix([1; 4]), 77).nth_of_run(prefix), None);
        let mut foreign = *StreamId::of_run(prefix, 77).as_bytes();
        foreign[5] = 1;
        assert_eq!(StreamId::new(foreign).nth_of_run(prefix), None);
    }

    #[test]
    fn ids_of_a_run_spread_evenly_over_the_partitions() {
        let prefix = RunPrefix([0x12, 0x34, 0x56, 0x78]);
        for partitions in [3, 8, 16] {
            let mut streams = vec![0u32; partitions as usize];
            for n in 0..16_000 {
                streams[StreamId::of_run(prefix, n).partition(partitions) as usize] += 1;
            }
            let even = 16_000 / partitions;
            assert!(streams.iter().all(|n| *n > even / 2 && *n < even * 2), "{streams:?}");
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "00", "zz0102030405060708090a0b0c0d0e0f", "000102030405060708090a0b0c0d0e0f00"] {
            assert_eq!(text.parse::<StreamId>(), Err(NotAStreamId));
        }
    }
}
