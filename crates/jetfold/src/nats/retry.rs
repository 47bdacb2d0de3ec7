//! How long to wait before trying again.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// Pauses that double up to a bound and never end, each stretched at random so that many workers do not knock at once.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    /// From 0.1 s to 5 s at the most.
    pub fn reopening() -> Self {
        Self::doubling(Duration::from_millis(100), Duration::from_millis(2500))
    }

    /// From 2 ms to 1 s at the most: a message that the leader counts but can't show yet is there within milliseconds as a
    /// rule.
    pub fn republishing() -> Self {
        Self::doubling(Duration::from_millis(2), Duration::from_millis(500))
    }

    /// The jitter adds up to the pause once more, which is why `longest` is half of what is promised.
    fn doubling(shortest: Duration, longest: Duration) -> Self {
        let builder = ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest);
        Self(builder.with_jitter().without_max_times().build())
    }

    /// The length of the next one.
    pub fn pause(&mut self) -> Duration {
        self.0.next().expect("they never end")
    }

    /// Waits for as long.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_never_end() {
        let mut pauses = Pauses::reopening();
        let pauses: Vec<_> = (0..100).map(|_| pauses.pause()).collect();
        assert!(pauses[0] >= Duration::from_millis(100) && pauses[0] <= Duration::from_millis(200));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses[99] >= Duration::from_millis(2500));
    }
}
