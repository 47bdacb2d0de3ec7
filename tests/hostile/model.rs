//! What a summer is to do, in the fewest words: one map, and no store, no table, no expiry.

use super::decoder;
use sha1::{Digest, Sha1};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

pub type Id = [u8; 16];

/// What a batch comes to.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub records: u64,
    pub opened: u64,
    pub duplicates: u64,
    pub bytes: u64,
    /// By index, each with its reason.
    pub rejected: Vec<(usize, &'static str)>,
    pub finals: Vec<(Id, u64, [u8; 20])>,
}

/// What is known of a stream: the number of its last chunk, and how it stands.
struct Stream {
    last: u64,
    stands: Stands,
}

enum Stands {
    UnderWay(Sha1),
    Broken,
    Ended,
}

/// What becomes of a chunk: one of these three.
enum Fate {
    Folded,
    Duplicate,
    Rejected(&'static str),
}

pub struct Model {
    pub partition: u32,
    pub partitions: u32,
    pub max_chunk_bytes: usize,
    streams: HashMap<Id, Stream>,
}

impl Model {
    pub fn new(partition: u32, partitions: u32, max_chunk_bytes: usize) -> Self {
        Self { partition, partitions, max_chunk_bytes, streams: HashMap::new() }
    }

    pub fn fold(&mut self, batch: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let chunks = match decoder::chunks(batch) {
            Ok(chunks) => chunks,
            Err(index) => {
                outcome.rejected.push((index, "undecodable"));
                return outcome;
            }
        };
        outcome.records = chunks.len() as u64;
        let mut folded = 0;
        for (index, (id, number, data)) in chunks.into_iter().enumerate() {
            match self.chunk(id, number, data, &mut outcome) {
                Fate::Folded => {
                    folded += 1;
                    outcome.bytes += data.len() as u64;
                }
                Fate::Duplicate => outcome.duplicates += 1,
                Fate::Rejected(reason) => outcome.rejected.push((index, reason)),
            }
        }
        assert_eq!(
            outcome.records,
            folded + outcome.duplicates + outcome.rejected.len() as u64,
            "the model's own count"
        );
        outcome
    }

    fn chunk(&mut self, id: Id, number: u64, data: &[u8], outcome: &mut Outcome) -> Fate {
        if partition(&id, self.partitions) != self.partition {
            return Fate::Rejected("misrouted");
        }
        if data.len() > self.max_chunk_bytes {
            return Fate::Rejected("oversized");
        }
        let stream = match self.streams.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if number != 1 => return Fate::Rejected("unknown"),
            Entry::Vacant(free) => {
                outcome.opened += 1;
                free.insert(Stream { last: 0, stands: Stands::UnderWay(Sha1::new()) })
            }
        };
        let known = number <= stream.last;
        match &mut stream.stands {
            Stands::Broken => Fate::Rejected("broken"),
            Stands::UnderWay(_) | Stands::Ended if known => Fate::Duplicate,
            Stands::Ended => Fate::Rejected("after-end"),
            Stands::UnderWay(_) if number - stream.last > 1 => {
                stream.stands = Stands::Broken;
                Fate::Rejected("gap")
            }
            Stands::UnderWay(sha1) => {
                stream.last = number;
                if data.is_empty() {
                    let digest = std::mem::take(sha1).finalize().into();
                    outcome.finals.push((id, number, digest));
                    stream.stands = Stands::Ended;
                } else {
                    sha1.update(data);
                }
                Fate::Folded
            }
        }
    }
}

/// FNV-1a of the ID's hexadecimal digits, modulo the number of partitions.
pub fn partition(id: &Id, partitions: u32) -> u32 {
    digits(id).iter().fold(0x811c_9dc5, |hash, digit| fnv(hash, *digit)) % partitions
}

/// What FNV-1a makes of one more byte.
pub fn fnv(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// The hexadecimal digits of bytes.
pub fn digits(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[usize::from(digit)]).collect()
}
