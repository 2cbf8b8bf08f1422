//! zstd blocks of one page, and frames of several.
//!
//! A frame of one page would spend 10 bytes on headers that are the same for every page or
//! follow from the blob's length. They are cut off in encoding and put back in decoding, which
//! also leaves a hostile blob nothing to say about windows, dictionaries or further blocks.

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ParamSwitch, ResetDirective, Strategy};

use super::unit::UNIT_BYTES_MAX;
use crate::{PAGE_SIZE, Page};

/// Frame header (nothing optional; window of 4 KiB) and block header.
const HEADER: usize = 5;
/// Frame header descriptor without content size, dictionary or checksum; window descriptor 2^12.
const FRAME_HEADER: [u8; 2] = [0x00, (12 - 10) << 3];

/// Of a unit's window.
const WINDOW_LOG_MAX: u32 = UNIT_BYTES_MAX.ilog2();

fn header(blob_len: usize) -> [u8; HEADER] {
    // Block header, 24 bits: last block, type 2 (compressed), length.
    #[expect(clippy::cast_possible_truncation, reason = "blobs are shorter than a page")]
    let block = (1 | 2 << 1 | (blob_len as u32) << 3).to_le_bytes();
    [FRAME_HEADER[0], FRAME_HEADER[1], block[0], block[1], block[2]]
}

/// zstd's parameters for a level of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    /// The level that gives what is not set here.
    pub level: i32,
    /// Log2 of hash table entries.
    pub hash_log: u32,
    /// Shortest match in bytes.
    pub min_match: u32,
    /// How the match finder works.
    pub strategy: Strategy,
    /// Whether literals are entropy-coded.
    pub literals: ParamSwitch,
}

/// What frames leave out: all that is known without them.
const BARE: [CParameter; 4] = [
    CParameter::Format(FrameFormat::Magicless),
    CParameter::ContentSizeFlag(false),
    CParameter::ChecksumFlag(false),
    CParameter::DictIdFlag(false),
];

fn context(parameters: impl IntoIterator<Item = CParameter>) -> CCtx<'static> {
    let mut context = CCtx::create();
    for parameter in parameters.into_iter().chain(BARE) {
        let set = context.set_parameter(parameter);
        assert!(set.is_ok(), "zstd refuses {parameter:?}");
    }
    context
}

/// Compresses pages with one context that is reused.
pub(super) struct ZstdEncoder {
    context: CCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl ZstdEncoder {
    /// zstd's own choice for pages at `level`.
    pub(super) fn at_level(level: i32) -> Self {
        Self::new(&[CParameter::CompressionLevel(level)])
    }

    /// As tuned.
    pub(super) fn tuned(tuning: Tuning) -> Self {
        Self::new(&[
            CParameter::CompressionLevel(tuning.level),
            CParameter::HashLog(tuning.hash_log),
            CParameter::MinMatch(tuning.min_match),
            CParameter::Strategy(tuning.strategy),
            CParameter::LiteralCompressionMode(tuning.literals),
        ])
    }

    fn new(parameters: &[CParameter]) -> Self {
        let context = context(parameters.iter().copied().chain([CParameter::WindowLog(12)]));
        Self { context, frame: Box::new([0; PAGE_SIZE + HEADER]) }
    }

    /// The length of the blob, or `None` if `target` cannot hold it.
    pub(super) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        let len = self.context.compress2(self.frame.as_mut_slice(), page).ok()?;
        let (head, blob) = self.frame.get(..len)?.split_at_checked(HEADER)?;
        // Anything but one compressed block did not shrink.
        if head != header(blob.len()) {
            return None;
        }
        target.get_mut(..blob.len())?.copy_from_slice(blob);
        Some(blob.len())
    }
}

/// Compresses units with one context that is reused: whole frames, without a magic number.
pub(super) struct ZstdUnitEncoder(CCtx<'static>);

impl ZstdUnitEncoder {
    /// zstd's own choice for units of at most `unit_bytes` at `level`.
    pub(super) fn at_level(level: i32, unit_bytes: usize) -> Self {
        // Clearing tables of a unit's size costs more than what collides in smaller ones.
        let small = (unit_bytes < 16 << 10 && level < 2).then_some(CParameter::HashLog(12));
        Self::new(unit_bytes, [CParameter::CompressionLevel(level)].into_iter().chain(small))
    }

    /// Nearly as dense as level 3, as fast as level 1: its search with shorter matches, or level 3's
    /// with tables that stay in the L1 cache.
    pub(super) fn dense(unit_bytes: usize) -> Self {
        let (strategy, hash_log, chain_log) = if unit_bytes < 64 << 10 {
            (Strategy::ZSTD_dfast, 12, 11)
        } else {
            (Strategy::ZSTD_fast, 13, 12)
        };
        let parameters = [
            CParameter::CompressionLevel(3),
            CParameter::Strategy(strategy),
            CParameter::HashLog(hash_log),
            CParameter::ChainLog(chain_log),
            CParameter::MinMatch(5),
            CParameter::TargetLength(0),
        ];
        Self::new(unit_bytes, parameters)
    }

    fn new(unit_bytes: usize, parameters: impl IntoIterator<Item = CParameter>) -> Self {
        let window = CParameter::WindowLog(unit_bytes.next_power_of_two().ilog2());
        Self(context(parameters.into_iter().chain([window])))
    }

    /// The length of the frame, or `None` if `target` cannot hold it.
    pub(super) fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<usize> {
        self.0.compress2(target, unit).ok()
    }
}

/// Decompresses blobs with one context that is reused.
pub(super) struct ZstdDecoder {
    context: DCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl ZstdDecoder {
    pub(super) fn new() -> Self {
        let mut context = DCtx::create();
        for parameter in
            [DParameter::Format(FrameFormat::Magicless), DParameter::WindowLogMax(WINDOW_LOG_MAX)]
        {
            let set = context.set_parameter(parameter);
            assert!(set.is_ok(), "zstd refuses {parameter:?}");
        }
        Self { context, frame: Box::new([0; PAGE_SIZE + HEADER]) }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is unspecified.
    pub(super) fn decode(&mut self, blob: &[u8], page: &mut Page) -> bool {
        let Some(frame) = self.frame.get_mut(..HEADER + blob.len()) else { return false };
        let (head, body) = frame.split_at_mut(HEADER);
        head.copy_from_slice(&header(blob.len()));
        body.copy_from_slice(blob);
        let decoded = self.context.decompress(page.as_mut_slice(), frame);
        if decoded.is_err() {
            // Resetting the session of a context cannot fail.
            let _ = self.context.reset(ResetDirective::SessionOnly);
        }
        decoded == Ok(PAGE_SIZE)
    }

    /// Whether `frame` filled exactly `unit`. If not, that is unspecified.
    pub(super) fn decode_unit(&mut self, frame: &[u8], unit: &mut [u8]) -> bool {
        let decoded = self.context.decompress(unit, frame);
        if decoded.is_err() {
            // Resetting the session of a context cannot fail.
            let _ = self.context.reset(ResetDirective::SessionOnly);
        }
        decoded == Ok(unit.len())
    }
}
