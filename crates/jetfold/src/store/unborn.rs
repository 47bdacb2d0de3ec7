//! Files of stores that were begun and never made.
//!
//! redb gives a new file its length, writes the first page without the magic number, and last of all the magic number. Whoever is
//! killed in between, or finds no room, leaves a file without one. Nothing was ever in it, so it is not damaged: a full disk
//! must not use up what [may be set aside](super::aside::MOST).

use redb::StorageBackend;
use std::io;

/// What a database of redb's begins with.
const MAGIC: &[u8; 9] = b"redb\x1a\n\xa9\r\n";

/// redb's: it begins a file with the header in one of its own.
const PAGE: u64 = 4096;

/// A file that redb makes has a bit more than 1 MiB. In a larger one there was something.
const MOST: u64 = 4 << 20;

/// Whether a file of `len` bytes is one that redb has not come to the end of making: it has no more than a beginning of the magic number, and
/// nothing behind the first page.
pub fn is_unborn(file: &impl StorageBackend, len: u64) -> io::Result<bool> {
    if !(PAGE..=MOST).contains(&len) {
        return Ok(false);
    }
    let mut begins = [0; MAGIC.len()];
    file.read(0, &mut begins)?;
    let written = begins.iter().zip(MAGIC).take_while(|(found, magic)| found == magic).count();
    if written == MAGIC.len() || begins[written..].iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let mut rest = vec![0; usize::try_from(len - PAGE).expect("it is small")];
    file.read(PAGE, &mut rest)?;
    Ok(rest.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    fn unborn(bytes: &[u8]) -> bool {
        let file = InMemoryBackend::new();
        file.set_len(bytes.len() as u64).unwrap();
        file.write(0, bytes).unwrap();
        is_unborn(&file, bytes.len() as u64).unwrap()
    }

    #[test]
    fn a_file_is_unborn_if_it_has_no_magic_number_and_nothing_behind_its_header() {
        let mut bytes = vec![0; 20_000];
        assert!(unborn(&bytes), "it has its length and nothing more");
        bytes[10..300].fill(7);
        assert!(unborn(&bytes), "it has its header");
        bytes[..4].copy_from_slice(b"redb");
        assert!(unborn(&bytes), "it has a beginning of the magic number");
        bytes[..9].copy_from_slice(MAGIC);
        assert!(!unborn(&bytes), "it is made");
        bytes[3] = 0;
        assert!(!unborn(&bytes), "it was made, and is damaged");
        bytes[..9].fill(0);
        bytes[19_999] = 1;
        assert!(!unborn(&bytes), "it was made, and has lost its first page");
    }

    #[test]
    fn what_is_shorter_or_longer_than_redb_makes_it_is_not_unborn() {
        assert!(!unborn(&[]));
        assert!(!unborn(b"redb"));
        assert!(!unborn(&[0; 4095]));
        assert!(!unborn(&vec![0; 5 << 20]));
    }
}
