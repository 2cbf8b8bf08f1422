//! The bandwidth limit: transfers are spaced so that their mean rate stays below it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::time::{Instant, now, sleep};

/// How much earlier than its turn a transfer may begin. A timer wakes up to a millisecond late,
/// which is the time of many small transfers; who must not wait for less loses none of it.
const AHEAD: Duration = Duration::from_millis(2);

/// A bandwidth limit, of one storage or of several together.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_s: u64,
    /// When the next transfer may begin.
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// So much in both directions together.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, free_at: Mutex::new(now()) }
    }

    /// Waits for the turn of a transfer of `bytes`. Turns are in the order of the calls.
    pub(super) async fn pass(&self, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        let duration = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*free_at).max(now());
            *free_at = begin + duration;
            begin
        };
        let wait = begin.saturating_duration_since(now()).saturating_sub(AHEAD);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn small_transfers_do_not_wait_for_a_timer_each() {
        let throttle = Throttle::new(1_000_000);
        let begin = now();
        for _ in 0..1000 {
            throttle.pass(10).await;
        }
        // A timer's grain of 1 ms for each would be a second.
        assert!(begin.elapsed() <= Duration::from_millis(12), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_rate_is_the_limit() {
        let throttle = Throttle::new(1_000_000);
        let begin = now();
        for _ in 0..11 {
            throttle.pass(100_000).await;
        }
        assert_eq!(begin.elapsed().as_millis(), 998);
    }
}
