//! The table of producers, in stores of applications whose batches are stamped.

use crate::application::{Application, Input};
use crate::caught::Quiet;
use crate::producer::{ChangedProducer, NamedProducer, Producer};
use crate::store::sealed::{self, Undecoded};
use crate::store::{StoreError, View};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use std::sync::Arc;

const PRODUCERS: TableDefinition<&str, &[u8]> = TableDefinition::new("producers");

/// Whether a store of this application has the table.
pub(super) const fn has_table<A: Application>() -> bool {
    matches!(A::INPUT, Input::Stamped)
}

/// Makes the table, empty, whatever there was.
pub(super) fn make(tx: &WriteTransaction) -> Result<(), redb::Error> {
    tx.delete_table(PRODUCERS)?;
    tx.open_table(PRODUCERS)?;
    Ok(())
}

/// Writes what has become of producers.
pub(super) fn put(tx: &WriteTransaction, changed: &[ChangedProducer]) -> Result<(), redb::Error> {
    let mut table = tx.open_table(PRODUCERS)?;
    let mut buffer = Vec::with_capacity(64);
    for (name, row) in changed {
        match row {
            None => _ = table.remove(&**name)?,
            Some(row) => {
                buffer.clear();
                sealed::seal_under(name.as_bytes(), row, &mut buffer);
                table.insert(&**name, buffer.as_slice())?;
            }
        }
    }
    Ok(())
}

impl<A: Application> View<A> {
    /// How far a producer has come: the last of its batches that is folded. `None` if there is none, or it has expired.
    pub fn producer(&self, name: &str) -> Result<Option<Producer>, StoreError> {
        if !has_table::<A>() {
            return Ok(None);
        }
        let found = self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(PRODUCERS)?);
            Ok(table.get(name)?.map(|row| sealed::open(name.as_bytes(), row.value())))
        })?;
        found.map(|row| self.decoded_producer(name, row)).transpose()
    }

    /// All producers that have not expired, by name. They are all: their number is compared with the one that the store knows.
    pub fn producers(&self) -> Result<Vec<NamedProducer>, StoreError> {
        if !has_table::<A>() {
            return Ok(Vec::new());
        }
        let (found, len) = self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(PRODUCERS)?);
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (name, row) = entry?;
                found.push((name.value().into(), sealed::open(name.value().as_bytes(), row.value())));
            }
            Ok((found, table.len()?))
        })?;
        let decoded = found.into_iter().map(|(name, row): (Arc<str>, _)| {
            let row = self.decoded_producer(&name, row)?;
            Ok((name, row))
        });
        let all = decoded.collect::<Result<Vec<_>, StoreError>>()?;
        if let Some(two) = all.windows(2).find(|two| two[0].0 >= two[1].0) {
            return Err(self.health.damaged(format!("the producer {:?} is out of order", two[1].0)));
        }
        if all.len() as u64 != len {
            return Err(self.health.damaged(format!("{} of its {len} producers are there", all.len())));
        }
        Ok(all)
    }

    fn decoded_producer(&self, name: &str, row: Result<Producer, Undecoded>) -> Result<Producer, StoreError> {
        row.map_err(|undecoded| match undecoded {
            Undecoded::Damaged => self.health.damaged(format!("the checksum of the producer {name:?} is wrong")),
            Undecoded::Unknown => StoreError::UnknownFormat {
                path: self.health.path().to_owned(),
                what: format!("a row of another shape for the producer {name:?}"),
            },
        })
    }
}
