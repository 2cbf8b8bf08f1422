//! The ways of saving that a scenario compares.

use std::fmt;
use std::str::FromStr;

use comio_core::ecbc;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
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
    /// ComIO upon a template of the images that the guests were cloned from (real mode).
    ComioTemplate,
    /// ComIO, each night upon the image of the night before (real mode).
    ComioIncrement,
    /// Stock Xen (modelled): the toolstack's stream as it is, all guests at once.
    Xen,
    /// Stock Xen (modelled), one guest after the other on each host, as xendomains does.
    XenSequential,
    /// `xl save | lz4` (modelled): one thread for each guest, all guests at once.
    PipeLz4,
    /// `xl save | lzop`, likewise.
    PipeLzop,
    /// `xl save | zstd -1`, likewise.
    PipeZstd,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Raw,
        Self::Lz4,
        Self::Zstd1,
        Self::ComioFast,
        Self::Comio,
        Self::ComioDense,
        Self::ComioTemplate,
        Self::ComioIncrement,
        Self::Xen,
        Self::XenSequential,
        Self::PipeLz4,
        Self::PipeLzop,
        Self::PipeZstd,
    ];

    /// How the engine codes its pages; `None` for methods without the engine.
    pub fn coder(self) -> Option<ecbc::Method> {
        match self {
            Self::Raw => Some(ecbc::Method::Raw),
            Self::Lz4 => Some(ecbc::Method::Lz4),
            Self::Zstd1 => Some(ecbc::Method::Zstd1),
            Self::ComioFast => Some(ecbc::Method::Fast),
            Self::Comio | Self::ComioTemplate | Self::ComioIncrement => Some(ecbc::Method::Balanced),
            Self::ComioDense => Some(ecbc::Method::Dense),
            Self::Xen | Self::XenSequential | Self::PipeLz4 | Self::PipeLzop | Self::PipeZstd => None,
        }
    }

    /// Whether its images rest on others, whose pages must be real: it has no model.
    pub(crate) fn rests_on_images(self) -> bool {
        matches!(self, Self::ComioTemplate | Self::ComioIncrement)
    }

    /// The tool that the stream is piped through, as the cost table names it.
    pub fn tool(self) -> Option<&'static str> {
        match self {
            Self::PipeLz4 => Some("lz4"),
            Self::PipeLzop => Some("lzop"),
            Self::PipeZstd => Some("zstd"),
            _ => None,
        }
    }

    /// The coder whose pages tell how large they are: its own, or for a pipe the closest.
    pub(crate) fn nearest_coder(self) -> ecbc::Method {
        self.coder().unwrap_or(match self {
            Self::PipeLz4 | Self::PipeLzop => ecbc::Method::Lz4,
            Self::PipeZstd => ecbc::Method::Zstd1,
            _ => ecbc::Method::Raw,
        })
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
            Self::ComioTemplate => "comio-template",
            Self::ComioIncrement => "comio-increment",
            Self::Xen => "xen",
            Self::XenSequential => "xen-sequential",
            Self::PipeLz4 => "pipe-lz4",
            Self::PipeLzop => "pipe-lzop",
            Self::PipeZstd => "pipe-zstd",
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
            Self::ComioTemplate => "ComIO, template",
            Self::ComioIncrement => "ComIO, increments",
            Self::Xen => "stock Xen",
            Self::XenSequential => "stock Xen, one by one",
            Self::PipeLz4 => "xl save | lz4",
            Self::PipeLzop => "xl save | lzop",
            Self::PipeZstd => "xl save | zstd -1",
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

impl JsonSchema for Method {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Method".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::ALL.map(Self::name) })
    }
}
