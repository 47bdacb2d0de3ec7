//! For tests that send a worker anything at all: what jetfold decodes of what others have put, each by its own bytes.
//!
//! Batches, snapshots and the rows of an application are decoded by what is public anyway. These are not: nothing but a worker has
//! a use for them. None of them may panic, whatever the bytes are, and none may hold more than it says.

use crate::application::Row;
use crate::group::member::{Handed, Member, Owned};
use crate::group::roster::{BEAT, Roster};
use crate::nats::read::StoredMessage;
use crate::producer::Producer;
use crate::stamp::{STAMP, Stamp};
use crate::worker::ask::Told;
use std::collections::BTreeSet;
use std::time::Duration;

/// The headers of a message as a stream holds them: the stamp in them, if there is one.
pub fn stamp_of_headers(headers: &[u8]) -> Option<Stamp> {
    StoredMessage::with_headers(headers.to_vec()).unfolded_header(STAMP)?.parse().ok()
}

/// What a worker tells of a producer: the same once more, if it is that.
pub fn told(bytes: &[u8]) -> Option<Vec<u8>> {
    Told::decode(bytes).map(|told| told.encode())
}

/// The row of a producer: the same once more, if it is one.
pub fn producer_row(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut again = Vec::new();
    Producer::decode(bytes)?.encode(&mut again);
    Some(again)
}

/// What a group remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Entries that were taken for what a member says.
    pub taken: usize,
    pub members: usize,
    /// Partitions that somebody has claimed.
    pub claimed: usize,
}

/// Has one member of a group with so many partitions hear entries of the bucket of presence, each under a name, and decide after each
/// what to do. A second goes by with each.
pub fn group<'a>(partitions: u32, entries: impl IntoIterator<Item = (String, &'a [u8])>) -> Remembered {
    let mut roster = Roster::new("me".to_owned(), partitions, Duration::from_secs(15));
    let (mut taken, owned) = (0, |partition| Owned { partition, term: 1, position: 1 });
    let mut me = Member { standby: 1, owns: (0..partitions / 2).map(owned).collect(), ..Member::default() };
    for (name, entry) in entries {
        if let Some(member) = Member::decode(entry) {
            taken += 1;
            roster.heard(&name, member);
        }
        roster.attend(BEAT, true);
        roster.decide(&me, &BTreeSet::new());
        for partition in 0..partitions {
            roster.handed(partition);
            roster.next_term(partition);
        }
        me.leaving = !me.leaving;
    }
    let (members, claimed) = roster.remembered();
    Remembered { taken, members, claimed }
}

/// An entry of the bucket of presence, as a member that folds partitions under a term writes it.
pub fn entry(incarnation: u64, partitions: impl IntoIterator<Item = u32>, term: u64) -> Vec<u8> {
    let owned = |partition| Owned { partition, term, position: 1 };
    let handed = vec![Handed { partition: 0, position: 1, stopped_ms_ago: 1 }];
    let owns = partitions.into_iter().map(owned).collect();
    Member { incarnation: (incarnation, "n".to_owned()), owns, handed, ..Member::default() }.encode()
}
