//! Peers in Rust, and copying.

use crate::coder::UnitCoder;

pub(crate) struct Memcpy;

impl UnitCoder for Memcpy {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        code[..unit.len()].copy_from_slice(unit);
        Some(unit.len())
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        unit.copy_from_slice(code);
        true
    }
}

/// The safe variant, as one would use it for data that others may have written.
pub(crate) struct Lz4Flex {
    table: lz4_flex::block::CompressTable,
}

impl Lz4Flex {
    pub(crate) fn new() -> Self {
        Self { table: lz4_flex::block::CompressTable::default() }
    }
}

impl UnitCoder for Lz4Flex {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        let len = lz4_flex::block::compress_into_with_table(unit, code, &mut self.table);
        len.ok().filter(|&len| len < unit.len())
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        lz4_flex::block::decompress_into(code, unit).is_ok_and(|len| len == unit.len())
    }
}

pub(crate) struct Snappy {
    encoder: snap::raw::Encoder,
    decoder: snap::raw::Decoder,
}

impl Snappy {
    pub(crate) fn new() -> Self {
        Self { encoder: snap::raw::Encoder::new(), decoder: snap::raw::Decoder::new() }
    }
}

impl UnitCoder for Snappy {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        self.encoder.compress(unit, code).ok().filter(|&len| len < unit.len())
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        self.decoder.decompress(code, unit) == Ok(unit.len())
    }
}
