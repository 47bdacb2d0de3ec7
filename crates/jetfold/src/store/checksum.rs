//! Checksums of what lies on a disk, kept behind the bytes that they are of: XXH3 of 64 bits, little-endian.
//!
//! The bytes are summed with the XXH3 of their key as the seed, so that what stands under the key of another is damaged
//! as well.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of a checksum.
pub const BYTES: usize = size_of::<u64>();

/// Appends the checksum of what stands in `out` from `from` on, under `key`.
pub fn seal(key: &[u8], out: &mut Vec<u8>, from: usize) {
    let sum = of(key, &out[from..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// The bytes without their checksum; `None` if they are not what was sealed under `key`.
pub fn opened<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (bytes, sum) = sealed.split_last_chunk::<BYTES>()?;
    (u64::from_le_bytes(*sum) == of(key, bytes)).then_some(bytes)
}

fn of(key: &[u8], bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_under_its_own_key_alone() {
        for len in [0, 1, 17, 109, 300] {
            let mut sealed = vec![0xaa; 3];
            sealed.extend((0..len).map(|n| n as u8));
            seal(b"key", &mut sealed, 3);
            let sealed = &sealed[3..];
            assert_eq!(opened(b"key", sealed), Some(&sealed[..len]));
            assert_eq!(opened(b"kez", sealed), None);
            assert_eq!(opened(b"key", &sealed[..sealed.len() - 1]), None);
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opened(b"key", &flipped), None, "{len} bytes, bit {bit}");
            }
        }
        assert_eq!(opened(b"key", b"short"), None);
    }
}
