//! Units: up to sixteen pages in one code.
//!
//! Pages that are coded together see each other's repetitions and can share a code table; the price
//! is that all of them are decoded for one. Page LZ gains by it as LZ4 does; the fixed codes of packed
//! page LZ do not gain what zstd's own tables do, so the denser levels take that (`docs/ecbc.md`).

use std::fmt;

use super::cpu::Cpu;
use super::lz4::{self, Lz4Encoder};
use super::page_lz::{Effort, Fast, LightUnits, TurboUnits, UnitLzDecoder, UnitLzEncoder};
use super::zstd::{ZstdDecoder, ZstdUnitEncoder};
use super::{DecodeError, Method, Tag};
use crate::format::entry::UNIT_PAGES_MAX;
use crate::{PAGE_SIZE, Page};

/// Bytes in the largest unit.
pub const UNIT_BYTES_MAX: usize = UNIT_PAGES_MAX * PAGE_SIZE;

/// Codes units of up to a number of pages by one [`Method`].
pub struct UnitEncoder {
    pages: usize,
    tag: Tag,
    coder: Box<dyn Coder>,
}

/// A coder of units.
trait Coder: Send {
    /// The length of the code, or `None` if `target` cannot hold it.
    fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<usize>;
}

impl Coder for Lz4Encoder {
    fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<usize> {
        self.encode(unit, target)
    }
}

impl Coder for ZstdUnitEncoder {
    fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<usize> {
        self.encode(unit, target)
    }
}

impl<E: Effort + Send> Coder for UnitLzEncoder<E> {
    fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<usize> {
        self.encode(unit, target)
    }
}

impl UnitEncoder {
    /// An encoder for units of up to `pages`; none where the method codes each page alone.
    pub fn new(method: Method, pages: usize) -> Option<Self> {
        Self::on(Cpu::detect(), method, pages)
    }

    /// The same for this CPU; the codes do not depend on it.
    pub(super) fn on(cpu: Cpu, method: Method, pages: usize) -> Option<Self> {
        let pages = pages.min(UNIT_PAGES_MAX);
        let bytes = pages * PAGE_SIZE;
        let zstd = |level| -> Box<dyn Coder> { Box::new(ZstdUnitEncoder::at_level(level, bytes)) };
        let (tag, coder): (Tag, Box<dyn Coder>) = match method {
            _ if pages < 2 => return None,
            Method::Raw => return None,
            Method::Lz4 => (Tag::Lz4, Box::new(Lz4Encoder::new())),
            Method::Turbo => (Tag::PageLz, Box::new(UnitLzEncoder::<TurboUnits>::new(cpu))),
            Method::Fast => (Tag::PageLz, Box::new(UnitLzEncoder::<Fast>::new(cpu))),
            Method::Light => (Tag::PageLz, Box::new(UnitLzEncoder::<LightUnits>::new(cpu))),
            Method::Balanced => (Tag::Zstd, zstd(-1)),
            Method::Zstd1 => (Tag::Zstd, zstd(1)),
            Method::Dense => (Tag::Zstd, Box::new(ZstdUnitEncoder::dense(bytes))),
        };
        Some(Self { pages, tag, coder })
    }

    /// The most pages that it codes together.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Codes whole pages, no more than [`pages`](Self::pages), into `target`; gives coder and
    /// length, or nothing if `target` cannot hold the code.
    pub fn encode(&mut self, unit: &[u8], target: &mut [u8]) -> Option<(Tag, usize)> {
        Some((self.tag, self.coder.encode(unit, target)?))
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
    lz: UnitLzDecoder,
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
    pub(super) fn new(cpu: Cpu) -> Self {
        Self { key: None, lz: UnitLzDecoder::new(cpu), bytes: vec![0; UNIT_BYTES_MAX].into_boxed_slice() }
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
            Some(Tag::PageLz) => self.lz.decode(code, unit),
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
