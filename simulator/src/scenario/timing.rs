//! What happens when: arrivals, other traffic, faults.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words;
use crate::units::{Rate, Span};

/// Distinguishes these draws from those of the guests, which use the low streams.
const STREAM: u64 = u64::MAX;

/// When the guests' turns come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Arrival {
    /// How they follow each other.
    pub pattern: Pattern,
    /// The time between two of them, or its mean.
    #[serde(default)]
    pub every: Span,
}

/// How turns follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// All come at once.
    #[default]
    AtOnce,
    /// One after each `every`.
    Staggered,
    /// Independently of each other, one in `every` on average.
    Poisson,
}

impl Arrival {
    /// The turns of `count` guests, from the start.
    pub fn turns(&self, count: usize, seed: u64) -> Vec<Duration> {
        let every = self.every.duration();
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        let mut turn = Duration::ZERO;
        let mut next = |guest: usize| {
            match self.pattern {
                Pattern::Staggered if guest > 0 => turn += every,
                Pattern::AtOnce | Pattern::Staggered => {}
                Pattern::Poisson => turn += every.mul_f64(-random.random_range(f64::EPSILON..1.0).ln()),
            }
            turn
        };
        (0..count).map(&mut next).collect()
    }
}

/// Other people's traffic to and from the server, all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Background {
    /// What they want, each way.
    pub rate: Rate,
    /// Over how many connections: a busy link is shared by connections.
    #[serde(default = "one", deserialize_with = "words::count")]
    pub connections: usize,
}

fn one() -> usize {
    1
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When, from the start.
    pub at: Span,
    /// For how long.
    pub lasts: Span,
    /// What is left of the server's link, when it is slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The server stops, forgets what was not committed, and starts again.
    ServerRestart,
    /// The server's link carries no more than `rate`.
    SlowLink,
}

#[cfg(test)]
mod test {
    use super::*;

    fn turns(pattern: Pattern) -> Vec<Duration> {
        Arrival { pattern, every: Span(2_000_000_000) }.turns(1000, 7)
    }

    #[test]
    fn patterns_are_what_they_say() {
        assert!(turns(Pattern::AtOnce).iter().all(Duration::is_zero));
        let staggered = turns(Pattern::Staggered);
        assert_eq!((staggered[0], staggered[999]), (Duration::ZERO, Duration::from_secs(1998)));
        let poisson = turns(Pattern::Poisson);
        assert!(poisson.is_sorted());
        let mean = poisson[999].as_secs_f64() / 1000.0;
        assert!((1.8..2.2).contains(&mean), "a turn every {mean} s");
        assert_eq!(poisson, turns(Pattern::Poisson));
    }
}
