//! Snapshots: a store at one position as a stream of bytes, and back.
//!
//! | bytes | are |
//! | --- | --- |
//! | 20 | the application's name, `snapshot`, and a line end: `stream-sum snapshot` |
//! | the rest | one zstd frame with its checksum |
//!
//! | within the frame | is |
//! | --- | --- |
//! | u32, little-endian | length of the header |
//! | header | MessagePack map: [`Header`] |
//! | if batches are stamped, as often as the header says | a producer's name and row, each behind its length; sorted by name |
//! | as often as the header says | a key (if its length varies, that before it), a row's length, the row with its checksum; sorted by key |
//!
//! Lengths are LEB128: one byte below 128.
//!
//! Both ways take as much memory as one row, the producers and zstd's window.

mod producers;

use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::key::Key;
use crate::producer::NamedProducer;
use crate::store::sealed::{self, MOST_ROW_BYTES, Undecoded};
use crate::store::{KeyedRow, Owner, StoreError, View};
use redb::Value;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::io::{self, BufReader, Read, Write};

/// What the snapshots of an application begin with.
fn magic<A: Application>() -> Vec<u8> {
    format!("{} snapshot\n", A::NAME).into_bytes()
}

/// The most bytes of a key whose length varies.
const MOST_KEY_BYTES: u64 = 1 << 16;

/// The version of what follows the magic. A row's own shape is told by its tag. Rows of the first had no checksums.
pub const FORMAT: u32 = 2;

/// Fast: a snapshot must not take more from folding than it has to.
const LEVEL: i32 = 1;

/// A header is a few hundred bytes, and a few hundred for each thing that was ever accepted.
const MOST_HEADER_BYTES: u32 = 1 << 20;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    pub owner: Owner,
    pub checkpoint: Checkpoint,
    pub accepted: Vec<Accepted>,
    pub rows: u64,
    /// If batches are stamped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producers: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store has folded nothing yet")]
    NothingFolded,
    #[error("it can't be written ({0})")]
    Io(#[from] io::Error),
    #[error("it is damaged ({0})")]
    Damaged(String),
    #[error("it has format {0}, which this version does not know")]
    UnknownFormat(u32),
    #[error("it belongs to partition {} of {} of the log {}", .0.partition, .0.partitions, .0.log)]
    Foreign(Box<Owner>),
}

/// Writes a store as it was at one moment.
pub fn write<A: Application>(view: &View<A>, owner: &Owner, out: impl Write) -> Result<Header, SnapshotError> {
    let checkpoint = view.checkpoint()?.ok_or(SnapshotError::NothingFolded)?;
    let accepted = view.accepted()?;
    let (all, owner, rows) = (view.producers()?, owner.clone(), view.len()?);
    let header = Header { format: FORMAT, owner, checkpoint, accepted, rows, producers: producers::count::<A>(&all) };
    let mut out = out;
    out.write_all(&magic::<A>())?;
    let mut frame = zstd::Encoder::new(out, LEVEL)?;
    frame.include_checksum(true)?;
    let bytes = rmp_serde::to_vec_named(&header).expect("a header has a MessagePack form");
    let len = u32::try_from(bytes.len()).expect("a header is short");
    frame.write_all(&len.to_le_bytes())?;
    frame.write_all(&bytes)?;
    producers::write(&all, &mut frame)?;
    let mut buffer = Vec::with_capacity(128);
    let varies = <A::Key as Key>::Stored::fixed_width().is_none();
    view.each(None, |key, row| {
        buffer.clear();
        sealed::seal::<A>(key.borrow(), &row, &mut buffer);
        let key = sealed::key_bytes::<A::Key>(key.borrow());
        if varies {
            leb128::write::unsigned(&mut frame, key.len() as u64)?;
        }
        frame.write_all(&key)?;
        leb128::write::unsigned(&mut frame, buffer.len() as u64)?;
        frame.write_all(&buffer)?;
        Ok::<_, SnapshotError>(true)
    })?;
    frame.finish()?.flush()?;
    Ok(header)
}

/// A snapshot being read: its header and producers, then its rows.
pub struct Reading<R: Read, A: Application> {
    pub header: Header,
    pub producers: Vec<NamedProducer>,
    frame: zstd::Decoder<'static, BufReader<R>>,
    left: u64,
    last: Option<A::Key>,
    ended: bool,
    key: Vec<u8>,
    row: Vec<u8>,
}

