//! The ways of saving that a scenario compares.

use std::fmt;
use std::str::FromStr;

use comio_core::ecbc;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How memory becomes stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Every page as it is, as stock Xen writes it.
    Raw,
    /// LZ4 on each page.
    Lz4,
    /// Zstandard, level 1, on each page.
    Zstd1,
    /// ComIO at its fastest level.
    ComioFast,
    /// ComIO as it is by default.
    Comio,
    /// ComIO at its densest level.
    ComioDense,
}

impl Method {
    const ALL: [Self; 6] =
        [Self::Raw, Self::Lz4, Self::Zstd1, Self::ComioFast, Self::Comio, Self::ComioDense];

    /// How its pages are coded.
    pub fn coder(self) -> ecbc::Method {
        match self {
            Self::Raw => ecbc::Method::Raw,
            Self::Lz4 => ecbc::Method::Lz4,
            Self::Zstd1 => ecbc::Method::Zstd1,
            Self::ComioFast => ecbc::Method::Fast,
            Self::Comio => ecbc::Method::Balanced,
            Self::ComioDense => ecbc::Method::Dense,
        }
    }

    /// Its name in scenarios and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::Zstd1 => "zstd1",
            Self::ComioFast => "comio-fast",
            Self::Comio => "comio",
            Self::ComioDense => "comio-dense",
        }
    }

    /// Its name for people, in tables and plots.
    pub fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "LZ4",
            Self::Zstd1 => "zstd-1",
            Self::ComioFast => "ComIO fast",
            Self::Comio => "ComIO",
            Self::ComioDense => "ComIO dense",
        }
    }
}

/// A name that no method has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no method {name:?}; methods are {known}")]
pub struct UnknownMethod {
    name: String,
    known: String,
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| UnknownMethod {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
