//! Directory: where every segment and frame chunk is, 32 bytes each.
//!
//! First the page segments in tape order, then the frame chunks in theirs. Padded with zeros
//! to whole blocks; the footer keeps the hash of it all.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::segment::MAX_SEGMENT_LEN;
use super::{BLOCK, FormatError};

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 32;

/// Where a segment or frame chunk is and what it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Byte offset in the image; 0 means lost (a recovered image only).
    pub offset: u64,
    /// The first pfn (frame: bytes before compression).
    pub first_pfn: u64,
    /// Pages (frame: stored bytes).
    pub pages: u32,
    /// Length in 4 KiB blocks.
    pub blocks: u16,
    /// Length of the table in 8-byte words, header not included.
    pub table_words: u16,
    /// Whether its pfns are an explicit list, so that they may lie anywhere.
    pub listed: bool,
    /// The hash in its header.
    pub check: u64,
}

/// Bit of the table length's field that says that pfns are listed.
const LISTED: u16 = 1 << 15;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    offset: U64,
    first_pfn: U64,
    pages: U32,
    blocks: U16,
    table_words: U16,
    check: U64,
}

impl DirectoryEntry {
    /// An entry for what could not be recovered.
    pub const LOST: Self =
        Self { offset: 0, first_pfn: 0, pages: 0, blocks: 0, table_words: 0, listed: false, check: 0 };

    /// Whether its segment could not be recovered.
    pub fn is_lost(&self) -> bool {
        self.offset == 0
    }

    /// Length of the segment in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.blocks) * BLOCK
    }

    /// Whether it has no blocks.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Length of header and table in bytes.
    pub fn table_end(&self) -> usize {
        super::segment::HEADER_LEN + 8 * usize::from(self.table_words)
    }
}

/// Appends the entry as it stands in the file.
pub(crate) fn write_entry(entry: &DirectoryEntry, out: &mut Vec<u8>) {
    let raw = Raw {
        offset: U64::new(entry.offset),
        first_pfn: U64::new(entry.first_pfn),
        pages: U32::new(entry.pages),
        blocks: U16::new(entry.blocks),
        table_words: U16::new(entry.table_words | if entry.listed { LISTED } else { 0 }),
        check: U64::new(entry.check),
    };
    out.extend_from_slice(raw.as_bytes());
}

/// Reads `count` entries, whose segments must lie before `end`, in bytes.
///
/// # Errors
/// Damage.
pub(crate) fn parse(bytes: &[u8], count: usize, end: u64) -> Result<Vec<DirectoryEntry>, FormatError> {
    let damaged = |problem: String| FormatError::damaged(end, "the directory", problem);
    if bytes.len() / ENTRY_LEN < count {
        return Err(damaged(format!("{} bytes for {count} entries", bytes.len())));
    }
    let entries = bytes.chunks_exact(ENTRY_LEN).take(count).enumerate().map(|(i, chunk)| {
        let raw = Raw::read_from_bytes(chunk).map_err(|_| damaged("cut off".into()))?;
        let entry = DirectoryEntry {
            offset: raw.offset.get(),
            first_pfn: raw.first_pfn.get(),
            pages: raw.pages.get(),
            blocks: raw.blocks.get(),
            table_words: raw.table_words.get() & !LISTED,
            listed: raw.table_words.get() & LISTED != 0,
            check: raw.check.get(),
        };
        let fits = entry.offset.checked_add(entry.len() as u64).is_some_and(|e| e <= end);
        let sane = entry.offset.is_multiple_of(BLOCK as u64)
            && (entry.is_lost() || entry.blocks > 0)
            && entry.table_end() <= entry.len().max(super::segment::HEADER_LEN)
            && entry.len() <= MAX_SEGMENT_LEN;
        if fits && sane { Ok(entry) } else { Err(damaged(format!("entry {i} makes no sense: {entry:?}"))) }
    });
    entries.collect()
}
