//! Snapshots: a store at one position as a stream of bytes, and back.
//!
//! | bytes | are |
//! | --- | --- |
//! | 20 | `stream-sum snapshot` and a line end |
//! | the rest | one zstd frame with its checksum |
//!
//! | within the frame | is |
//! | --- | --- |
//! | u32, little-endian | length of the header |
//! | header | MessagePack map: [`Header`] |
//! | as often as the header says | an ID of 16 bytes, the row's length as one byte, an encoded [`Row`] with its checksum; sorted by ID |
//!
//! Both ways take as much memory as one row and zstd's window.

use crate::accept::Accepted;
use crate::checkpoint::Checkpoint;
use crate::row::{MOST_ROW_BYTES, Row, Undecoded};
use crate::store::{Owner, StoreError, View};
use crate::stream_id::StreamId;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, Read, Write};

const MAGIC: &[u8; 20] = b"stream-sum snapshot\n";

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
pub fn write(view: &View, owner: &Owner, out: impl Write) -> Result<Header, SnapshotError> {
    let checkpoint = view.checkpoint()?.ok_or(SnapshotError::NothingFolded)?;
    let accepted = view.accepted()?;
    let header = Header { format: FORMAT, owner: owner.clone(), checkpoint, accepted, rows: view.len()? };
    let mut out = out;
    out.write_all(MAGIC)?;
    let mut frame = zstd::Encoder::new(out, LEVEL)?;
    frame.include_checksum(true)?;
    let bytes = rmp_serde::to_vec_named(&header).expect("a header has a MessagePack form");
    let len = u32::try_from(bytes.len()).expect("a header is short");
    frame.write_all(&len.to_le_bytes())?;
    frame.write_all(&bytes)?;
    let mut buffer = Vec::with_capacity(128);
    view.each(None, |id, row| {
        buffer.clear();
        row.encode(id, &mut buffer);
        frame.write_all(id.as_bytes())?;
        frame.write_all(&[u8::try_from(buffer.len()).expect("a row is short")])?;
        frame.write_all(&buffer)?;
        Ok::<_, SnapshotError>(true)
    })?;
    frame.finish()?.flush()?;
    Ok(header)
}

/// A snapshot being read: its header, then its rows.
pub struct Reading<R: Read> {
    pub header: Header,
    frame: zstd::Decoder<'static, BufReader<R>>,
    left: u64,
    last: Option<StreamId>,
    ended: bool,
}

/// Begins to read a snapshot of `owner`'s store, which stood at `checkpoint`, as whoever lists it knows.
pub fn read<R: Read>(mut input: R, owner: &Owner, checkpoint: &Checkpoint) -> Result<Reading<R>, SnapshotError> {
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(damaged)?;
    if &magic != MAGIC {
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
    let left = header.rows;
    Ok(Reading { header, frame, left, last: None, ended: false })
}

impl<R: Read> Reading<R> {
    fn row(&mut self) -> Result<Option<(StreamId, Row)>, SnapshotError> {
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
        let mut head = [0; 17];
        self.frame.read_exact(&mut head).map_err(damaged)?;
        let (id, len) = (StreamId::new(head[..16].try_into().expect("16 bytes")), usize::from(head[16]));
        let mut bytes = [0; 256];
        let bytes = &mut bytes[..len];
        self.frame.read_exact(bytes).map_err(damaged)?;
        let row = if len > MOST_ROW_BYTES { Err(Undecoded::Damaged) } else { Row::decode(id, bytes) };
        let row = row.map_err(|undecoded| {
            SnapshotError::Damaged(match undecoded {
                Undecoded::Damaged => format!("the checksum of the row of stream {id} is wrong"),
                Undecoded::Unknown => format!("a row of another shape stands at stream {id}"),
            })
        })?;
        if self.last.is_some_and(|last| last >= id) {
            return Err(SnapshotError::Damaged(format!("stream {id} is out of order")));
        }
        self.last = Some(id);
        Ok(Some((id, row)))
    }
}

/// Ends after the last row only where all of it was there and intact.
impl<R: Read> Iterator for Reading<R> {
    type Item = Result<(StreamId, Row), SnapshotError>;

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
    use crate::chunk::{Chunk, SeqNo};
    use crate::store::Store;
    use crate::sum::RunningSum;
    use crate::transaction::{Tally, Transaction};

    fn owner(partition: u32) -> Owner {
        Owner { log: format!("chunks-{partition}"), partition, partitions: 8 }
    }

    fn rows(n: u32) -> Vec<(StreamId, Row)> {
        let row = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let id = StreamId::new(bytes);
            let sum = RunningSum::open(&Chunk { id, seq_no: SeqNo::FIRST, data: &n.to_le_bytes() });
            let row = match n % 2 {
                0 => Row::Live { sum, changed_at: n.into() },
                _ => Row::Completed { seq_no: SeqNo::FIRST, value: sum.value(), changed_at: n.into() },
            };
            (id, row)
        };
        (0..n).map(row).collect()
    }

    fn store(folder: &std::path::Path, n: u32) -> Store {
        let store = Store::open(folder, &owner(0), 1 << 20).unwrap();
        let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
        let transaction =
            Transaction { number: 1, rows: rows(n), collected: vec![], checkpoint, tally: Tally::default() };
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
            let restored = Store::open(to.path(), &owner(0), 1 << 20).unwrap();
            let reading = read(bytes.as_slice(), &owner(0), &header.checkpoint).unwrap();
            let header = reading.header.clone();
            restored.restore(&header.checkpoint, &header.accepted, reading, |_| {}).unwrap();
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
            let result = read(bytes.as_slice(), &owner(0), &checkpoint).and_then(|reading| {
                let header = reading.header.clone();
                kept.restore(&header.checkpoint, &header.accepted, reading, |_| {})
            });
            assert!(matches!(result, Err(SnapshotError::Damaged(_) | SnapshotError::UnknownFormat(_))), "{result:?}");
        }
        assert_eq!(kept.rows_after(None, 9).unwrap().0, rows(3));
        assert!(matches!(read(bytes.as_slice(), &owner(1), &checkpoint), Err(SnapshotError::Foreign(_))));
        let listed = Checkpoint { live_streams: 1, ..checkpoint };
        assert!(matches!(read(bytes.as_slice(), &owner(0), &listed), Err(SnapshotError::Damaged(_))));
    }
}
