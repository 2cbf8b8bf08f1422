//! From a blob back to its page.

use std::fmt;

use super::cpu::Cpu;
use super::difference::{DifferenceCoder, DifferenceDecoder};
use super::page_lz::PageLzDecoder;
use super::page_lz::packed::PackedDecoder;
use super::unit::{UnitDecoder, UnitKey};
use super::words::WordsDecoder;
use super::zstd::ZstdDecoder;
use super::{BLOB_MAX, Tag, lz4};
use crate::{PAGE_SIZE, Page};

/// Decodes the blobs of every method; keeps the coders' tables between pages, so make one for
/// each worker and reuse it.
pub struct PageDecoder {
    zstd: ZstdDecoder,
    page_lz: PageLzDecoder,
    packed_lz: PackedDecoder,
    words: WordsDecoder,
    difference: DifferenceDecoder,
    unit: UnitDecoder,
}

impl PageDecoder {
    /// A decoder; allocates all it will ever need.
    pub fn new() -> Self {
        Self::on(Cpu::detect())
    }

    /// The same for this CPU; the pages do not depend on it.
    pub(super) fn on(cpu: Cpu) -> Self {
        Self {
            zstd: ZstdDecoder::new(),
            page_lz: PageLzDecoder::new(cpu),
            packed_lz: PackedDecoder::new(cpu),
            words: WordsDecoder::new(cpu),
            difference: DifferenceDecoder::new(cpu),
            unit: UnitDecoder::new(cpu),
        }
    }

    /// Decodes what the coder with this tag made. `blob` may be anything: whatever it says, at
    /// most `page` is written, and all of it.
    ///
    /// # Errors
    /// A tag that no page coder has, or a blob that its coder cannot have made. `page` is then
    /// all zeros, so that contents of an earlier page are never taken for this one's.
    pub fn decode(&mut self, tag: u8, blob: &[u8], page: &mut Page) -> Result<(), DecodeError> {
        let decoded = match Tag::from_number(tag) {
            None => Err(DecodeError::UnknownCoder { tag }),
            Some(Tag::Lz4) => damaged_unless(lz4::decode(blob, page), Tag::Lz4),
            Some(Tag::Zstd) => damaged_unless(self.zstd.decode(blob, page), Tag::Zstd),
            Some(Tag::PageLz) => {
                damaged_unless(blob.len() <= BLOB_MAX && self.page_lz.decode(blob, page), Tag::PageLz)
            }
            Some(Tag::PackedLz) => damaged_unless(self.packed_lz.decode(blob, page), Tag::PackedLz),
            Some(Tag::Words) => damaged_unless(self.words.decode(blob, page), Tag::Words),
        };
        if decoded.is_err() {
            *page = [0; PAGE_SIZE];
        }
        decoded
    }

    /// Page `index` of the unit `key`, if that unit is the one that was decoded last.
    pub fn page_of_last_unit(&self, key: &UnitKey, index: usize) -> Option<&Page> {
        self.unit.page(key, index)
    }

    /// Decodes a unit of `pages` pages by the coder with this number, for
    /// [`page_of_last_unit`](Self::page_of_last_unit). `code` may be anything.
    ///
    /// # Errors
    /// A coder that makes no units, or a code that does not give so many pages.
    pub fn decode_unit(
        &mut self,
        key: UnitKey,
        coder: u8,
        code: &[u8],
        pages: usize,
    ) -> Result<(), DecodeError> {
        self.unit.decode(&mut self.zstd, key, coder, code, pages)
    }

    /// Decodes the difference `blob` to `base` that `coder` made; otherwise as [`decode`](Self::decode).
    ///
    /// # Errors
    /// A blob that is no difference to this base; `page` is then all zeros.
    pub fn decode_difference(
        &mut self,
        coder: DifferenceCoder,
        blob: &[u8],
        base: &Page,
        page: &mut Page,
    ) -> Result<(), DecodeError> {
        if self.difference.decode(coder, blob, base, page) {
            return Ok(());
        }
        *page = [0; PAGE_SIZE];
        Err(DecodeError::Damaged { coder: "difference" })
    }
}

fn damaged_unless(whole: bool, tag: Tag) -> Result<(), DecodeError> {
    if whole { Ok(()) } else { Err(DecodeError::Damaged { coder: tag.name() }) }
}

impl Default for PageDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PageDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageDecoder").finish_non_exhaustive()
    }
}

/// A blob that gives no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The image was made by a newer version, or its page table is damaged.
    #[error("no page coder has tag {tag}; a newer comio may know it")]
    UnknownCoder {
        /// The tag that was met.
        tag: u8,
    },
    /// The blob is not one that the coder makes for a page.
    #[error("the {coder} blob is damaged: it does not give pages of 4096 bytes")]
    Damaged {
        /// The coder's name.
        coder: &'static str,
    },
}
