//! `Doubt`: what is in question about a log from one look at it to the next, and what is done about a verdict.
//!
//! | found | then |
//! | --- | --- |
//! | nothing | the log is sound, and what was in question is not any more |
//! | the log's beginning is gone, and snapshots were not looked for since | they are looked for |
//! | the log begins right behind the position, so nothing tells whether it is the same | the same; gone on if none reaches further |
//! | anything else, or that again, for less than [`STANDS`] | the log is looked at again |
//! | the stream of outputs or of rejects has forgotten, for so long | it is mended without being asked |
//! | what the operator does not accept, for so long | the log is refused |
//! | a hole well after the position, which is accepted | what lies before it is folded and committed first |
//! | anything else that is accepted | it is recorded, and gone on |
//!
//! All of it is pure: time is handed in, as what has passed since the partition was taken up.

use crate::checkpoint::Position;
use crate::identity::{Forgot, Verdict};
use crate::words::Words;
use std::time::Duration;

/// How long a verdict must stand, over reads that were answered, before it is believed: an R3 leader that has lost
/// its peers goes on answering for up to 20 s.
pub const STANDS: Duration = Duration::from_secs(30);

/// What there is to do about a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// To look for a snapshot first.
    Search,
    /// To look at the log again. `is_new`: it is not what was found before, and is to be said.
    LookAgain {
        is_new: bool,
    },
    Refuse,
    /// To publish again the outputs that rows remember.
    PublishAgain,
    /// To go on without the rejects that are gone.
    Forget(Forgot),
    /// To fold what lies before an accepted hole.
    FoldBeforeHole,
    /// To record it, and go on behind what is lost.
    Accept,
}

/// Snapshots that may reach further than the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// One beyond this position is to be restored, if there is one, before the log is opened.
    Wanted(Position),
    /// They were looked for since the log was sound.
    Done,
    /// They were not.
    Over,
}

#[derive(Debug)]
pub struct Doubt {
    /// What speaks against the log, by name, and since when.
    found: Option<(&'static str, Duration)>,
    search: Search,
    /// Only for an empty store: the verdict on the furthest snapshot, if all snapshots belong to another log.
    others: Option<Verdict>,
    /// The first position that was missing. It is kept over sessions, because a new session starts at the checkpoint, which
    /// may lie long before the hole.
    skipped: Option<Position>,
    /// A hole well after the position is accepted: what lies before it is folded and committed first.
    before_hole: bool,
}

impl Doubt {
    /// Nothing is in question yet. A snapshot beyond the position is to be looked for.
    pub fn new(position: Position) -> Self {
        Self { found: None, search: Search::Wanted(position), others: None, skipped: None, before_hole: false }
    }

    /// Where a snapshot has to reach beyond, if one is to be looked for.
    pub fn wanted_beyond(&self) -> Option<Position> {
        match self.search {
            Search::Wanted(position) => Some(position),
            Search::Done | Search::Over => None,
        }
    }

    /// Snapshots were looked for, and one is restored if one was to be.
    pub fn has_searched(&mut self) {
        self.search = Search::Done;
    }

    /// There is another store in the store's place.
    pub fn restored(&mut self) {
        (self.found, self.others) = (None, None);
    }

    /// None of the snapshots will do: the verdict on the furthest, if all are of another log.
    pub fn none_restored(&mut self, others: Option<Verdict>) {
        self.others = others;
    }

    /// What keeps an empty store from beginning with the log as it is.
    pub fn others(&self) -> Option<Verdict> {
        self.others.filter(|_| !crate::planted!("an-empty-store-hides-what-another-would-refuse"))
    }

    /// The position behind the checkpoint that is to be looked for in the log.
    pub fn expected(&self, position: Position) -> Position {
        let skipped = self.skipped.filter(|_| !crate::planted!("what-was-skipped-is-not-looked-for"));
        let next = position.saturating_add(1);
        skipped.map_or(next, |skipped| skipped.max(next))
    }

    /// How a session ended: with another position than the next, or otherwise.
    pub fn ended(&mut self, skipped: Option<Position>) {
        self.skipped = skipped;
    }

    /// Whether each session is to commit what it has folded, since it ends at a hole.
    pub fn is_before_hole(&self) -> bool {
        self.before_hole
    }

    /// The log [begins right behind](crate::identity::is_unproven) a store at `position`. Whether a snapshot that is further is to be
    /// looked for first: the log has what that was folded from.
    pub fn unproven(&mut self, position: Position) -> bool {
        let is_to_search = self.search != Search::Done;
        if is_to_search {
            self.search = Search::Wanted(position);
        }
        is_to_search
    }

    /// The log is what it was, and so are the streams of outputs and rejects.
    pub fn sound(&mut self) {
        (self.found, self.skipped) = (None, None);
        if let Search::Done = self.search {
            self.search = Search::Over;
        }
    }

    /// What was forgotten is mended.
    pub fn mended(&mut self) {
        self.found = None;
    }

    /// There is no such log: to look again, or to refuse it.
    pub fn gone(&mut self, now: Duration) -> Ruling {
        self.look_again("gone", now).unwrap_or(Ruling::Refuse)
    }

