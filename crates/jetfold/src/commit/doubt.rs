//! Doubt: whether a stream of effects may have forgotten what it has acknowledged since a transaction was opened.
//!
//! A server that loses power comes back without the end of what it had acknowledged, and gives its sequences again. If
//! the worker is connected to another server, its connection stands, and the furthest message of a
//! transaction may well be there while others of it are gone. What tells:
//!
//! | sign | because |
//! | --- | --- |
//! | an acknowledgement at or below one already seen | its sequence was given twice |
//! | a publish that ended unknown | whoever should have answered was gone |
//! | another leader than when the transaction was opened, or one elected since | it may know less |
//! | a connection that was made anew | its server may have been the one |
//! | the furthest message before a silence is not there | no server comes back without a pause |
//!
//! Each of the first four puts all effects of the transaction in doubt: each is read back. The last is looked for
//! before each commit: the messages to look for are the [witnesses](Trail::witnesses).
//!
//! All of it is pure: time is handed in.

use crate::time::UnixNanos;
use std::time::Duration;

/// No server that has lost its memory answers again within this: what was acknowledged without such a silence in between was
/// lost together or not at all.
pub const SILENCE: Duration = Duration::from_millis(100);

/// Silences of one transaction that are looked behind one by one.
const MOST_WITNESSES: usize = 64;

/// Where a message of a stream was confirmed. `K` tells whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<K> {
    pub sequence: u64,
    pub key: K,
}

impl<K> Place<K> {
    /// Takes this in the place of what was the furthest so far, if it lies further on.
    pub fn further(self, furthest: &mut Option<Self>) {
        if furthest.as_ref().is_none_or(|furthest| furthest.sequence < self.sequence) {
            *furthest = Some(self);
        }
    }
}

/// Who leads a stream, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub name: Option<String>,
    pub since: Option<UnixNanos>,
    pub created: UnixNanos,
}

/// Who leads the streams of a partition, as far as they have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaders {
    pub outputs: Option<Leader>,
    pub rejects: Option<Leader>,
    pub log: Option<Leader>,
}

/// Why all effects of a transaction are in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Sign {
    #[error("sequence {sequence} was acknowledged after {highest}")]
    Backwards { sequence: u64, highest: u64 },
    #[error("a publish ended unknown")]
    Unknown,
    #[error("another leader was elected")]
    NewLeader,
    #[error("the connection was made anew")]
    Reconnected,
    #[error("it fell silent too often")]
    Silences,
}

/// The acknowledgements of one stream over a session, in the order in which they came.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    highest: u64,
}

impl Order {
    /// `known` is the furthest sequence that is known to be there.
    pub fn after(known: u64) -> Self {
        Self { highest: known }
    }

    /// A message was stored at `sequence`: a sign, if that was given before.
    pub fn stored(&mut self, sequence: u64) -> Option<Sign> {
        let highest = self.highest;
        self.highest = highest.max(sequence);
        (sequence <= highest && !crate::planted!("sequences-that-are-given-twice-are-no-sign"))
            .then_some(Sign::Backwards { sequence, highest })
    }
}

/// What one transaction has had confirmed by one stream.
#[derive(Clone, Debug)]
pub struct Trail<K> {
    /// Who led the stream when the transaction was opened; `None` if nobody said.
    leader: Option<Leader>,
    furthest: Option<Place<K>>,
    /// When something was confirmed last.
    at: Option<Duration>,
    witnesses: Vec<Place<K>>,
    sign: Option<Sign>,
}

impl<K: Clone> Trail<K> {
    pub fn led_by(leader: Option<Leader>) -> Self {
        Self { leader, furthest: None, at: None, witnesses: Vec::new(), sign: None }
    }

    /// The same trail, with `key` telling whose each message is.
    pub fn map<L>(self, key: impl Fn(K) -> L) -> Trail<L> {
        let place = |Place { sequence, key: of }| Place { sequence, key: key(of) };
        Trail {
            leader: self.leader,
            furthest: self.furthest.map(&place),
            at: self.at,
            witnesses: self.witnesses.into_iter().map(&place).collect(),
            sign: self.sign,
        }
    }

