//! The methods that are compared: ComIO's effort levels and their peers.

use std::fmt;
use std::str::FromStr;

/// How pages are coded.
///
/// The first three are peers, there to be compared with: they classify nothing and give every
/// page, zero pages too, to their one coder, falling back to storing what does not shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Every page stored, as the stock toolstack writes them.
    Raw,
    /// LZ4 for every page.
    Lz4,
    /// zstd level 1 for every page.
    Zstd1,
    /// ECBC where a core has more than about 900 MB/s of output to fill.
    Turbo,
    /// ECBC where the CPU is scarce.
    Fast,
    /// ECBC between fast and balanced.
    Light,
    /// ECBC between scarce CPU and scarce network.
    Balanced,
    /// ECBC where the network or the storage is scarce.
    Dense,
}

impl Method {
    /// All of them, peers first.
    pub const ALL: [Self; 8] = [
        Self::Raw,
        Self::Lz4,
        Self::Zstd1,
        Self::Turbo,
        Self::Fast,
        Self::Light,
        Self::Balanced,
        Self::Dense,
    ];

    /// ECBC's effort levels, fastest first.
    pub const LEVELS: [Self; 5] = [Self::Turbo, Self::Fast, Self::Light, Self::Balanced, Self::Dense];

    /// The name used in scenarios, options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::Zstd1 => "zstd1",
            Self::Turbo => "turbo",
            Self::Fast => "fast",
            Self::Light => "light",
            Self::Balanced => "balanced",
            Self::Dense => "dense",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let found = Self::ALL.into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| UnknownMethod { name: name.to_owned() })
    }
}

/// A name that no method has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no method {name:?}; use raw, lz4, zstd1, turbo, fast, light, balanced or dense")]
pub struct UnknownMethod {
    /// What was given.
    pub name: String,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_lead_back_to_their_methods() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let text = "Fast".parse::<Method>().unwrap_err().to_string();
        assert!(Method::ALL.iter().all(|method| text.contains(method.name())), "{text}");
    }
}
