//! How much a resource was used over time, in bounded memory.

use super::clock::Nanos;

/// The most spans; then two become one.
const BUCKETS_MAX: usize = 128;

/// Work done in each of at most `BUCKETS_MAX` equal spans of time, which grow as time goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    bucket: Nanos,
    work: Vec<f64>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { bucket: 1 << 20, work: Vec::new() }
    }
}

impl Usage {
    /// Adds `work` done evenly from `from` to `to`.
    pub fn add(&mut self, from: Nanos, to: Nanos, work: f64) {
        while to.div_ceil(self.bucket) > BUCKETS_MAX as u64 {
            self.bucket = self.bucket.saturating_mul(2);
            self.work = self.work.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        let mut start = from;
        while start < to {
            let index = start / self.bucket;
            let end = to.min((index + 1) * self.bucket);
            // At most BUCKETS_MAX, by the loop above.
            let index = usize::try_from(index).unwrap_or(BUCKETS_MAX);
            if self.work.len() <= index {
                self.work.resize(index + 1, 0.0);
            }
            self.work[index] += work * share(end - start, to - from);
            start = end;
        }
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for (index, &work) in (0u64..).zip(&other.work) {
            if work > 0.0 {
                self.add(index * other.bucket, (index + 1) * other.bucket, work);
            }
        }
    }

    /// The length of a span, in nanoseconds.
    pub fn bucket(&self) -> Nanos {
        self.bucket
    }

    /// Work done in each span from the start.
    pub fn work(&self) -> &[f64] {
        &self.work
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.work.iter().sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of a plot's column")]
fn share(part: Nanos, whole: Nanos) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn work_is_spread_and_none_is_lost() {
        let mut usage = Usage::default();
        for second in 0..100u64 {
            usage.add(second * 1_000_000_000, (second + 1) * 1_000_000_000, 5.0);
        }
        assert!((usage.total() - 500.0).abs() < 1e-6);
        assert!(usage.work().len() <= BUCKETS_MAX);
        let full = usage.work()[3];
        assert!((usage.work()[50] - full).abs() < 1e-9 * full);
    }
}