    /// What to do about a verdict on a store at `position`. `is_accepted`: the operator accepts such a loss.
    pub fn rule(&mut self, verdict: &Verdict, position: Position, is_accepted: bool, now: Duration) -> Ruling {
        let ruling = self.decide(verdict, position, is_accepted, now);
        let of_others = self.others.as_ref() == Some(verdict);
        match ruling {
            // The snapshots may be others by then.
            Ruling::Search | Ruling::LookAgain { .. } if of_others => self.search = Search::Wanted(0),
            Ruling::FoldBeforeHole => self.before_hole = !crate::planted!("what-lies-before-a-hole-is-never-committed"),
            Ruling::Accept => {
                let search = self.search;
                *self = Self { search, ..Self::new(position) };
            }
            _ => {}
        }
        ruling
    }

    fn decide(&mut self, verdict: &Verdict, position: Position, is_accepted: bool, now: Duration) -> Ruling {
        let is_further_on = verdict.is_further_on(position);
        if self.before_hole && is_further_on {
            return Ruling::FoldBeforeHole;
        }
        if let Verdict::LogTruncated { to, .. } = verdict {
            match self.search {
                Search::Done => self.search = Search::Over,
                Search::Wanted(_) | Search::Over if !crate::planted!("snapshots-are-not-looked-for-again") => {
                    self.search = Search::Wanted(to - 1);
                    return Ruling::Search;
                }
                Search::Wanted(_) | Search::Over => {}
            }
        }
        // By the next look, there may be other snapshots.
        if let (Search::Done, false) = (self.search, matches!(verdict, Verdict::LogTruncated { .. })) {
            self.search = Search::Over;
        }
        if let Some(again) = self.look_again(verdict.name(&Words::DEFAULT), now) {
            return again;
        }
        match verdict {
            Verdict::OutputsForgot(_) => Ruling::PublishAgain,
            Verdict::RejectsForgot(forgot) => Ruling::Forget(*forgot),
            _ if !is_accepted => Ruling::Refuse,
            _ if is_further_on => Ruling::FoldBeforeHole,
            _ => Ruling::Accept,
        }
    }

