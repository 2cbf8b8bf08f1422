//! Units: up to sixteen pages in one code.
//!
//! Pages that are coded together see each other's repetitions and share their code tables, which
//! the stock coders make good use of; the price is that all of them are decoded for one. Coders made
//! for single pages gain nothing here (`docs/ecbc.md`), so levels take the stock coder of their regime.

use std::fmt;

use super::lz4::{self, Lz4Encoder};
use super::zstd::{ZstdDecoder, ZstdUnitEncoder};
use super::{DecodeError, Method, Tag};
use crate::format::entry::UNIT_PAGES_MAX;
use crate::{PAGE_SIZE, Page};

/// Bytes in the largest unit.
pub const UNIT_BYTES_MAX: usize = UNIT_PAGES_MAX * PAGE_SIZE;
/// From so many pages on a level affords the next better coder.
const LARGE: usize = 16;

/// Codes units of up to a number of pages by one [`Method`].
pub struct UnitEncoder {
    pages: usize,
    coder: Coder,
}

enum Coder {
    Lz4(Lz4Encoder),
    Zstd(ZstdUnitEncoder),
}

impl UnitEncoder {
    /// An encoder for units of up to `pages`; none where the method codes each page alone.
    pub fn new(method: Method, pages: usize) -> Option<Self> {
        let pages = pages.min(UNIT_PAGES_MAX);
        let zstd = |level| Coder::Zstd(ZstdUnitEncoder::new(level, pages * PAGE_SIZE));
        let large = pages >= LARGE;
        let coder = match method {
            _ if pages < 2 => return None,
            Method::Raw | Method::Turbo => return None,
            Method::Lz4 => Coder::Lz4(Lz4Encoder::new()),
            Method::Fast => Coder::Lz4(Lz4Encoder::accelerated(8)),
            Method::Light => zstd(if large { -1 } else { -3 }),
            Method::Balanced => zstd(if large { 1 } else { -1 }),
            Method::Zstd1 => zstd(1),
            Method::Dense => zstd(3),
        };
        Some(Self { pages, coder })
    }

    /// The most pages that it codes together.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Codes whole pages, no more than [`pages`](Self::pages), into `target`; gives coder and
    /// length, or nothing if `target` cannot hold the code.
    pub fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<(Tag, usize)> {
        match &mut self.coder {
            Coder::Lz4(coder) => Some((Tag::Lz4, coder.encode(unit, target)?)),
            Coder::Zstd(coder) => Some((Tag::Zstd, coder.encode(unit, target)?)),
        }
    }
}

impl fmt::Debug for UnitEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitEncoder").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// The unit that was decoded last: its pages are mostly asked for one after the other.
pub(super) struct UnitDecoder {
    key: Option<UnitKey>,
    bytes: Box<[u8]>,
}

/// Which unit it is. Whoever makes the key has checked the code, or it is that of a unit whose
/// code was: a page is compared with its own content check either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitKey {
    /// The image.
    pub image: [u8; 16],
    /// Where in its segment it stands.
    pub at: u32,
    /// Bytes of its code.
    pub len: usize,
    /// The check of its stored bytes.
    pub check: [u8; 4],
}

impl UnitDecoder {
    pub(super) fn new() -> Self {
        Self { key: None, bytes: vec![0; UNIT_BYTES_MAX].into_boxed_slice() }
    }

    /// Page `index` of the unit `key` if it is the one that is at hand.
    pub(super) fn page(&self, key: &UnitKey, index: usize) -> Option<&Page> {
        let (pages, _) = self.bytes.as_chunks::<PAGE_SIZE>();
        pages.get(index).filter(|_| self.key.as_ref() == Some(key))
    }

    /// Decodes a unit of so many pages.
    pub(super) fn decode(
        &mut self,
        zstd: &mut ZstdDecoder,
        key: UnitKey,
        coder: u8,
        code: &[u8],
        pages: usize,
    ) -> Result<(), DecodeError> {
        self.key = None;
        let damaged = |coder| DecodeError::Damaged { coder };
        let unit = self.bytes.get_mut(..pages * PAGE_SIZE).ok_or(damaged("unit"))?;
        let whole = match Tag::from_number(coder) {
            Some(Tag::Lz4) => lz4::decode(code, unit),
            Some(Tag::Zstd) => zstd.decode_unit(code, unit),
            _ => return Err(DecodeError::UnknownCoder { tag: coder }),
        };
        if !whole {
            return Err(damaged("unit"));
        }
        // Pages of an earlier, larger unit are not this one's.
        self.bytes[pages * PAGE_SIZE..].fill(0);
        self.key = Some(key);
        Ok(())
    }
}
