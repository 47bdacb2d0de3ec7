//! `Endings`: how single streams have ended, for whoever wants to know more than what is counted.

use crate::run::ledger::Ending;
use crate::run::presence::Moment;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// What is told and not taken yet, at the most. More is not told: the ledger waits for nobody, and counts all the same.
const MOST_UNTAKEN: usize = 1 << 17;

/// Something that a ledger has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A right final came at this time, and so long after its closing chunk was due.
    Came { at: Moment, took: Duration },
    /// A stream has ended other than verified; if its final was late, it came before.
    Badly(Ending),
}

/// Where it is told; by default nowhere.
#[derive(Clone, Debug, Default)]
pub struct Endings(Option<SyncSender<Told>>);

impl Endings {
    pub fn channel() -> (Self, Receiver<Told>) {
        let (sender, receiver) = sync_channel(MOST_UNTAKEN);
        (Self(Some(sender)), receiver)
    }

    pub fn tell(&self, told: Told) {
        if let Some(sender) = &self.0 {
            sender.try_send(told).ok();
        }
    }
}
