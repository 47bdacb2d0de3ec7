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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::sample::Letters;
    use crate::sample::Texts;
    use crate::store::{Owner, Store};
    use crate::transaction::{Tally, Transaction};
    use redb::{Database, ReadableDatabase, TableHandle};
    use std::path::Path;

    fn open<A: Application>(folder: &Path) -> Result<Store<A>, StoreError> {
        Store::open(folder, &Owner { log: "log-0".into(), partition: 0, partitions: 1 }, 1 << 20)
    }

    fn row(number: u64) -> Producer {
        Producer { life: 1, number, offset: 3 * number, contested: number.is_multiple_of(2), changed_at: 7 }
    }

    fn transaction(position: u64, producers: &[(&str, Option<u64>)]) -> Transaction<Letters> {
        Transaction {
            number: position,
            rows: vec![(1, position)],
            collected: vec![],
            producers: producers.iter().map(|(name, number)| ((*name).into(), number.map(row))).collect(),
            checkpoint: Checkpoint { position, ..Checkpoint::start_of(1) },
            tally: Tally::default(),
        }
    }

    fn named(producers: &[(&str, u64)]) -> Vec<NamedProducer> {
        producers.iter().map(|(name, number)| ((*name).into(), row(*number))).collect()
    }

    #[test]
    fn producers_come_back_after_a_reopen_and_those_that_have_expired_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = open::<Letters>(folder.path()).unwrap();
        assert_eq!(store.view().unwrap().producers().unwrap(), []);
        store.commit(&transaction(1, &[("b", Some(1)), ("a", Some(2)), ("c", Some(3))])).unwrap();
        let before = store.view().unwrap();
        store.commit(&transaction(2, &[("b", Some(4)), ("c", None), ("never", None)])).unwrap();
        assert_eq!(before.producers().unwrap(), named(&[("a", 2), ("b", 1), ("c", 3)]), "as it was at one moment");
        drop((before, store));
        let store = open::<Letters>(folder.path()).unwrap();
        let view = store.view().unwrap();
        assert_eq!(view.producers().unwrap(), named(&[("a", 2), ("b", 4)]));
        assert_eq!(view.producer("b").unwrap(), Some(row(4)));
        assert_eq!(view.producer("c").unwrap(), None);
    }

    #[test]
    fn a_restored_store_has_the_producers_that_it_is_given_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = open::<Letters>(folder.path()).unwrap();
        store.commit(&transaction(1, &[("a", Some(1)), ("b", Some(2))])).unwrap();
        let at = Checkpoint { position: 9, ..Checkpoint::start_of(1) };
        let failing = [Ok((1, 1)), Err(StoreError::Damaged { path: "".into(), what: "its source".into() })];
        store.restore(&at, &[], &named(&[("c", 1)]), failing.into_iter(), |_| {}).unwrap_err();
        assert_eq!(store.view().unwrap().producers().unwrap(), named(&[("a", 1), ("b", 2)]), "all or nothing");
        let none = std::iter::empty::<Result<_, StoreError>>();
        store.restore(&at, &[], &named(&[("b", 5), ("c", 1)]), none, |_| {}).unwrap();
        assert_eq!(store.view().unwrap().producers().unwrap(), named(&[("b", 5), ("c", 1)]));
    }

    #[test]
    fn a_producer_that_is_not_what_was_written_makes_the_store_damaged() {
        let sealed = |name: &str, number| {
            let mut bytes = Vec::new();
            sealed::seal_under(name.as_bytes(), &row(number), &mut bytes);
            bytes
        };
        let mut flipped = sealed("a", 1);
        flipped[9] ^= 1;
        for bytes in [flipped, sealed("b", 1), vec![]] {
            let folder = tempfile::tempdir().unwrap();
            drop(open::<Letters>(folder.path()).unwrap());
            let db = Database::open(folder.path().join("log-0.redb")).unwrap();
            let tx = db.begin_write().unwrap();
            tx.open_table(PRODUCERS).unwrap().insert("a", bytes.as_slice()).unwrap();
            tx.commit().unwrap();
            drop(db);
            let store = open::<Letters>(folder.path()).unwrap();
            let view = store.view().unwrap();
            assert!(matches!(view.producer("a"), Err(StoreError::Damaged { .. })));
            let said = view.producers().unwrap_err().to_string();
            assert!(said.ends_with(r#"the checksum of the producer "a" is wrong"#), "{said}");
            assert!(store.damage().is_some());
        }
    }

    #[test]
    fn a_store_whose_records_number_themselves_has_no_table_of_producers() {
        let folder = tempfile::tempdir().unwrap();
        let store = open::<Texts>(folder.path()).unwrap();
        assert_eq!(store.view().unwrap().producers().unwrap(), []);
        store.restore(&Checkpoint::start_of(1), &[], &[], std::iter::empty::<Result<_, StoreError>>(), |_| {}).unwrap();
        drop(store);
        let db = Database::open(folder.path().join("log-0.redb")).unwrap();
        let read = db.begin_read().unwrap();
        let mut tables: Vec<_> = read.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        tables.sort_unstable();
        assert_eq!(tables, ["meta", "rows"]);
    }
}