    /// Until it has stood for long enough.
    fn look_again(&mut self, name: &'static str, now: Duration) -> Option<Ruling> {
        match self.found {
            Some((before, since)) if before == name => {
                let stands = if crate::planted!("a-verdict-is-believed-at-once") { Duration::ZERO } else { STANDS };
                (now.saturating_sub(since) < stands).then_some(Ruling::LookAgain { is_new: false })
            }
            _ => {
                self.found = Some((name, now));
                Some(Ruling::LookAgain { is_new: true })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORGOT: Forgot = Forgot { recorded: 7, recorded_at: 70, last: 5, made_anew: false };
    const DIVERGED: Verdict = Verdict::LogDiverged { position: 10, last: 5 };
    const TRUNCATED: Verdict = Verdict::LogTruncated { from: 11, to: 20 };
    const REPLACED: Verdict = Verdict::LogReplaced { folded: 1, found: 2 };
    const HOLE: Verdict = Verdict::LogHole { from: 11, to: 12 };
    const HOLE_FURTHER_ON: Verdict = Verdict::LogHole { from: 30, to: 31 };

    const BEGINS: Ruling = Ruling::LookAgain { is_new: true };
    const STANDS_STILL: Ruling = Ruling::LookAgain { is_new: false };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Of a store at position 10 that has looked for snapshots, and whose log was sound then.
    fn sound() -> Doubt {
        let mut doubt = Doubt::new(10);
        doubt.has_searched();
        doubt.sound();
        doubt
    }

    #[test]
    fn a_verdict_is_believed_once_it_has_stood_and_then_does_what_it_has_to() {
        for (verdict, is_accepted, ruling) in [
            (DIVERGED, false, Ruling::Refuse),
            (REPLACED, false, Ruling::Refuse),
            (HOLE, false, Ruling::Refuse),
            (HOLE_FURTHER_ON, false, Ruling::Refuse),
            (DIVERGED, true, Ruling::Accept),
            (REPLACED, true, Ruling::Accept),
            (HOLE, true, Ruling::Accept),
            (HOLE_FURTHER_ON, true, Ruling::FoldBeforeHole),
            (Verdict::OutputsForgot(FORGOT), false, Ruling::PublishAgain),
            (Verdict::RejectsForgot(FORGOT), false, Ruling::Forget(FORGOT)),
        ] {
            let mut doubt = sound();
            let rulings = [5, 6, 34, 35].map(|at| doubt.rule(&verdict, 10, is_accepted, s(at)));
            assert_eq!(rulings, [BEGINS, STANDS_STILL, STANDS_STILL, ruling], "{verdict:?}");
        }
    }

    #[test]
    fn a_refusal_stands_until_something_else_is_found() {
        let mut doubt = sound();
        doubt.rule(&DIVERGED, 10, false, s(0));
        assert_eq!([40, 50].map(|at| doubt.rule(&DIVERGED, 10, false, s(at))), [Ruling::Refuse; 2]);
        // Numbers may change while it stands: a log that was rolled back grows.
        assert_eq!(doubt.rule(&Verdict::LogDiverged { position: 10, last: 6 }, 10, false, s(60)), Ruling::Refuse);
        assert_eq!(doubt.rule(&REPLACED, 10, false, s(61)), BEGINS);
        assert_eq!([62, 91, 92].map(|at| doubt.gone(s(at))), [BEGINS, STANDS_STILL, Ruling::Refuse]);
        assert_eq!(doubt.rule(&REPLACED, 10, false, s(93)), BEGINS);
        doubt.sound();
        assert_eq!(doubt.rule(&REPLACED, 10, false, s(200)), BEGINS);
    }

    #[test]
    fn what_is_mended_or_accepted_or_restored_is_in_question_no_more() {
        type Ends = fn(&mut Doubt);
        let ends: [Ends; 4] = [Doubt::sound, Doubt::mended, Doubt::restored, |doubt| {
            assert_eq!(doubt.rule(&DIVERGED, 10, true, s(30)), Ruling::Accept);
        }];
        for end in ends {
            let mut doubt = sound();
            doubt.rule(&DIVERGED, 10, false, s(0));
            end(&mut doubt);
            assert_eq!(doubt.rule(&DIVERGED, 10, true, s(31)), BEGINS);
        }
    }

    #[test]
    fn a_beginning_that_is_gone_has_snapshots_looked_for_between_any_two_looks_at_the_log() {
        let mut doubt = sound();
        let mut rulings = Vec::new();
        for at in [0, 1, 2, 3, 32, 33] {
            rulings.push(doubt.rule(&TRUNCATED, 10, false, s(at)));
            if let Some(beyond) = doubt.wanted_beyond() {
                assert_eq!(beyond, 19);
                doubt.has_searched();
            }
        }
        assert_eq!(rulings, [Ruling::Search, BEGINS, Ruling::Search, STANDS_STILL, Ruling::Search, Ruling::Refuse]);
        // A store that has just been opened has looked already.
        let mut doubt = Doubt::new(10);
        assert_eq!(doubt.wanted_beyond(), Some(10));
        doubt.has_searched();
        assert_eq!((doubt.rule(&TRUNCATED, 10, false, s(0)), doubt.wanted_beyond()), (BEGINS, None));
    }

    #[test]
    fn a_snapshot_is_looked_for_before_each_look_at_a_log_that_begins_right_behind_the_store() {
        let mut doubt = sound();
        for _ in 0..2 {
            assert!(doubt.unproven(10));
            assert_eq!(doubt.wanted_beyond(), Some(10));
            doubt.has_searched();
            assert!(!doubt.unproven(10), "there was none");
            doubt.sound();
        }
        // A refusal has looked for snapshots before the log was purged, and a long time may have passed.
        let mut doubt = Doubt::new(10);
        doubt.has_searched();
        doubt.rule(&DIVERGED, 10, false, s(0));
        doubt.rule(&DIVERGED, 10, false, s(30));
        assert!(doubt.unproven(10));
    }

    #[test]
    fn what_lies_before_an_accepted_hole_is_folded_first_and_the_hole_is_accepted_when_it_is_next() {
        let mut doubt = sound();
        doubt.ended(Some(30));
        assert_eq!((doubt.expected(10), doubt.expected(29), doubt.expected(40)), (30, 30, 41));
        doubt.rule(&HOLE_FURTHER_ON, 10, true, s(0));
        assert_eq!(doubt.rule(&HOLE_FURTHER_ON, 10, true, s(30)), Ruling::FoldBeforeHole);
        assert!(doubt.is_before_hole());
        // A session that ended otherwise than at the hole does not know of it.
        doubt.sound();
        assert_eq!(doubt.rule(&HOLE_FURTHER_ON, 20, true, s(31)), Ruling::FoldBeforeHole, "without standing again");
        let rulings = [32, 62].map(|at| doubt.rule(&HOLE_FURTHER_ON, 29, true, s(at)));
        assert_eq!(rulings, [BEGINS, Ruling::Accept]);
        assert_eq!((doubt.is_before_hole(), doubt.expected(31)), (false, 32));
    }

    #[test]
    fn what_speaks_against_all_snapshots_stands_as_well_while_they_are_looked_for_again() {
        let mut doubt = Doubt::new(0);
        for (at, ruling) in [(0, BEGINS), (29, STANDS_STILL), (30, Ruling::Refuse)] {
            doubt.has_searched();
            doubt.none_restored(Some(REPLACED));
            assert_eq!(doubt.others(), Some(REPLACED), "what an empty store does not begin with");
            assert_eq!(doubt.rule(&REPLACED, 0, false, s(at)), ruling);
            assert_eq!(doubt.wanted_beyond(), (ruling != Ruling::Refuse).then_some(0));
        }
        assert_eq!((doubt.rule(&REPLACED, 0, true, s(31)), doubt.others()), (Ruling::Accept, None));
    }
}
