//! What is compared: coders of units of pages.

/// Pages in a unit, by which sets are cut.
pub const UNIT_PAGES: [usize; 4] = [1, 4, 16, 64];

/// A coder of units of some pages each; keeps its tables between units.
pub(crate) trait UnitCoder {
    /// Codes `unit` to the beginning of `code`, which has room for twice a unit; gives the
    /// code's length, or nothing if the unit does not shrink. A code may be longer than its unit;
    /// the unit is stored then.
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
    pub(crate) fn new(coder: &'static str, level: &impl ToString) -> Self {
        Self { coder, level: level.to_string() }
    }

    /// Whether it is one of ECBC's levels.
    pub fn is_ours(&self) -> bool {
        self.coder == "ecbc"
    }

    /// Whether it shows the machine's limit instead of compressing.
    pub fn is_copy(&self) -> bool {
        self.coder == "memcpy" || self.level == "raw"
    }
}

impl std::fmt::Display for CoderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.level.is_empty() { "" } else { " " };
        f.pad(&format!("{}{separator}{}", self.coder, self.level))
    }
}
