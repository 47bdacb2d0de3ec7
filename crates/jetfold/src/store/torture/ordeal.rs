//! `Ordeal`: one life of a store over a disk with one trouble, and what is found afterwards.

use crate::caught::caught;
use crate::store::torture::disk::{Disk, Trouble};
use crate::store::torture::left::Left;
use crate::store::torture::work::{Act, Content, Parcels, STEPS, Step};
use crate::store::{Owner, Store, StoreError, aside};
use std::fs;
use std::io;
use std::path::PathBuf;

const PATH: &str = "data/parcels-0.redb";

/// Beyond all positions of the steps.
const FURTHER: u64 = 90;

/// What a store has to be after a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// What was acknowledged last, or what was under way behind it.
    Whole,
    /// Or what was acknowledged earlier.
    Earlier,
    /// Or damaged. Or a mixture: the disk has kept old pages in the place of new ones, and each is whole.
    Nothing,
}

/// What a store has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The trouble never came.
    Untroubled,
    Whole,
    Earlier,
    Damaged,
    /// Not opened for as long as the disk was full, and whole once it was not.
    Refused,
    Mixed,
}

#[derive(Clone, Copy, Debug)]
pub struct Ordeal {
    pub trouble: Trouble,
    pub n: u64,
    pub left: Left,
    pub seed: u64,
    pub cache: usize,
    pub promise: Promise,
}

/// What whoever used the store knows of it.
struct Known {
    /// What it has held, up to what was acknowledged last.
    acknowledged: Vec<Content>,
    /// What it may hold besides, because nobody knows whether that was done.
    under_way: Option<Content>,
}

fn owner() -> Owner {
    Owner { log: "parcels-0".into(), partition: 0, partitions: 1 }
}

fn open(disk: &Disk, cache: usize) -> Result<Store<Parcels>, StoreError> {
    Store::open_over(|| Ok(disk.opened()), PathBuf::from(PATH), &owner(), cache)
}

impl Ordeal {
    /// How many of what the trouble strikes there are in a life without it.
    pub fn most(trouble: Trouble, cache: usize) -> u64 {
        let disk = Disk::new(None, 0);
        let known = live(&disk, cache, |_| Ok(())).expect("nothing is wrong with the disk");
        assert_eq!(known.acknowledged.last().and_then(Content::position), Some(42));
        disk.calls().of(trouble)
    }

    /// # Errors
    /// What must not be.
    pub fn undergo(self) -> Result<End, String> {
        caught(|| self.endure()).unwrap_or_else(|said| Err(format!("a panic: {said}")))
    }

    fn endure(self) -> Result<End, String> {
        let disk = Disk::new(Some((self.trouble, self.n)), self.seed);
        let known = live(&disk, self.cache, |error| self.is_told(error))?;
        if !disk.struck() {
            return Ok(End::Untroubled);
        }
        if disk.changed_since() > 0 {
            return Err(format!("{} changes after something was refused", disk.changed_since()));
        }
        disk.restart(self.left);
        if self.trouble != Trouble::IsFull {
            return self.judge(&disk, &known);
        }
        let refused = open(&disk, self.cache).err();
        refused.iter().try_for_each(|error| self.is_told(error))?;
        disk.make_room();
        disk.restart(Left::All);
        let end = self.judge(&disk, &known)?;
        Ok(if refused.is_some() { End::Refused } else { end })
    }

    /// Whether an error names the store and what the disk has said, in one line.
    fn is_told(self, error: &StoreError) -> Result<(), String> {
        let cause = match self.trouble {
            Trouble::Refuses(_, errno) => io::Error::from_raw_os_error(errno).to_string(),
            Trouble::IsFull => io::Error::from_raw_os_error(libc::ENOSPC).to_string(),
            Trouble::LosesPower | Trouble::Forgets(_) => "the power is gone".to_owned(),
        };
        let said = error.to_string();
        let well = said.contains(PATH) && said.contains(&cause) && !said.contains('\n');
        if matches!(error, StoreError::Failed { .. }) && well { Ok(()) } else { Err(format!("it says {said:?}")) }
    }