/// Begins to read a snapshot of `owner`'s store, which stood at `checkpoint`, as whoever lists it knows.
pub fn read<R: Read, A: Application>(
    mut input: R,
    owner: &Owner,
    checkpoint: &Checkpoint,
) -> Result<Reading<R, A>, SnapshotError> {
    let expected = magic::<A>();
    let mut magic = vec![0; expected.len()];
    input.read_exact(&mut magic).map_err(damaged)?;
    if magic != expected {
        return Err(SnapshotError::Damaged("it does not begin as a snapshot does".to_owned()));
    }
    let mut frame = zstd::Decoder::new(input).map_err(damaged)?;
    let mut len = [0; 4];
    frame.read_exact(&mut len).map_err(damaged)?;
    let len = u32::from_le_bytes(len);
    if len > MOST_HEADER_BYTES {
        return Err(SnapshotError::Damaged(format!("its header is {len} bytes long")));
    }
    let mut bytes = vec![0; len as usize];
    frame.read_exact(&mut bytes).map_err(damaged)?;
    /// Read first: a later format may have another shape.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let undecoded = |error: rmp_serde::decode::Error| SnapshotError::Damaged(error.to_string());
    let Format { format } = rmp_serde::from_slice(&bytes).map_err(undecoded)?;
    if format != FORMAT {
        return Err(SnapshotError::UnknownFormat(format));
    }
    let header: Header = rmp_serde::from_slice(&bytes).map_err(undecoded)?;
    if header.owner != *owner {
        return Err(SnapshotError::Foreign(Box::new(header.owner)));
    }
    if header.checkpoint != *checkpoint {
        let (found, listed) = (header.checkpoint.position, checkpoint.position);
        return Err(SnapshotError::Damaged(format!(
            "its checkpoint, at {found}, is not the one that is listed, at {listed}"
        )));
    }
    let producers = producers::read::<A>(header.producers, &mut frame)?;
    let left = header.rows;
    Ok(Reading { header, producers, frame, left, last: None, ended: false, key: Vec::new(), row: Vec::new() })
}

impl<R: Read, A: Application> Reading<R, A> {
    fn row(&mut self) -> Result<Option<KeyedRow<A>>, SnapshotError> {
        if self.left == 0 {
            // The checksum comes with the end of the frame, and the object's own with the end of the object.
            let more = io::copy(&mut self.frame, &mut io::sink()).map_err(damaged)?;
            let more = more + io::copy(self.frame.get_mut(), &mut io::sink()).map_err(damaged)?;
            return match more {
                0 => Ok(None),
                more => Err(SnapshotError::Damaged(format!("{more} bytes follow its last row"))),
            };
        }
        self.left -= 1;
        let width = match <A::Key as Key>::Stored::fixed_width() {
            Some(width) => width,
            None => length(&mut self.frame, MOST_KEY_BYTES)?,
        };
        self.key.resize(width, 0);
        self.frame.read_exact(&mut self.key).map_err(damaged)?;
        let bytes = length(&mut self.frame, MOST_ROW_BYTES)?;
        self.row.resize(bytes, 0);
        self.frame.read_exact(&mut self.row).map_err(damaged)?;
        // Before anybody looks at the key: what its bytes are is known only now.
        let row = sealed::open::<A::Row>(&self.key, &self.row).map_err(|undecoded| {
            let key = hex::encode(&self.key);
            SnapshotError::Damaged(match undecoded {
                Undecoded::Damaged => format!("the checksum of the row of {key} is wrong"),
                Undecoded::Unknown => format!("a row of another shape stands at {key}"),
            })
        })?;
        let key = A::Key::loaded(<A::Key as Key>::Stored::from_bytes(&self.key));
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(SnapshotError::Damaged(format!("{key:?} is out of order")));
        }
        self.last = Some(key.clone());
        Ok(Some((key, row)))
    }
}

/// The length of what comes next, which is `most` bytes at the most.
fn length(frame: &mut impl Read, most: u64) -> Result<usize, SnapshotError> {
    let length = leb128::read::unsigned(frame).map_err(|error| SnapshotError::Damaged(error.to_string()))?;
    let sound = usize::try_from(length).ok().filter(|_| length <= most);
    sound.ok_or_else(|| SnapshotError::Damaged(format!("something in it is {length} bytes long")))
}

/// Ends after the last row only if all of it was there and intact.
impl<R: Read, A: Application> Iterator for Reading<R, A> {
    type Item = Result<KeyedRow<A>, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Whoever hands over the bytes knows of its own trouble in getting them: what goes wrong here is wrong with them.
fn damaged(error: io::Error) -> SnapshotError {
    SnapshotError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::{Cx, Never, Slot, Undecodable};
    use crate::sample::{Text, Texts};
    use crate::store::Store;
    use crate::transaction::{Tally, Transaction};

    fn owner(partition: u32) -> Owner {
        Owner { log: format!("chunks-{partition}"), partition, partitions: 8 }
    }

    fn rows(n: u32) -> Vec<([u8; 16], Text)> {
        let row = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            (bytes, Text::of(n.into(), if n.is_multiple_of(2) { 109 } else { 37 }))
        };
        (0..n).map(row).collect()
    }

