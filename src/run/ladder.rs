//! `Ladder`: who has been waiting for a final, and for how long.

use crate::run::presence::Moment;
use crate::sum::stream_id::StreamId;
use std::collections::VecDeque;
use std::time::Duration;

/// After these delays a final is complained about, as far as they lie before the deadline.
const DELAYS_MS: [u64; 14] =
    [100, 250, 500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 15_000, 20_000, 25_000, 30_000, 35_000];

/// Finals that have been waited for longer than a step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed {
    pub by: Duration,
    pub streams: u64,
    /// One of them.
    pub example: StreamId,
}

/// What the passing of time has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    pub delayed: Vec<Delayed>,
    /// Streams that the leader must be asked about: nothing has come within twice the deadline.
    pub overdue: Vec<StreamId>,
}

/// A stream, and since when it waits.
type Waiting = (Moment, StreamId);

/// Delays, then the deadline, then twice the deadline; and for each the streams that have not waited so long yet, the
/// longest first.
pub struct Ladder(Vec<(Duration, VecDeque<Waiting>)>);

impl Ladder {
    pub fn new(deadline: Duration) -> Self {
        let delays = DELAYS_MS.map(Duration::from_millis).into_iter().filter(|delay| *delay < deadline);
        let delays = delays.chain([deadline, deadline.saturating_mul(2)]);
        Self(delays.map(|delay| (delay, VecDeque::new())).collect())
    }

    /// A stream begins to wait, or to wait anew.
    pub fn begin(&mut self, since: Moment, id: StreamId) {
        self.0[0].1.push_back((since, id));
    }

    /// A stream that was overdue is not: it stands on the last step again.
    pub fn go_on(&mut self, since: Moment, id: StreamId) {
        let (_, last) = self.0.last_mut().expect("a ladder has steps");
        last.insert(last.partition_point(|waiting| *waiting < (since, id)), (since, id));
    }

    /// Sees who has been waiting for how long, by a clock that tells how long one has waited since a moment. `waits` says
    /// whether a stream still waits since then.
    pub fn climb(
        &mut self,
        waited: impl Fn(Moment) -> Duration,
        mut waits: impl FnMut(Moment, StreamId) -> bool,
    ) -> Tick {
        let mut tick = Tick::default();
        for step in 0..self.0.len() {
            let by = self.0[step].0;
            let mut delayed: Option<Delayed> = None;
            while let Some((since, id)) = self.0[step].1.front().copied()
                && waited(since) >= by
            {
                self.0[step].1.pop_front();
                if !waits(since, id) {
                    continue;
                }
                match self.0.get_mut(step + 1) {
                    Some(next) => {
                        next.1.push_back((since, id));
                        delayed.get_or_insert(Delayed { by, streams: 0, example: id }).streams += 1;
                    }
                    None => tick.overdue.push(id),
                }
            }
            tick.delayed.extend(delayed);
        }
        tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::stream_id::RunPrefix;

    fn id(n: u64) -> StreamId {
        StreamId::of_run(RunPrefix([1, 2, 3, 4]), n)
    }

    fn s(seconds: f64) -> Moment {
        Duration::from_secs_f64(seconds)
    }

    fn climb(ladder: &mut Ladder, now: f64) -> Tick {
        ladder.climb(|since| s(now).saturating_sub(since), |_, _| true)
    }

    #[test]
    fn delays_are_climbed_once_each() {
        let mut ladder = Ladder::new(s(40.0));
        ladder.begin(s(1.0), id(0));
        ladder.begin(s(1.2), id(1));
        assert_eq!(climb(&mut ladder, 1.05), Tick::default());
        assert_eq!(climb(&mut ladder, 1.1).delayed, [Delayed { by: s(0.1), streams: 1, example: id(0) }]);
        assert_eq!(climb(&mut ladder, 1.1), Tick::default());
        let both = climb(&mut ladder, 2.3).delayed;
        let steps: Vec<_> = both.iter().map(|delayed| (delayed.by, delayed.streams)).collect();
        assert_eq!(steps, [(s(0.1), 1), (s(0.25), 2), (s(0.5), 2), (s(1.0), 2)]);
        assert_eq!(climb(&mut ladder, 60.0).delayed.last().unwrap().by, s(40.0));
    }

    #[test]
    fn a_short_deadline_has_a_short_ladder() {
        let mut ladder = Ladder::new(s(0.3));
        ladder.begin(s(0.0), id(0));
        let tick = climb(&mut ladder, 9.0);
        assert_eq!(tick.delayed.iter().map(|delayed| delayed.by).collect::<Vec<_>>(), [s(0.1), s(0.25), s(0.3)]);
        assert_eq!(tick.overdue, [id(0)]);
    }

    #[test]
    fn what_goes_on_is_overdue_again_in_its_turn() {
        let mut ladder = Ladder::new(s(1.0));
        (0..3).for_each(|n| ladder.begin(s(n as f64), id(n)));
        assert_eq!(climb(&mut ladder, 3.5).overdue, [id(0), id(1)]);
        // The clock of whoever waits has gone back: it was away.
        [1, 0].into_iter().for_each(|n| ladder.go_on(s(n as f64), id(n)));
        assert_eq!(climb(&mut ladder, 1.5).overdue, []);
        assert_eq!(climb(&mut ladder, 2.5).overdue, [id(0)]);
        assert_eq!(climb(&mut ladder, 4.0).overdue, [id(1), id(2)]);
    }
}
