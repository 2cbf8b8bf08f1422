//! The bandwidth limit: transfers are spaced so that their mean rate stays below it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::time::{Instant, now, sleep};

#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_s: u64,
    /// When the next transfer may begin.
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_s: u64) -> Self {
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
        let wait = begin.saturating_duration_since(now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_mean_rate_is_the_limit() {
        let throttle = Throttle::new(1_000_000);
        let begin = now();
        for _ in 0..11 {
            throttle.pass(100_000).await;
        }
        assert_eq!(begin.elapsed().as_millis(), 1000);
    }
}