    /// What is found of a store by whoever opens it next.
    fn judge(self, disk: &Disk, known: &Known) -> Result<End, String> {
        let left = disk.bytes();
        let opened = open(disk, self.cache);
        let at_once = opened.is_err();
        match opened.and_then(|store| Ok((Content::of(&store)?, store))) {
            Ok((content, store)) => {
                let end = known.is_it(&content);
                if self.promise == Promise::Nothing {
                    // What looks whole may have an old list of what is free, and lose pages to the next transaction.
                    let sound = end != End::Mixed && self.goes_on(disk, store, &content).is_ok();
                    return Ok(if sound { end } else { End::Mixed });
                }
                if end == End::Mixed || end == End::Earlier && self.promise == Promise::Whole {
                    return Err(format!("{end:?}: it stands at {:?}, {}", content.position(), known.stood_at()));
                }
                self.goes_on(disk, store, &content).map(|()| end)
            }
            Err(StoreError::Damaged { .. }) if self.promise == Promise::Nothing => {
                if at_once {
                    is_replaced(&left)?;
                }
                Ok(End::Damaged)
            }
            Err(error) => Err(format!("afterwards it is refused: {error}")),
        }
    }

    /// A store that is whole finds its rows by their keys, takes the next transaction, and keeps it.
    fn goes_on(self, disk: &Disk, store: Store<Parcels>, content: &Content) -> Result<(), String> {
        let said = |error: StoreError| format!("afterwards it fails: {error}");
        let mut keys: Vec<_> = content.rows.keys().copied().collect();
        if !store.rows(&mut keys).map_err(said)?.iter().map(|(key, row)| (key, row)).eq(&content.rows) {
            return Err("rows are not found by their keys".to_owned());
        }
        let next = Act::Commit(FURTHER);
        next.on(&store).map_err(said)?;
        drop(store);
        disk.restart(Left::Nothing);
        let found = Content::of(&open(disk, self.cache).map_err(said)?).map_err(said)?;
        if found == next.after(content) { Ok(()) } else { Err("what comes next is not kept".to_owned()) }
    }
}

impl Known {
    fn is_it(&self, content: &Content) -> End {
        if self.acknowledged.last() == Some(content) || self.under_way.as_ref() == Some(content) {
            End::Whole
        } else if self.acknowledged.contains(content) {
            End::Earlier
        } else {
            End::Mixed
        }
    }

    fn stood_at(&self) -> String {
        let [acknowledged, under_way] =
            [self.acknowledged.last(), self.under_way.as_ref()].map(|it| it.and_then(Content::position));
        format!("and stood at {acknowledged:?}, on the way to {under_way:?}")
    }
}

/// Goes through all steps, or up to the trouble. `is_told` judges the errors.
fn live(disk: &Disk, cache: usize, is_told: impl Fn(&StoreError) -> Result<(), String>) -> Result<Known, String> {
    let mut known = Known { acknowledged: vec![Content::default()], under_way: None };
    let mut store = None;
    for step in STEPS {
        let done = match step {
            Step::Open => open(disk, cache).map(|opened| store = Some(opened)),
            Step::Act(act) => {
                let after = act.after(known.acknowledged.last().expect("there is one from the beginning"));
                known.under_way = Some(after.clone());
                let done = act.on(store.as_ref().expect("it is open"));
                if done.is_ok() {
                    known.acknowledged.push(after);
                    known.under_way = None;
                }
                done
            }
            Step::Close => {
                store = None;
                Ok(())
            }
            Step::Kill => {
                disk.end_process();
                store = None;
                Ok(())
            }
        };
        if let Err(error) = done {
            is_told(&error)?;
            // Whoever does not give up hears the same again.
            match store.as_ref().map(|store| Act::Commit(FURTHER).on(store)) {
                Some(Ok(())) => return Err("after an error it commits".to_owned()),
                Some(Err(error)) => is_told(&error)?,
                None => {}
            }
            return Ok(known);
        }
        // A store that is closed says nothing of a disk that refuses.
        if disk.refused() {
            return Ok(known);
        }
    }
    Ok(known)
}

/// What is damaged is kept aside, and an empty store is there for it.
fn is_replaced(left: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("parcels-0.redb");
    fs::write(&path, left).map_err(|error| error.to_string())?;
    let store =
        Store::<Parcels>::open_or_replace(folder.path(), &owner(), 1 << 20).map_err(|error| error.to_string())?;
    let aside = aside::found(&path).map_err(|error| error.to_string())?;
    match (store.replaced(), Content::of(&store), &*aside) {
        (Some(_), Ok(content), [_]) if content == Content::default() => Ok(()),
        other => Err(format!("it is not set aside for an empty one: {other:?}")),
    }
}
