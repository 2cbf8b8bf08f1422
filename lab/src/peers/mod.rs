//! General compressors, each used as well as its interface lets one.

mod lz4;
mod lzo;
mod pure;
mod wkdm;
mod zstd;

use std::ffi::c_int;

pub(crate) use zstd::Zstd;

use crate::coder::{CoderName, UnitCoder};
use comio_core::PAGE_SIZE;

const LZ4_ACCELERATIONS: [c_int; 5] = [1, 4, 8, 16, 32];
const ZSTD_LEVELS: [i32; 5] = [-5, -3, -1, 1, 3];

pub(crate) use lz4::Lz4;

/// The peers for units of so many pages.
pub(crate) fn all(unit_pages: usize) -> Vec<(CoderName, Box<dyn UnitCoder>)> {
    let mut peers: Vec<(CoderName, Box<dyn UnitCoder>)> =
        vec![(CoderName::new("memcpy", &""), Box::new(pure::Memcpy))];
    for acceleration in LZ4_ACCELERATIONS {
        peers.push((CoderName::new("lz4", &acceleration), Box::new(Lz4::new(acceleration))));
    }
    peers.push((CoderName::new("lz4_flex", &""), Box::new(pure::Lz4Flex::new())));
    peers.push((CoderName::new("lzo1x", &1), Box::new(lzo::Lzo::new())));
    peers.push((CoderName::new("snappy", &""), Box::new(pure::Snappy::new())));
    for level in ZSTD_LEVELS {
        peers.push((CoderName::new("zstd", &level), Box::new(Zstd::new(level, unit_pages * PAGE_SIZE))));
    }
    if unit_pages == 1 {
        peers.push((CoderName::new("wkdm", &""), Box::new(wkdm::WkDm::new())));
    }
    peers
}

/// A unit's length as C counts.
fn c_len(bytes: &[u8]) -> c_int {
    c_int::try_from(bytes.len()).expect("units are small")
}

/// What is measured a second time, to show how far two measurements of one coder are apart.
pub(crate) fn again() -> (CoderName, Box<dyn UnitCoder>) {
    (CoderName::new("lz4", &1), Box::new(Lz4::new(1)))
}
