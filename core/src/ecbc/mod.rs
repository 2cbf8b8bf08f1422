//! ECBC, enhanced characteristic-based compression of guest pages.

/// How much was done for each coder: what a report shows and a model charges for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages by entry tag (see `format::entry`).
    pub pages: [u32; 16],
    /// Encoded bytes by entry tag, checks included.
    pub bytes: [u64; 16],
}
