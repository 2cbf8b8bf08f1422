//! What work costs: the cost table, measured on a machine and kept as TOML.
//!
//! Encoding or decoding a page costs a fixed part and a part for each encoded byte, by method
//! and entry tag. Checksums, placement and copying are in it: whole segments were timed.

use std::collections::BTreeMap;

use comio_core::compute::Work;
use comio_core::ecbc::{self, Tally};
use comio_core::format::entry::tag;
use serde::{Deserialize, Serialize};

/// The table that is used unless the program is given another.
const DEFAULT: &str = include_str!("../../costs.toml");

/// Costs of one machine's core, and of the protocols it speaks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CostTable {
    /// Where it was measured.
    pub machine: String,
    /// The hypervisor's copying.
    pub hypervisor: HypervisorCosts,
    /// The same by the testbed itself, which makes pages from traces and compares them.
    pub replay: HypervisorCosts,
    /// The NFS client's work on a host's cores.
    pub client: TransferCosts,
    /// The NFS server's work on its cores.
    pub server: TransferCosts,
    /// Coding, by method ([`ecbc::Method::name`]).
    pub coding: BTreeMap<String, CodingCosts>,
    /// Compressing the whole stream with one thread, by tool.
    pub pipes: BTreeMap<String, PipeCosts>,
}

/// Costs of a hypervisor, in nanoseconds of a core for each page.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HypervisorCosts {
    /// Reading a page of a guest.
    pub read_ns: f64,
    /// Writing one.
    pub write_ns: f64,
}

/// Costs of moving bytes, in nanoseconds of a core.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TransferCosts {
    /// For each call.
    pub call_ns: f64,
    /// For each KiB of a WRITE.
    pub write_ns_per_kib: f64,
    /// For each KiB of a READ.
    pub read_ns_per_kib: f64,
}

/// Costs of one method, by entry tag ([`tag_name`]).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CodingCosts {
    /// Of encoding.
    pub encode: BTreeMap<String, PageCost>,
    /// Of decoding.
    pub decode: BTreeMap<String, PageCost>,
}

/// The cost of a page, in nanoseconds of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PageCost {
    /// For each page.
    pub page_ns: f64,
    /// For each encoded byte.
    pub byte_ns: f64,
}

/// A stream compressor, as in `xl save | lz4`: it works in blocks of many pages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PipeCosts {
    /// Compressing a page that is not zero, in nanoseconds of a core.
    pub compress_ns: f64,
    /// Decompressing it.
    pub decompress_ns: f64,
    /// Either, for a zero page.
    pub zero_ns: f64,
    /// Its output against the per-page coder that is the closest.
    pub size_factor: f64,
}

/// The name of an entry tag in the table.
pub fn tag_name(number: u8) -> &'static str {
    match number {
        tag::ZERO => "zero",
        tag::FILL => "fill",
        tag::STORED => "stored",
        other => ecbc::Tag::from_number(other).map_or("other", ecbc::Tag::name),
    }
}

/// A cost table that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// It is not a cost table.
    #[error("the cost table cannot be read: {0}")]
    Malformed(String),
    /// It lacks something.
    #[error("the cost table says nothing of {0}: make a new one with `comio calibrate`")]
    Missing(String),
}

impl CostTable {
    /// Parses a table.
    ///
    /// # Errors
    /// [`CostError::Malformed`] with the line.
    pub fn parse(text: &str) -> Result<Self, CostError> {
        toml::from_str(text).map_err(|error| CostError::Malformed(error.to_string()))
    }

    /// The table that is checked in.
    ///
    /// # Errors
    /// [`CostError::Malformed`], if this very program was built with a broken one.
    pub fn checked_in() -> Result<Self, CostError> {
        Self::parse(DEFAULT)
    }

    /// The table as a file.
    ///
    /// # Errors
    /// [`CostError::Malformed`] if a figure is one that TOML cannot write.
    pub fn to_toml(&self) -> Result<String, CostError> {
        toml::to_string(self).map_err(|error| CostError::Malformed(error.to_string()))
    }

