//! How long to wait before trying again.

use backon::{BackoffBuilder, ExponentialBuilder};
use std::time::Duration;

/// Doubling pauses from 0.1 s to 5 s at the most, each stretched at random so that many workers do not knock at once.
pub fn reopening() -> impl Iterator<Item = Duration> + Send {
    doubling(Duration::from_millis(100), Duration::from_millis(2500))
}

/// Doubling pauses from 2 ms to 1 s at the most: an output that the leader counts but can't show yet is there within
/// milliseconds as a rule.
pub fn republishing() -> impl Iterator<Item = Duration> + Send {
    doubling(Duration::from_millis(2), Duration::from_millis(500))
}

/// Without end. The jitter adds up to the pause once more, which is why `longest` is half of what is promised.
fn doubling(shortest: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_never_end() {
        let pauses: Vec<_> = reopening().take(100).collect();
        assert!(pauses[0] >= Duration::from_millis(100) && pauses[0] <= Duration::from_millis(200));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses[99] >= Duration::from_millis(2500));
    }
}
