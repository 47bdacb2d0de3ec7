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
