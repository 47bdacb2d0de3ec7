//! The wire format: chunk batches and finals as MessagePack, decoded strictly.
//!
//! | value | shape |
//! | --- | --- |
//! | chunk | array of exactly 3: bin of 16, integer >= 1 of any width up to u64, bin |
//! | chunk batch | one chunk or more, back to back |
//! | final | array of exactly 3: bin of 16, integer >= 1 of any width up to u64, bin of 20 |
//!
//! A derived decoder would also take maps, strings and lists of numbers for these. Two decoders that disagree on
//! what a batch says would disagree on its sums, so nothing but the shapes above is taken.

use crate::sum::chunk::{Chunk, SeqNo};
use crate::sum::running::{Sum, Value};
use crate::sum::stream_id::StreamId;
pub use jetfold::Undecodable;
use rmp::{decode, encode};

/// The most bytes that the encoding of a chunk adds to its data: array, bin of 16, u64, and the head of a bin.
pub const CHUNK_OVERHEAD: usize = 1 + 18 + 9 + 5;

/// How every triple begins: an array of 3, and the head of a bin of 16.
const ARRAY_OF_3_WITH_ID: [u8; 3] = [0x93, 0xc4, 16];

/// Bytes before the data where the number is below 128 and the data shorter than 256.
const SHORT_HEAD: usize = 3 + 16 + 1 + 2;

/// Appends the encoding of `chunk` to `out`.
pub fn encode_chunk(out: &mut Vec<u8>, chunk: &Chunk<'_>) {
    encode_triple(out, chunk.id, chunk.seq_no, chunk.data);
}

/// The payload of a final.
pub fn encode_final(sum: &Sum) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_triple(&mut out, sum.id, sum.seq_no, &sum.value.0);
    out
}

#[inline]
fn encode_triple(out: &mut Vec<u8>, id: StreamId, seq_no: SeqNo, bytes: &[u8]) {
    // Most have a small number and little data: for these the library, which writes byte by byte, takes three times as long.
    if let (Ok(number @ 0..=0x7f), Ok(len)) = (u8::try_from(seq_no.get()), u8::try_from(bytes.len())) {
        let mut head = [0; SHORT_HEAD];
        head[..3].copy_from_slice(&ARRAY_OF_3_WITH_ID);
        head[3..19].copy_from_slice(id.as_bytes());
        head[19..].copy_from_slice(&[number, 0xc4, len]);
        out.reserve(SHORT_HEAD + bytes.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(bytes);
    } else {
        encode_any(out, id, seq_no, bytes);
    }
}

fn encode_any(out: &mut Vec<u8>, id: StreamId, seq_no: SeqNo, bytes: &[u8]) {
    const INFALLIBLE: &str = "a Vec takes every write";
    encode::write_array_len(out, 3).expect(INFALLIBLE);
    encode::write_bin(out, id.as_bytes()).expect(INFALLIBLE);
    encode::write_uint(out, seq_no.get()).expect(INFALLIBLE);
    encode::write_bin(out, bytes).expect(INFALLIBLE);
}

/// The chunks of a batch, in order. Ends after what can't be decoded: then the whole batch says nothing.
pub fn chunks(payload: &[u8]) -> Chunks<'_> {
    Chunks { rest: Some(payload), index: 0 }
}

/// See [`chunks`].
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    /// `None` after the end, and after what can't be decoded.
    rest: Option<&'a [u8]>,
    /// Of the next value.
    index: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, Undecodable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest.take()?;
        if rest.is_empty() {
            return (self.index == 0).then_some(Err(Undecodable { index: 0, what: "missing: the batch is empty" }));
        }
        let index = self.index;
        Some(match decode_triple(&mut rest) {
            Ok((id, seq_no, data)) => {
                (self.rest, self.index) = (Some(rest), index + 1);
                Ok(Chunk { id, seq_no, data })
            }
            Err(what) => Err(Undecodable { index, what }),
        })
    }
}

