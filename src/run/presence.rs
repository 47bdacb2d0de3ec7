//! `Presence`: how long whoever waits for something was absent, and so could not have got it.
//!
//! | absent as | when |
//! | --- | --- |
//! | cut off | the connection is down; or nothing was heard of NATS for longer than [`SILENCE`], counted from the last word |
//! | paused | two observations lie further apart than [`PAUSE`]: the process did not run |
//!
//! A process that is paused while it is cut off is cut off: it would have got nothing had it run. One that was not cut off
//! when it was paused is only paused, whatever became of its connection meanwhile: that may have broken over the pause.

use std::time::Duration;

/// Time since the run began.
pub type Moment = Duration;

/// NATS is heard at least once a second, since it is asked where it has nothing to say.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Whoever runs is observed many times a second.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Absences that are told apart; of older ones only the sum is kept.
const MOST_GAPS: usize = 1024;

/// What is observed of the way to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The connection stands.
    pub stands: bool,
    /// When something was last heard over it.
    pub heard: Moment,
}

#[derive(Debug, Default)]
pub struct Presence {
    /// When it was last observed.
    observed: Moment,
    heard: Moment,
    /// As it was last observed.
    is_cut_off: bool,
    /// Of both kinds.
    away: Gaps,
    paused: Gaps,
}

impl Presence {
    /// Notes how things are. To be called many times a second, and before anything is judged by time.
    pub fn observe(&mut self, now: Moment, contact: Contact) {
        let before = self.observed;
        if now < before {
            return;
        }
        self.observed = now;
        if now - before > PAUSE {
            self.away.add(before, now);
            if !self.is_cut_off {
                self.paused.add(before, now);
            }
        }
        let last_word = self.heard;
        self.heard = last_word.max(contact.heard.min(now));
        // A silence that has ended, and one that lasts.
        self.note_silence(last_word, self.heard);
        let is_silent = self.note_silence(self.heard, now);
        if !contact.stands {
            self.away.add(before, now);
        }
        self.is_cut_off = is_silent || !contact.stands;
    }

    /// Whether nothing was heard for so long that it counts as being cut off.
    fn note_silence(&mut self, from: Moment, to: Moment) -> bool {
        let is_silence = self.awake(from, to) > SILENCE && !jetfold::planted!("silence-is-not-noticed");
        if is_silence {
            self.away.add(from, to);
        }
        is_silence
    }

    /// The time from one moment to another, without absences.
    pub fn present(&self, from: Moment, to: Moment) -> Duration {
        to.saturating_sub(from).saturating_sub(self.away.between(from, to))
    }

    /// The time from one moment to another, without that in which NATS was cut off.
    pub fn connected(&self, from: Moment, to: Moment) -> Duration {
        self.present(from, to) + self.paused.between(from, to)
    }

    /// The time from one moment to another, without that in which the process was paused.
    pub fn awake(&self, from: Moment, to: Moment) -> Duration {
        to.saturating_sub(from).saturating_sub(self.paused.between(from, to))
    }

    /// For how long nothing has been heard of NATS, pauses not counted.
    pub fn unheard(&self) -> Duration {
        self.awake(self.heard, self.observed)
    }

    /// All absences so far.
    pub fn away(&self) -> Duration {
        self.away.before(self.observed)
    }
}

/// A stretch of time, and how long those before it were together.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: Moment,
    to: Moment,
    before: Duration,
}

impl Gap {
    fn through(&self) -> Duration {
        self.before + (self.to - self.from)
    }
}

/// Stretches of time that do not touch, in order.
#[derive(Debug, Default)]
struct Gaps {
    gaps: Vec<Gap>,
    /// How long those were that are no longer told apart.
    forgotten: Duration,
}

impl Gaps {
    /// Adds a stretch, which may overlap others.
    fn add(&mut self, mut from: Moment, mut to: Moment) {
        if from >= to {
            return;
        }
        let start = self.gaps.partition_point(|gap| gap.to < from);
        let end = self.gaps.partition_point(|gap| gap.from <= to);
        if start < end {
            (from, to) = (from.min(self.gaps[start].from), to.max(self.gaps[end - 1].to));
        }
        self.gaps.splice(start..end, [Gap { from, to, before: Duration::ZERO }]);
        if self.gaps.len() > MOST_GAPS {
            let oldest = self.gaps.remove(0);
            self.forgotten += oldest.to - oldest.from;
        }
        let mut before = self.forgotten;
        for gap in &mut self.gaps {
            gap.before = before;
            before = gap.through();
        }
    }

    /// How much of them lies before a moment.
    fn before(&self, at: Moment) -> Duration {
        match self.gaps.partition_point(|gap| gap.from < at) {
            0 => self.forgotten,
            n => {
                let last = &self.gaps[n - 1];
                last.before + (last.to.min(at) - last.from)
            }
        }
    }

