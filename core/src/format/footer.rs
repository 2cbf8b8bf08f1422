//! Footer: the last 4 KiB. An image without a valid one is not an image.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ancestor::ANCESTORS_MAX;
use super::directory::DirectoryEntry;
use super::{BLOCK, FormatError, ImageUuid};
use crate::ecbc::Tally;

/// First bytes of the footer.
pub const MAGIC: [u8; 8] = *b"CIOFOOT1";
const END_MAGIC: [u8; 8] = *b"ComIOend";
const FLAG_INCOMPLETE: u32 = 1;

/// Totals over the image, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages.
    pub pages: u64,
    /// Bytes of page contents as encoded, checks included.
    pub blob_bytes: u64,
    /// Bytes of segment headers and page tables; the whole block where nothing else is in it.
    pub table_bytes: u64,
    /// Bytes of page segments that hold nothing.
    pub padding_bytes: u64,
    /// Frame bytes before compression.
    pub frame_bytes: u64,
    /// Frame bytes in the file, headers and padding included.
    pub frame_stored_bytes: u64,
    /// Pages and bytes by entry tag.
    pub tally: Tally,
    /// For each ancestor how often a page rests on one of its.
    pub rests_on: [u64; ANCESTORS_MAX],
}

impl Totals {
    /// Counts a segment whose pages were coded as `tally` says.
    pub(crate) fn add_segment(&mut self, entry: &DirectoryEntry, tally: &Tally) {
        let blobs = tally.bytes.iter().sum::<u64>();
        let len = entry.len() as u64;
        let table = if blobs == 0 { len } else { entry.table_end() as u64 };
        self.pages += u64::from(entry.pages);
        self.blob_bytes += blobs;
        self.table_bytes += table;
        self.padding_bytes += len.saturating_sub(table + blobs);
        self.tally += *tally;
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.blob_bytes += other.blob_bytes;
        self.table_bytes += other.table_bytes;
        self.padding_bytes += other.padding_bytes;
        self.frame_bytes += other.frame_bytes;
        self.frame_stored_bytes += other.frame_stored_bytes;
        self.tally += other.tally;
        for (sum, more) in self.rests_on.iter_mut().zip(other.rests_on) {
            *sum += more;
        }
    }
}

/// The end of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The image's identity, again.
    pub uuid: ImageUuid,
    /// The superblock's hash, so that the two belong together.
    pub superblock_check: u64,
    /// Where the directory is, in bytes.
    pub directory_offset: u64,
    /// Hash of the directory with its padding.
    pub directory_check: u64,
    /// Page segments.
    pub segments: u32,
    /// Frame chunks.
    pub frame_chunks: u32,
    /// Whether parts are missing: made from a damaged image.
    pub incomplete: bool,
    /// Totals.
    pub totals: Totals,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    uuid: ImageUuid,
    superblock_check: U64,
    directory_offset: U64,
    directory_check: U64,
    segments: U32,
    frame_chunks: U32,
    flags: U32,
    reserved: U32,
    pages: U64,
    blob_bytes: U64,
    table_bytes: U64,
    padding_bytes: U64,
    frame_bytes: U64,
    frame_stored_bytes: U64,
    tally_pages: [U64; 16],
    tally_bytes: [U64; 16],
    rests_on: [U64; ANCESTORS_MAX],
    rest: [u8; BLOCK - 512],
    check: U64,
    end_magic: [u8; 8],
}

impl Footer {
    /// The block as it stands in the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let totals = &self.totals;
        let mut raw = Raw {
            magic: MAGIC,
            uuid: self.uuid,
            superblock_check: U64::new(self.superblock_check),
            directory_offset: U64::new(self.directory_offset),
            directory_check: U64::new(self.directory_check),
            segments: U32::new(self.segments),
            frame_chunks: U32::new(self.frame_chunks),
            flags: U32::new(if self.incomplete { FLAG_INCOMPLETE } else { 0 }),
            reserved: U32::ZERO,
            pages: U64::new(totals.pages),
            blob_bytes: U64::new(totals.blob_bytes),
            table_bytes: U64::new(totals.table_bytes),
            padding_bytes: U64::new(totals.padding_bytes),
            frame_bytes: U64::new(totals.frame_bytes),
            frame_stored_bytes: U64::new(totals.frame_stored_bytes),
            tally_pages: totals.tally.pages.map(U64::new),
            tally_bytes: totals.tally.bytes.map(U64::new),
            rests_on: totals.rests_on.map(U64::new),
            rest: [0; BLOCK - 512],
            check: U64::ZERO,
            end_magic: END_MAGIC,
        };
        raw.check = U64::new(xxh3_64(&raw.as_bytes()[..BLOCK - 16]));
        raw.as_bytes().to_vec()
    }

    /// The hash in a footer that [`parse`](Self::parse) accepts: what an image's descendants
    /// know it by.
    pub(crate) fn check_of(bytes: &[u8]) -> u64 {
        Raw::read_from_prefix(bytes).map_or(0, |(raw, _)| raw.check.get())
    }

    /// Reads the footer, which stands at `offset` of the file.
    ///
    /// # Errors
    /// When it is none, is damaged, or belongs to a newer version.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, FormatError> {
        let damaged = |problem: &str| FormatError::damaged(offset, "the footer", problem);
        let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| damaged("cut off"))?;
        if raw.magic != MAGIC || raw.end_magic != END_MAGIC {
            let problem = "it is missing: the image was cut off or never finished (try recover-image)";
            return Err(damaged(problem));
        }
        if raw.check.get() != xxh3_64(&raw.as_bytes()[..BLOCK - 16]) {
            return Err(damaged("its hash differs"));
        }
        if raw.flags.get() & !FLAG_INCOMPLETE != 0 {
            return Err(FormatError::Unsupported(format!("footer flags {:#x}", raw.flags)));
        }
        let tally = Tally { pages: raw.tally_pages.map(U64::get), bytes: raw.tally_bytes.map(U64::get) };
        Ok(Self {
            uuid: raw.uuid,
            superblock_check: raw.superblock_check.get(),
            directory_offset: raw.directory_offset.get(),
            directory_check: raw.directory_check.get(),
            segments: raw.segments.get(),
            frame_chunks: raw.frame_chunks.get(),
            incomplete: raw.flags.get() & FLAG_INCOMPLETE != 0,
            totals: Totals {
                pages: raw.pages.get(),
                blob_bytes: raw.blob_bytes.get(),
                table_bytes: raw.table_bytes.get(),
                padding_bytes: raw.padding_bytes.get(),
                frame_bytes: raw.frame_bytes.get(),
                frame_stored_bytes: raw.frame_stored_bytes.get(),
                tally,
                rests_on: raw.rests_on.map(U64::get),
            },
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn comes_back_and_every_flipped_bit_is_seen() {
        let footer = Footer {
            uuid: [1; 16],
            superblock_check: 2,
            directory_offset: 3,
            directory_check: 4,
            segments: 5,
            frame_chunks: 6,
            incomplete: true,
            totals: Totals { pages: 7, frame_bytes: 8, ..Totals::default() },
        };
        let bytes = footer.to_bytes();
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(Footer::parse(&bytes, 0), Ok(footer));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::parse(&bytes, 0).is_err(), "bit {bit}");
        }
    }
}