    /// Identifies the table in results.
    ///
    /// # Errors
    /// As [`to_toml`](Self::to_toml).
    pub fn hash(&self) -> Result<String, CostError> {
        Ok(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(self.to_toml()?.as_bytes())))
    }

    /// The costs of one method's coder.
    ///
    /// # Errors
    /// [`CostError::Missing`] if the method was not measured.
    pub fn coding(&self, method: ecbc::Method) -> Result<&CodingCosts, CostError> {
        let missing = || CostError::Missing(format!("the method {}", method.name()));
        self.coding.get(method.name()).ok_or_else(missing)
    }
}

impl CodingCosts {
    /// Seconds of a core that `work` takes.
    pub fn seconds(&self, work: &Work) -> f64 {
        match work {
            Work::Encode(tally) => seconds(&self.encode, tally),
            Work::Decode(tally) => seconds(&self.decode, tally),
            // Metadata: nothing beside the rest.
            Work::Other => 0.0,
        }
    }

    /// A tag in `tally` that has no cost, if there is one.
    pub fn missing(&self, tally: &Tally) -> Option<&'static str> {
        let known = |tag| self.encode.contains_key(tag) && self.decode.contains_key(tag);
        let used = (0u8..).zip(tally.pages).filter(|(_, pages)| *pages > 0);
        used.map(|(number, _)| tag_name(number)).find(|tag| !known(*tag))
    }
}

#[expect(clippy::cast_precision_loss, reason = "pages and bytes of a segment")]
fn seconds(costs: &BTreeMap<String, PageCost>, tally: &Tally) -> f64 {
    let by_tag = (0u8..).zip(tally.pages.iter().zip(&tally.bytes));
    let nanos = by_tag.filter(|(_, (pages, _))| **pages > 0).map(|(number, (&pages, &bytes))| {
        let cost = costs.get(tag_name(number)).copied().unwrap_or_default();
        cost.page_ns * pages as f64 + cost.byte_ns * bytes as f64
    });
    nanos.sum::<f64>() * 1e-9
}

impl TransferCosts {
    /// Seconds of a core for a WRITE of `len` bytes.
    pub(super) fn write_s(&self, len: usize) -> f64 {
        (self.call_ns + self.write_ns_per_kib * kib(len)) * 1e-9
    }

    /// Seconds of a core for a READ of `len` bytes.
    pub(super) fn read_s(&self, len: usize) -> f64 {
        (self.call_ns + self.read_ns_per_kib * kib(len)) * 1e-9
    }

    /// Seconds of a core for a call without data.
    pub(super) fn call_s(&self) -> f64 {
        self.call_ns * 1e-9
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of transfers")]
fn kib(len: usize) -> f64 {
    len as f64 / 1024.0
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_checked_in_table_covers_every_method() {
        let table = CostTable::checked_in().unwrap();
        for method in ecbc::Method::ALL {
            let costs = table.coding(method).unwrap();
            assert!(costs.encode.contains_key("stored"), "{method}");
            assert_eq!(
                costs.encode.keys().collect::<Vec<_>>(),
                costs.decode.keys().collect::<Vec<_>>(),
                "{method}"
            );
        }
        for tool in ["lz4", "lzop", "zstd"] {
            assert!(table.pipes.contains_key(tool), "{tool}");
        }
    }

    #[test]
    fn costs_add_up_over_pages_and_bytes() {
        let mut tally = Tally::default();
        tally.add(tag::STORED, 4096);
        tally.add(tag::STORED, 4096);
        tally.add(tag::ZERO, 0);
        let cost = |page_ns, byte_ns| PageCost { page_ns, byte_ns };
        let encode = [("stored".to_owned(), cost(100.0, 0.5)), ("zero".to_owned(), cost(7.0, 0.0))];
        let costs = CodingCosts { encode: encode.into(), decode: BTreeMap::new() };
        let seconds = costs.seconds(&Work::Encode(tally));
        assert!((seconds - (200.0 + 4096.0 + 7.0) * 1e-9).abs() < 1e-15);
        assert_eq!(costs.missing(&tally), Some("zero"), "decoding has no costs");
    }
}
