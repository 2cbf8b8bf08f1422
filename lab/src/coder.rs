//! What is compared: coders of units of pages.

use comio_core::PAGE_SIZE;

/// Pages in a unit, by which sets are cut.
pub const UNIT_PAGES: [usize; 4] = [1, 4, 16, 64];

/// A coder of units of some pages each; keeps its tables between units.
pub(crate) trait UnitCoder {
    /// Codes `unit` to the beginning of `code`, which has room for twice a unit; gives the
    /// code's length, or nothing if the unit does not shrink.
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize>;

    /// Gives back the unit that `code` was made from; whether it could.
    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool;

    /// How many bytes of a code an image keeps in its index instead.
    fn indexed_bytes(&self) -> usize {
        0
    }
}

/// Which coder, as the CSV's columns name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoderName {
    /// The family: `lz4`, `zstd`, `ecbc`, ...
    pub coder: &'static str,
    /// Its acceleration, level or name; empty if it has but one.
    pub level: String,
}

impl CoderName {
    pub(crate) fn new(coder: &'static str, level: impl ToString) -> Self {
        Self { coder, level: level.to_string() }
    }

    /// Whether it is one of ECBC's levels.
    pub fn is_ours(&self) -> bool {
        self.coder == "ecbc"
    }

    /// Whether it shows the machine's limit instead of compressing.
    pub fn is_copy(&self) -> bool {
        self.coder == "memcpy"
    }
}

impl std::fmt::Display for CoderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.level.is_empty() { "" } else { " " };
        f.pad(&format!("{}{separator}{}", self.coder, self.level))
    }
}

/// Non-uniform pages of a guest.
#[derive(Debug, Clone)]
pub struct Set {
    /// What the results call it.
    pub name: String,
    /// The pages, one after the other.
    pub memory: Vec<u8>,
}

impl Set {
    /// The telling pages of `memory`: those that are not one 32-bit word all over. At most
    /// `pages_max` are kept, in runs of neighbours spread evenly over the memory, so that units
    /// of many pages still hold what lies together.
    pub fn telling(name: &str, memory: &[u8], pages_max: usize) -> Self {
        const RUN: usize = UNIT_PAGES[UNIT_PAGES.len() - 1];
        let is_uniform =
            |page: &[u8; PAGE_SIZE]| page.as_chunks::<4>().0.windows(2).all(|two| two[0] == two[1]);
        let telling: Vec<_> =
            memory.as_chunks::<PAGE_SIZE>().0.iter().filter(|page| !is_uniform(page)).collect();
        let runs: Vec<_> = telling.chunks(RUN).collect();
        let step = runs.len().div_ceil((pages_max / RUN).max(1)).max(1);
        let kept = runs.into_iter().step_by(step).flatten().flat_map(|page| page.iter()).copied();
        Self { name: name.to_owned(), memory: kept.collect() }
    }
}
