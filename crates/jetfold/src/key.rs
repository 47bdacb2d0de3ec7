//! What rows are found by, and to which partition a key belongs.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;

/// What rows are found by.
pub trait Key: Clone + fmt::Debug + Ord + Hash + Borrow<Self::Ref> + Send + Sync + 'static {
    /// What it is looked up by, so that a key that is known costs no allocation.
    type Ref: ?Sized + Eq + Hash + ToOwned<Owned = Self>;

    /// How a store's file knows it. The file names this type, and sorts by it: its order must be that of the key.
    type Stored: redb::Key + 'static;

    /// The key as the file has it.
    fn stored(key: &Self::Ref) -> <Self::Stored as redb::Value>::SelfType<'_>;

    /// The key that was stored so.
    fn loaded(stored: <Self::Stored as redb::Value>::SelfType<'_>) -> Self;

    /// The partition that the records of a key go to.
    fn partition(key: &Self::Ref, partitions: u32) -> u32;
}

/// The partition of a token of a subject: FNV-1a 32, modulo N.
///
/// This is what nats-server's own `{{partition(N,1)}}` subject mapping computes, so that a client which cannot hash may
/// let the server choose.
pub fn partition_of_token(token: &[u8], partitions: u32) -> u32 {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let hash = token.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME));
    hash % partitions
}

impl Key for String {
    type Ref = str;
    type Stored = &'static str;

    fn stored(key: &str) -> &str {
        key
    }

    fn loaded(stored: &str) -> Self {
        stored.to_owned()
    }

    fn partition(key: &str, partitions: u32) -> u32 {
        partition_of_token(key.as_bytes(), partitions)
    }
}

impl Key for u64 {
    type Ref = u64;
    type Stored = u64;

    fn stored(key: &u64) -> u64 {
        *key
    }

    fn loaded(stored: u64) -> Self {
        stored
    }

    /// As decimal digits.
    fn partition(key: &u64, partitions: u32) -> u32 {
        partition_of_token(key.to_string().as_bytes(), partitions)
    }
}

impl<const N: usize> Key for [u8; N] {
    type Ref = [u8; N];
    type Stored = &'static [u8; N];

    fn stored(key: &[u8; N]) -> &[u8; N] {
        key
    }

    fn loaded(stored: &[u8; N]) -> Self {
        *stored
    }

    /// As hexadecimal digits.
    fn partition(key: &[u8; N], partitions: u32) -> u32 {
        partition_of_token(hex::encode(key).as_bytes(), partitions)
    }
}

impl Key for Vec<u8> {
    type Ref = [u8];
    type Stored = &'static [u8];

    fn stored(key: &[u8]) -> &[u8] {
        key
    }

    fn loaded(stored: &[u8]) -> Self {
        stored.to_vec()
    }

    /// As hexadecimal digits.
    fn partition(key: &[u8], partitions: u32) -> u32 {
        partition_of_token(hex::encode(key).as_bytes(), partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_where_the_server_s_mapping_sends_its_token() {
        // What `{{partition(10,1)}}` of nats-server makes of these tokens.
        for (token, partition) in [("foo", 3), ("baz", 0), ("qux", 9)] {
            assert_eq!(String::partition(token, 10), partition, "{token}");
        }
        assert_eq!(u64::partition(&42, 10), String::partition("42", 10));
        assert_eq!(<[u8; 2]>::partition(&[0xab, 1], 10), String::partition("ab01", 10));
        assert_eq!(Vec::<u8>::partition(&[0xab, 1], 10), String::partition("ab01", 10));
    }
}
