//! Rows as they lie on a disk: in bytes, and behind them the [checksum] of these under their key.

use crate::application::{Application, Row};
use crate::key::Key;
use crate::store::checksum;
use redb::Value;

/// The most bytes that a row may take with its checksum.
pub const MOST_ROW_BYTES: u64 = 1 << 24;

/// Why bytes are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// They are not what was written as the row of this key.
    Damaged,
    /// They are, by a version that knows more rows than this one.
    Unknown,
}

/// A key in the bytes that a file has of it.
pub fn key_bytes<K: Key>(key: &K::Ref) -> Vec<u8> {
    K::Stored::as_bytes(&K::stored(key)).as_ref().to_vec()
}

/// Appends the row of a key.
pub fn seal<A: Application>(key: &<A::Key as Key>::Ref, row: &A::Row, out: &mut Vec<u8>) {
    let stored = A::Key::stored(key);
    seal_under(<A::Key as Key>::Stored::as_bytes(&stored).as_ref(), row, out);
}

/// Appends a row of any kind, of the key with these bytes.
pub fn seal_under<R: Row>(key: &[u8], row: &R, out: &mut Vec<u8>) {
    let from = out.len();
    row.encode(out);
    checksum::seal(key, out, from);
}

/// The row of the key with these bytes.
pub fn open<R: Row>(key: &[u8], bytes: &[u8]) -> Result<R, Undecoded> {
    let bytes = checksum::opened(key, bytes).ok_or(Undecoded::Damaged)?;
    R::decode(bytes).ok_or(Undecoded::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Text, Texts};

    #[test]
    fn a_row_is_whole_under_its_own_key_alone() {
        let (id, other) = ([1; 16], [2; 16]);
        let row = Text(hex::decode("0205000000000000000900000000000000").unwrap());
        let mut bytes = Vec::new();
        seal::<Texts>(&id, &row, &mut bytes);
        // The checksum was made with another language's XXH3.
        assert_eq!(hex::encode(&bytes), "020500000000000000090000000000000044f05cc0c9d5cca8");
        assert_eq!(open::<Text>(&id, &bytes), Ok(row));
        assert_eq!(open::<Text>(&other, &bytes), Err(Undecoded::Damaged));
        assert_eq!(open::<Text>(&id, &bytes[..bytes.len() - 1]), Err(Undecoded::Damaged));
        assert_eq!(open::<Text>(&id, &[]), Err(Undecoded::Damaged));
        let mut later = bytes[..bytes.len() - checksum::BYTES].to_vec();
        later[0] = 9;
        checksum::seal(&id, &mut later, 0);
        assert_eq!(open::<Text>(&id, &later), Err(Undecoded::Unknown));
        bytes[0] = 9;
        assert_eq!(open::<Text>(&id, &bytes), Err(Undecoded::Damaged));
    }
}
