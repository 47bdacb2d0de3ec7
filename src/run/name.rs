//! `RunName`: what a run is called over all lives of its chunker, and what its streams are made of because of that.
//!
//! Prefix and seed of a run with a name are its name's, together with its [`Shape`]: the SHA-1 of both, behind words that no other
//! digest begins with. So every life makes the same streams, on whichever machine, and no two runs share any.

use crate::run::workload::Workload;
use crate::sum::stream_id::RunPrefix;
use jetfold::values::{parsed, serde_as_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::{Digest, Sha1};
use std::fmt;
use std::str::FromStr;

/// What the digest begins with. With other words, every run with a name is another one.
const WORDS: &[u8] = b"stream-sum run 1\0";

/// The name of a run; empty: it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunName(String);

impl RunName {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The prefix of its stream IDs, and the seed of their content. The seed is short enough for a number in JSON.
    pub fn derive(&self, shape: Shape) -> (RunPrefix, u64) {
        let Shape { streams, chunks, chunk_bytes } = shape;
        let mut digest = Sha1::new().chain_update(WORDS);
        for number in [streams, chunks, chunk_bytes] {
            digest.update(number.to_be_bytes());
        }
        let digest: [u8; 20] = digest.chain_update(&self.0).finalize().into();
        let (prefix, rest) = digest.split_first_chunk().expect("4 of 20 bytes");
        let seed = rest.first_chunk().expect("8 of 16 bytes");
        (RunPrefix(*prefix), u64::from_be_bytes(*seed) >> 11)
    }
}

impl FromStr for RunName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let valid = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if valid { Ok(Self(text.to_owned())) } else { Err("up to 64 characters of A-Z a-z 0-9 _ -") }
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(RunName);

/// What the streams of a run depend on, beside its name: how many there are, and how long each is.
///
/// Nothing else does: partitions, workers, live streams, rate and batches decide when and where a chunk is sent, and not
/// what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub streams: u64,
    pub chunks: u64,
    pub chunk_bytes: u64,
}

impl Shape {
    pub fn workload(self, seed: u64) -> Workload {
        let chunk_bytes = usize::try_from(self.chunk_bytes).unwrap_or(usize::MAX);
        Workload { seed, chunks: self.chunks, chunk_bytes }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, chunks, chunk_bytes } = self;
        write!(f, "--streams {streams} --chunks {chunks} --chunk-bytes {chunk_bytes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SHAPE: Shape = Shape { streams: 1000, chunks: 100, chunk_bytes: 32 };

    fn name(text: &str) -> RunName {
        text.parse().unwrap()
    }

    /// Another life, of another version, derives these: they must never change.
    #[test]
    fn prefix_and_seed_are_the_same_for_ever() {
        let (prefix, seed) = name("nightly").derive(SHAPE);
        assert_eq!((prefix.to_string().as_str(), seed), ("f1cc08c7", 8_095_680_351_266_335));
    }

    #[test]
    fn every_part_of_the_shape_and_the_name_make_another_run() {
        let shapes = [
            SHAPE,
            Shape { streams: 1001, ..SHAPE },
            Shape { chunks: 101, ..SHAPE },
            Shape { chunk_bytes: 33, ..SHAPE },
            // The same numbers in other places.
            Shape { streams: 100, chunks: 1000, ..SHAPE },
        ];
        let derived = shapes.iter().flat_map(|shape| ["a", "b", "a-"].map(|text| name(text).derive(*shape)));
        let derived: Vec<_> = derived.collect();
        let prefixes: HashSet<_> = derived.iter().map(|(prefix, _)| *prefix).collect();
        let seeds: HashSet<_> = derived.iter().map(|(_, seed)| *seed).collect();
        assert_eq!((prefixes.len(), seeds.len()), (derived.len(), derived.len()));
        assert!(seeds.iter().all(|seed| *seed < 1 << 53), "exact as a number of JSON");
    }

    #[test]
    fn a_name_is_what_can_stand_in_any_list() {
        assert!(name("").is_empty() && !name("Nightly_2-a").is_empty());
        for text in ["a b", "a.b", "ä", "a/b", &"a".repeat(65)] {
            assert!(text.parse::<RunName>().is_err(), "{text}");
        }
    }
}