    fn between(&self, from: Moment, to: Moment) -> Duration {
        self.before(to).saturating_sub(self.before(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Moment {
        Duration::from_secs_f64(seconds)
    }

    /// Observed every 0.5 s up to `until`: the connection stands and is heard, except as `odd` says.
    fn observed(presence: &mut Presence, from: f64, until: f64, contact: impl Fn(f64) -> (bool, f64)) {
        let mut now = from;
        while now <= until {
            let (stands, heard) = contact(now);
            presence.observe(s(now), Contact { stands, heard: s(heard) });
            now += 0.5;
        }
    }

    #[test]
    fn whoever_runs_and_hears_is_never_away() {
        let mut presence = Presence::default();
        // Heard once a second.
        observed(&mut presence, 0.0, 60.0, |now| (true, now.floor()));
        assert_eq!(presence.away(), Duration::ZERO);
        assert_eq!(presence.present(s(1.0), s(60.0)), s(59.0));
    }

    #[test]
    fn absences_of_each_kind_are_told_apart() {
        // What happens from 10 s to 20 s, and how long that is absent, and how much of it paused. Heard until 10.
        type Contacts = fn(f64) -> (bool, f64);
        let well: Contacts = |now| (true, now);
        let down: Contacts = |now| (false, now.min(10.0));
        let silent: Contacts = |now| (true, now.min(10.0));
        for (what, during, after, away, paused) in [
            ("nothing", Some(well), well, 0.0, 0.0),
            ("the connection is down", Some(down), well, 10.5, 0.0),
            ("nothing is heard", Some(silent), well, 10.5, 0.0),
            ("the process is paused", None, well, 10.5, 10.5),
            ("it is paused, and loses its connection over that", None, down, 15.0, 10.5),
        ] {
            let mut presence = Presence::default();
            observed(&mut presence, 0.0, 10.0, well);
            if let Some(during) = during {
                observed(&mut presence, 10.5, 20.0, during);
            }
            observed(&mut presence, 20.5, 25.0, after);
            assert_eq!(presence.away(), s(away), "{what}");
            assert_eq!(presence.present(s(0.0), s(25.0)), s(25.0 - away), "{what}");
            assert_eq!(presence.awake(s(0.0), s(25.0)), s(25.0 - paused), "{what}");
            assert_eq!(presence.connected(s(0.0), s(25.0)), s(25.0 - away + paused), "{what}");
        }
    }

    #[test]
    fn a_pause_while_cut_off_counts_as_cut_off() {
        let mut presence = Presence::default();
        observed(&mut presence, 0.0, 10.0, |now| (now < 9.0, now.min(9.0)));
        presence.observe(s(20.0), Contact { stands: true, heard: s(20.0) });
        assert_eq!(presence.connected(s(0.0), s(20.0)), s(8.5));
        assert_eq!(presence.awake(s(0.0), s(20.0)), s(20.0));
    }

    #[test]
    fn a_silence_counts_from_the_last_word_once_it_is_one() {
        let mut presence = Presence::default();
        observed(&mut presence, 0.0, 12.0, |now| (true, now.min(10.0)));
        assert_eq!(presence.away(), Duration::ZERO, "2 s are not too long yet");
        observed(&mut presence, 12.5, 13.0, |now| (true, now.min(10.0)));
        assert_eq!((presence.away(), presence.unheard()), (s(3.0), s(3.0)));
        // The word that ends it may be the first that is observed.
        observed(&mut presence, 13.5, 14.0, |now| (true, now));
        assert_eq!((presence.away(), presence.unheard()), (s(3.5), s(0.0)));
        assert_eq!(presence.present(s(9.0), s(11.0)), s(1.0));
    }

    #[test]
    fn stretches_that_touch_are_one_and_old_ones_leave_their_sum() {
        let mut gaps = Gaps::default();
        for (from, to, all) in [(5.0, 6.0, 1.0), (1.0, 2.0, 2.0), (2.0, 3.0, 3.0), (0.5, 5.5, 5.5), (7.0, 7.0, 5.5)] {
            gaps.add(s(from), s(to));
            assert_eq!(gaps.before(s(100.0)), s(all));
        }
        assert_eq!((gaps.before(s(0.5)), gaps.before(s(1.5)), gaps.between(s(4.0), s(9.0))), (s(0.0), s(1.0), s(2.0)));
        let mut gaps = Gaps::default();
        let many = MOST_GAPS as u32 + 10;
        (0..many).for_each(|n| gaps.add(s(f64::from(3 * n)), s(f64::from(3 * n + 1))));
        assert_eq!((gaps.gaps.len(), gaps.before(s(1e6))), (MOST_GAPS, s(f64::from(many))));
        assert_eq!(gaps.between(s(0.0), s(1.0)), Duration::ZERO, "forgotten");
    }
}