    fn store(folder: &std::path::Path, n: u32) -> Store<Texts> {
        let store = Store::open(folder, &owner(0), 1 << 20).unwrap();
        let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
        let transaction = Transaction {
            number: 1,
            rows: rows(n),
            collected: vec![],
            producers: vec![],
            checkpoint,
            tally: Tally::default(),
        };
        store.commit(&transaction).unwrap();
        store
    }

    #[test]
    fn a_store_comes_back_row_by_row() {
        for n in [0, 1, 3000] {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let original = store(from.path(), n);
            let mut bytes = Vec::new();
            let header = write(&original.view().unwrap(), &owner(0), &mut bytes).unwrap();
            assert_eq!((header.checkpoint.position, header.rows), (7, n.into()));
            let restored = Store::<Texts>::open(to.path(), &owner(0), 1 << 20).unwrap();
            let reading = read::<_, Texts>(bytes.as_slice(), &owner(0), &header.checkpoint).unwrap();
            let header = reading.header.clone();
            restored.restore(&header.checkpoint, &header.accepted, &[], reading, |_| {}).unwrap();
            assert_eq!(restored.checkpoint().unwrap(), original.checkpoint().unwrap());
            assert_eq!(restored.rows_after(None, 9999).unwrap().0, rows(n));
        }
    }

    #[test]
    fn whatever_is_damaged_leaves_the_store_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut bytes = Vec::new();
        let checkpoint = write(&store(from.path(), 500).view().unwrap(), &owner(0), &mut bytes).unwrap().checkpoint;
        let kept = store(to.path(), 3);
        let mut more = bytes.clone();
        more.push(0);
        let mut damaged = vec![bytes[..bytes.len() - 1].to_vec(), bytes[..bytes.len() / 2].to_vec(), more, vec![]];
        for at in (0..bytes.len()).step_by(97) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            damaged.push(flipped);
        }
        for bytes in damaged {
            let result = read::<_, Texts>(bytes.as_slice(), &owner(0), &checkpoint).and_then(|reading| {
                let header = reading.header.clone();
                kept.restore(&header.checkpoint, &header.accepted, &[], reading, |_| {})
            });
            assert!(matches!(result, Err(SnapshotError::Damaged(_) | SnapshotError::UnknownFormat(_))), "{result:?}");
        }
        assert_eq!(kept.rows_after(None, 9).unwrap().0, rows(3));
        assert!(matches!(read::<_, Texts>(bytes.as_slice(), &owner(1), &checkpoint), Err(SnapshotError::Foreign(_))));
        let listed = Checkpoint { live: 1, ..checkpoint };
        assert!(matches!(read::<_, Texts>(bytes.as_slice(), &owner(0), &listed), Err(SnapshotError::Damaged(_))));
    }

    /// Words and how often each was said.
    #[derive(Clone)]
    struct Words;

    impl Application for Words {
        const NAME: &'static str = "words";

        type Key = String;
        type Row = u64;
        type Record<'a> = &'a str;
        type Output = Never;
        type Reason = Never;
        type Tally = ();

        fn records<'a>(&self, _: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
            std::iter::empty()
        }

        fn key<'r>(&self, word: &'r &str) -> &'r str {
            word
        }

        fn fold(&self, _: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
            Ok(())
        }
    }

    #[test]
    fn keys_and_rows_may_have_any_length_and_belong_to_one_application() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::<Words>::open(from.path(), &owner(0), 1 << 20).unwrap();
        let rows: Vec<_> =
            ["", "a", &"long ".repeat(99), "ä", "日本"].map(|word| (word.to_owned(), word.len() as u64)).into();
        let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
        let transaction = Transaction {
            number: 1,
            rows: rows.clone(),
            collected: vec![],
            producers: vec![],
            checkpoint,
            tally: Tally::default(),
        };
        store.commit(&transaction).unwrap();
        let mut bytes = Vec::new();
        write(&store.view().unwrap(), &owner(0), &mut bytes).unwrap();
        let restored = Store::<Words>::open(to.path(), &owner(0), 1 << 20).unwrap();
        let reading = read::<_, Words>(bytes.as_slice(), &owner(0), &checkpoint).unwrap();
        restored.restore(&checkpoint, &[], &[], reading, |_| {}).unwrap();
        assert_eq!(restored.rows_after(None, 9).unwrap(), (rows, true));
        let other = read::<_, Texts>(bytes.as_slice(), &owner(0), &checkpoint);
        assert!(matches!(other, Err(SnapshotError::Damaged(_))));
    }
}