/// The sum that the payload of a final says.
pub fn decode_final(payload: &[u8]) -> Result<Sum, Undecodable> {
    let refuse = |what| Undecodable { index: 0, what };
    let mut rest = payload;
    let (id, seq_no, value) = decode_triple(&mut rest).map_err(refuse)?;
    let value = value.try_into().map_err(|_| refuse("no digest of 20 bytes"))?;
    if !rest.is_empty() && !jetfold::planted!("a-final-may-be-followed-by-more") {
        return Err(refuse("followed by more bytes"));
    }
    Ok(Sum { id, seq_no, value: Value(value) })
}

/// What chunks and finals are alike in: ID, sequence number, and bytes.
type Triple<'a> = (StreamId, SeqNo, &'a [u8]);

#[inline]
fn decode_triple<'a>(rest: &mut &'a [u8]) -> Result<Triple<'a>, &'static str> {
    if let Some((triple, tail)) = decode_short(rest) {
        *rest = tail;
        return Ok(triple);
    }
    decode_any(rest)
}

/// A triple in the shortest form, which is what encoders write; `None` for whatever is not. The library's readers, which
/// take any form byte by byte, would be a sixth of a summer's time.
#[inline]
fn decode_short(bytes: &[u8]) -> Option<(Triple<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<3>()?;
    if *head != ARRAY_OF_3_WITH_ID {
        return None;
    }
    let (id, rest) = rest.split_first_chunk()?;
    let (marker, rest) = rest.split_first()?;
    let (seq_no, rest) = match marker {
        0x00..=0x7f => (u64::from(*marker), rest),
        0xcc => rest.split_first().map(|(n, rest)| (u64::from(*n), rest))?,
        0xcd => rest.split_first_chunk().map(|(n, rest)| (u64::from(u16::from_be_bytes(*n)), rest))?,
        0xce => rest.split_first_chunk().map(|(n, rest)| (u64::from(u32::from_be_bytes(*n)), rest))?,
        _ => return None,
    };
    let (marker, rest) = rest.split_first()?;
    let (len, rest) = match marker {
        0xc4 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0xc5 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        _ => return None,
    };
    let (data, rest) = rest.split_at_checked(len)?;
    Some(((StreamId::new(*id), SeqNo::new(seq_no)?, data), rest))
}

/// A triple in any form, and what is wrong where it is none.
#[cold]
fn decode_any<'a>(rest: &mut &'a [u8]) -> Result<Triple<'a>, &'static str> {
    if decode::read_array_len(rest).map_err(|_| "no array")? != 3 && !jetfold::planted!("a-chunk-may-have-any-length") {
        return Err("no array of 3");
    }
    let id = read_bin(rest).ok_or("without an ID of 16 bytes")?;
    let id = id.try_into().map_err(|_| "without an ID of 16 bytes")?;
    let seq_no = decode::read_int::<u64, _>(rest).map_err(|_| "without a sequence number")?;
    let seq_no = SeqNo::new(seq_no).ok_or("numbered 0, where 1 is the first")?;
    let bytes = read_bin(rest).ok_or("without binary data, or cut short")?;
    Ok((StreamId::new(id), seq_no, bytes))
}

