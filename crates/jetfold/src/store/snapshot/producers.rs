//! The producers in a snapshot: between the header and the rows, if batches are stamped.

use super::{SnapshotError, damaged, length};
use crate::application::{Application, Input};
use crate::producer::{MOST_PRODUCERS, NamedProducer};
use crate::stamp::MOST_NAME_BYTES;
use crate::store::sealed::{self, MOST_ROW_BYTES, Undecoded};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// What the header says of them.
pub(super) fn count<A: Application>(all: &[NamedProducer]) -> Option<u64> {
    matches!(A::INPUT, Input::Stamped).then_some(all.len() as u64)
}

pub(super) fn write(all: &[NamedProducer], frame: &mut impl Write) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(64);
    for (name, row) in all {
        buffer.clear();
        sealed::seal_under(name.as_bytes(), row, &mut buffer);
        for bytes in [name.as_bytes(), &buffer] {
            leb128::write::unsigned(frame, bytes.len() as u64)?;
            frame.write_all(bytes)?;
        }
    }
    Ok(())
}

/// As many as the header says.
pub(super) fn read<A: Application>(
    count: Option<u64>,
    frame: &mut impl Read,
) -> Result<Vec<NamedProducer>, SnapshotError> {
    let stamped = matches!(A::INPUT, Input::Stamped);
    let count = match count {
        None if !stamped => return Ok(Vec::new()),
        Some(count) if stamped && count <= MOST_PRODUCERS as u64 => count,
        other => return Err(SnapshotError::Damaged(format!("its header tells of producers: {other:?}"))),
    };
    let mut all: Vec<NamedProducer> = Vec::new();
    for _ in 0..count {
        let name = read_bytes(frame, MOST_NAME_BYTES as u64)?;
        let row = read_bytes(frame, MOST_ROW_BYTES)?;
        let row = sealed::open(&name, &row).map_err(|undecoded| {
            let name = String::from_utf8_lossy(&name);
            SnapshotError::Damaged(match undecoded {
                Undecoded::Damaged => format!("the checksum of the producer {name:?} is wrong"),
                Undecoded::Unknown => format!("a row of another shape stands at the producer {name:?}"),
            })
        })?;
        let name: Arc<str> = String::from_utf8(name).map_err(|error| SnapshotError::Damaged(error.to_string()))?.into();
        if all.last().is_some_and(|(last, _)| *last >= name) {
            return Err(SnapshotError::Damaged(format!("the producer {name:?} is out of order")));
        }
        all.push((name, row));
    }
    Ok(all)
}

fn read_bytes(frame: &mut impl Read, most: u64) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = vec![0; length(frame, most)?];
    frame.read_exact(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::producer::Producer;
    use crate::sample::Letters;
    use crate::sample::Texts;
    use crate::store::snapshot;
    use crate::store::{Owner, Store};
    use crate::transaction::{Tally, Transaction};

    fn owner() -> Owner {
        Owner { log: "log-0".into(), partition: 0, partitions: 1 }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { position: 7, ..Checkpoint::start_of(1) }
    }

    fn producers(count: u64) -> Vec<NamedProducer> {
        let row = |n| Producer { life: n, number: n, offset: n, contested: n.is_multiple_of(2), changed_at: 5 };
        (0..count).map(|n| (format!("{n:0>60}").into(), row(n))).collect()
    }

    fn store(folder: &std::path::Path, count: u64) -> Store<Letters> {
        let store = Store::open(folder, &owner(), 1 << 20).unwrap();
        let changed = producers(count).into_iter().map(|(name, row)| (name, Some(row))).collect();
        let (rows, tally) = (vec![(1, 2), (3, 4)], Tally::default());
        let checkpoint = checkpoint();
        let transaction = Transaction { number: 1, rows, collected: vec![], producers: changed, checkpoint, tally };
        store.commit(&transaction).unwrap();
        store
    }

    fn written(count: u64) -> Vec<u8> {
        let (folder, mut bytes) = (tempfile::tempdir().unwrap(), Vec::new());
        snapshot::write(&store(folder.path(), count).view().unwrap(), &owner(), &mut bytes).unwrap();
        bytes
    }

    fn restored(bytes: &[u8], to: &Store<Letters>) -> Result<(), SnapshotError> {
        let reading = snapshot::read::<_, Letters>(bytes, &owner(), &checkpoint())?;
        let producers = reading.producers.clone();
        to.restore(&checkpoint(), &[], &producers, reading, |_| {})
    }

    #[test]
    fn producers_come_back_from_a_snapshot() {
        for count in [0, 1, 1000] {
            let folder = tempfile::tempdir().unwrap();
            let to = store(folder.path(), 5);
            restored(&written(count), &to).unwrap();
            assert_eq!(to.view().unwrap().producers().unwrap(), producers(count));
            assert_eq!(to.rows_after(None, 9).unwrap(), (vec![(1, 2), (3, 4)], true));
        }
    }

    #[test]
    fn a_snapshot_whose_producers_are_damaged_leaves_the_store_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let to = store(folder.path(), 5);
        let bytes = written(3);
        let (magic, frame) = bytes.split_at("letters snapshot\n".len());
        let plain = zstd::decode_all(frame).unwrap();
        let len = u32::from_le_bytes(*plain.first_chunk().unwrap()) as usize;
        let mut refused = 0;
        // Each byte of the producers, and none behind them: each has a name of 60 bytes, a row of 33, and a checksum.
        for at in 4 + len..4 + len + 3 * (1 + 60 + 1 + 33 + 8) {
            let mut flipped = plain.clone();
            flipped[at] ^= 0x04;
            let bytes = [magic, &zstd::encode_all(&*flipped, 1).unwrap()].concat();
            assert!(matches!(restored(&bytes, &to), Err(SnapshotError::Damaged(_))), "{at}");
            refused += 1;
        }
        assert_eq!(refused, 309);
        assert_eq!(to.view().unwrap().producers().unwrap(), producers(5));
    }

    #[test]
    fn what_a_header_tells_of_producers_fits_the_application() {
        let read = |count| read::<Letters>(count, &mut io::empty()).map_err(|error| error.to_string());
        assert_eq!(read(Some(0)), Ok(vec![]));
        assert_eq!(read(None), Err("it is damaged (its header tells of producers: None)".to_owned()));
        read(Some(MOST_PRODUCERS as u64 + 1)).unwrap_err();
        assert_eq!(super::read::<Texts>(None, &mut io::empty()).unwrap(), []);
        super::read::<Texts>(Some(0), &mut io::empty()).unwrap_err();
    }
}