    /// A message was confirmed at `now`: acknowledged, or read back.
    pub fn confirmed(&mut self, place: Place<K>, now: Duration) {
        let silence = self.at.replace(now).is_some_and(|at| now.saturating_sub(at) >= SILENCE);
        // What is lost is an end: if the furthest is there, so is all that came before it.
        if silence
            && !crate::planted!("a-silence-leaves-no-witness")
            && let Some(furthest) = &self.furthest
            && self.witnesses.last().is_none_or(|last| last.sequence != furthest.sequence)
        {
            match self.witnesses.len() < MOST_WITNESSES {
                true => self.witnesses.push(furthest.clone()),
                false => self.doubt(Sign::Silences),
            }
        }
        place.further(&mut self.furthest);
    }

    /// Something speaks against all of it: the first sign stays.
    pub fn doubt(&mut self, sign: Sign) {
        self.sign.get_or_insert(sign);
    }

    /// Why all of it is in doubt, with `leader` leading the stream by now.
    pub fn sign(&self, leader: &Leader) -> Option<Sign> {
        let same = self.leader.as_ref() == Some(leader) || crate::planted!("another-leader-is-no-sign");
        self.sign.or((self.furthest.is_some() && !same).then_some(Sign::NewLeader))
    }

    /// The message that is furthest on in the stream.
    pub fn furthest(&self) -> Option<&Place<K>> {
        self.furthest.as_ref()
    }

    /// The messages that were the furthest before each silence.
    pub fn witnesses(&self) -> &[Place<K>] {
        &self.witnesses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn leader(name: &str, since: UnixNanos) -> Leader {
        Leader { name: Some(name.to_owned()), since: Some(since), created: 1 }
    }

    fn place(sequence: u64) -> Place<u64> {
        Place { sequence, key: sequence }
    }

    #[test]
    fn a_sequence_that_is_given_twice_is_a_sign() {
        let mut order = Order::after(7);
        for (sequence, sign) in [
            (8, None),
            (10, None),
            (9, Some(Sign::Backwards { sequence: 9, highest: 10 })),
            (10, Some(Sign::Backwards { sequence: 10, highest: 10 })),
            (11, None),
        ] {
            assert_eq!(order.stored(sequence), sign, "{sequence}");
        }
        assert_eq!(Order::after(7).stored(7), Some(Sign::Backwards { sequence: 7, highest: 7 }), "the mark's own");
    }

    #[test]
    fn another_leader_or_one_elected_anew_or_none_known_is_a_sign_where_anything_was_confirmed() {
        let now = leader("a", 5);
        for (before, sign) in [
            (Some(leader("a", 5)), None),
            (Some(leader("b", 5)), Some(Sign::NewLeader)),
            (Some(leader("a", 4)), Some(Sign::NewLeader)),
            (Some(Leader { created: 2, ..leader("a", 5) }), Some(Sign::NewLeader)),
            (None, Some(Sign::NewLeader)),
        ] {
            let mut trail = Trail::<u64>::led_by(before);
            assert_eq!(trail.sign(&now), None, "nothing was confirmed");
            trail.confirmed(place(1), ms(0));
            assert_eq!(trail.sign(&now), sign);
        }
    }

    #[test]
    fn the_first_sign_stays() {
        let mut trail = Trail::<u64>::led_by(Some(leader("a", 5)));
        trail.doubt(Sign::Unknown);
        trail.doubt(Sign::Reconnected);
        assert_eq!(trail.sign(&leader("b", 5)), Some(Sign::Unknown));
    }

    #[test]
    fn what_was_confirmed_before_a_silence_is_looked_for_again() {
        let mut trail = Trail::led_by(Some(leader("a", 5)));
        // What is read back lies anywhere: the furthest before the silence is the one that would be gone.
        for (sequence, at) in [(1, 0), (2, 99), (3, 150), (4, 250), (6, 300), (5, 310), (2, 500), (2, 700), (9, 900)] {
            trail.confirmed(place(sequence), ms(at));
        }
        assert_eq!(trail.witnesses(), [place(3), place(6)]);
        assert_eq!(trail.furthest(), Some(&place(9)));
        assert_eq!(trail.sign(&leader("a", 5)), None);
    }

    #[test]
    fn too_many_silences_put_all_in_doubt() {
        let mut trail = Trail::led_by(Some(leader("a", 5)));
        for n in 0..=MOST_WITNESSES as u64 {
            assert_eq!(trail.sign(&leader("a", 5)), None);
            trail.confirmed(place(n), ms(200 * n));
        }
        assert_eq!(trail.sign(&leader("a", 5)), None);
        trail.confirmed(place(999), ms(1 << 30));
        assert_eq!(trail.sign(&leader("a", 5)), Some(Sign::Silences));
    }
}
