//! What a core saves in a second when its output is limited: the measure that counts.

use crate::coder::CoderName;
use crate::measure::Row;
use crate::report::geometric_mean;

/// Output bandwidths per core, in 10⁶ bytes a second.
pub(crate) const BANDWIDTHS: [f64; 7] = [25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0];

/// The best coder at a bandwidth, and the rate it saves with in 10⁶ bytes of input a second.
pub(crate) struct Best {
    pub(crate) coder: CoderName,
    pub(crate) rate: f64,
}

/// Input / max(CPU time, output / bandwidth).
fn rate(row: &Row, bandwidth: f64) -> f64 {
    row.compress_mb_s.min(bandwidth * row.ratio)
}

/// The coder of `rows` (one size of units, all sets) with the highest geometric mean rate.
pub(crate) fn best<'a>(rows: &(impl Iterator<Item = &'a Row> + Clone), bandwidth: f64) -> Option<Best> {
    let mut coders: Vec<&CoderName> = rows.clone().map(|row| &row.coder).collect();
    coders.sort();
    coders.dedup();
    let of = |coder: &CoderName| Best {
        coder: coder.clone(),
        rate: geometric_mean(rows.clone().filter(|row| row.coder == *coder).map(|row| rate(row, bandwidth))),
    };
    coders.into_iter().map(of).max_by(|one, other| one.rate.total_cmp(&other.rate))
}