fn read_bin<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = decode::read_bin_len(rest).ok()?;
    let (bytes, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_batch(payload: &[u8]) -> Result<Vec<Chunk<'_>>, Undecodable> {
        chunks(payload).collect()
    }

    const ID: &str = "000102030405060708090a0b0c0d0e0f";
    const BATTERY: &str = "93c410000102030405060708090a0b0c0d0e0f01c40762617474657279";
    const CLOSING: &str = "93c410000102030405060708090a0b0c0d0e0f03c400";
    const FINAL: &str = "93c410000102030405060708090a0b0c0d0e0f03c4144b177dc1bb6960eddba2d012b9e29ef727b1d593";

    fn chunk(seq_no: u64, data: &[u8]) -> Chunk<'_> {
        Chunk { id: ID.parse().unwrap(), seq_no: SeqNo::new(seq_no).unwrap(), data }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    #[test]
    fn chunks_are_written_and_read_as_the_golden_values() {
        for (chunk, golden) in [(chunk(1, b"battery"), BATTERY), (chunk(3, b""), CLOSING)] {
            let mut out = Vec::new();
            encode_chunk(&mut out, &chunk);
            assert_eq!(hex::encode(&out), golden);
            assert_eq!(decode_batch(&out), Ok(vec![chunk]));
        }
        let both = bytes(&[BATTERY, CLOSING].concat());
        assert_eq!(decode_batch(&both), Ok(vec![chunk(1, b"battery"), chunk(3, b"")]));
    }

    #[test]
    fn a_final_is_written_and_read_as_the_golden_value() {
        let sum = decode_final(&bytes(FINAL)).unwrap();
        assert_eq!(sum.id.to_string(), ID);
        assert_eq!(sum.seq_no.get(), 3);
        assert_eq!(sum.value.to_string(), "4b177dc1bb6960eddba2d012b9e29ef727b1d593");
        assert_eq!(hex::encode(encode_final(&sum)), FINAL);
    }

    #[test]
    fn every_width_of_a_sequence_number_is_taken() {
        let id = "93c410000102030405060708090a0b0c0d0e0f";
        for seq_no in ["07", "cc07", "cd0007", "ce00000007", "cf0000000000000007", "d007", "d10007", "d200000007"] {
            let batch = bytes(&[id, seq_no, "c40178"].concat());
            assert_eq!(decode_batch(&batch), Ok(vec![chunk(7, b"x")]), "{seq_no}");
        }
    }

    #[test]
    fn what_a_lenient_decoder_would_take_is_refused() {
        let id = "c410000102030405060708090a0b0c0d0e0f";
        let refused = [
            ("nothing", String::new()),
            ("array of 2", format!("92{id}01")),
            ("array of 4", format!("94{id}01c40178c0")),
            ("map", format!("83a26964{id}a6736571")),
            ("ID of 15", "93c40f000102030405060708090a0b0c0d0e01c40178".into()),
            ("ID as string", "93b06161616161616161616161616161616101c40178".into()),
            ("ID as list", "93dc001000000000000000000000000000000000".into()),
            ("sequence number 0", format!("93{id}00c40178")),
            ("negative", format!("93{id}ffc40178")),
            ("float", format!("93{id}ca3f800000c40178")),
            ("nil for a number", format!("93{id}c0c40178")),
            ("data as string", format!("93{id}01a178")),
            ("data as list", format!("93{id}019178")),
            ("nil for data", format!("93{id}01c0")),
            ("data cut short", format!("93{id}01c40278")),
            ("data of 4 GiB promised", format!("93{id}01c6ffffffff78")),
            ("bytes after", format!("93{id}01c40178c1")),
        ];
        for (what, hex) in refused {
            assert!(decode_batch(&bytes(&hex)).is_err(), "{what}");
        }
        assert!(decode_final(&bytes(BATTERY)).is_err(), "a chunk is no final");
        assert!(decode_final(&bytes(&[FINAL, "00"].concat())).is_err(), "bytes after a final");
    }

    #[test]
    fn the_value_that_failed_is_named() {
        let batch = bytes(&[BATTERY, BATTERY, "92"].concat());
        assert_eq!(decode_batch(&batch), Err(Undecodable { index: 2, what: "no array of 3" }));
    }

    #[test]
    fn the_shortest_form_is_read_and_written_as_any_other() {
        for seq_no in [1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            for len in [0, 1, 255, 256, 65_535, 65_536] {
                let data = vec![5; len];
                let mut out = Vec::new();
                encode_chunk(&mut out, &chunk(seq_no, &data));
                let mut any = Vec::new();
                encode_any(&mut any, chunk(seq_no, &data).id, SeqNo::new(seq_no).unwrap(), &data);
                assert_eq!(out, any, "and written");
                out.push(0x93);
                let mut rest = out.as_slice();
                let any = decode_any(&mut rest).unwrap();
                assert_eq!(rest, [0x93]);
                let short = decode_short(&out);
                assert_eq!(short.is_some(), seq_no <= u64::from(u32::MAX) && len <= 65_535);
                assert!(short.is_none_or(|(triple, tail)| triple == any && tail == rest));
                // Cut short anywhere in front of the data, it is no triple.
                let cut = &out[..out.len() - len - 2];
                assert!((0..=cut.len()).all(|end| decode_short(&cut[..end]).is_none()));
            }
        }
        let mut zero = bytes(BATTERY);
        zero[19] = 0;
        assert!(decode_short(&zero).is_none());
    }
}
