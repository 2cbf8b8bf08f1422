//! zstd as one would use it for units of known size: contexts reused, window and tables no
//! larger than the unit needs, no headers that every unit repeats.

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

use crate::coder::UnitCoder;

pub(crate) struct Zstd {
    encoder: CCtx<'static>,
    decoder: DCtx<'static>,
}

impl Zstd {
    pub(crate) fn new(level: i32, unit_bytes: usize) -> Self {
        let mut encoder = CCtx::create();
        let mut parameters = vec![
            CParameter::CompressionLevel(level),
            CParameter::Format(FrameFormat::Magicless),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
            CParameter::WindowLog(unit_bytes.next_power_of_two().ilog2()),
        ];
        if unit_bytes < 16 << 10 && level < 2 {
            // Clearing tables of a page's size costs more than what collides in smaller ones.
            parameters.push(CParameter::HashLog(12));
        }
        for parameter in parameters {
            encoder.set_parameter(parameter).expect("a parameter that zstd has");
        }
        let mut decoder = DCtx::create();
        decoder.set_parameter(DParameter::Format(FrameFormat::Magicless)).expect("a parameter that zstd has");
        Self { encoder, decoder }
    }
}

impl UnitCoder for Zstd {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        self.encoder.compress2(code, unit).ok().filter(|&len| len < unit.len())
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        self.decoder.decompress(unit, code) == Ok(unit.len())
    }
}
