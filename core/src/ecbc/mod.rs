//! ECBC, enhanced characteristic-based compression of guest pages.
//!
//! A page is classified by cheap looks at its characteristics (`classify`), and
//! the coder that suits the class codes it. `docs/ecbc.md` describes the algorithm, what it is a
//! reconstruction of, and what was tried and dropped.
//!
//! Coders here know pages and blobs only. Where a blob is placed and how its bytes and the
//! page's contents are checked is the image format's business.

mod classify;
pub(crate) mod cpu;
mod decoder;
pub(crate) mod difference;
mod encoder;
mod lz4;
mod method;
#[cfg(test)]
mod own_test;
mod page_lz;
#[cfg(test)]
mod test;
mod unit;
#[cfg(test)]
mod unit_test;
mod words;
mod zstd;

pub(crate) use classify::uniform;
pub use decoder::{DecodeError, PageDecoder};
pub use difference::DifferenceCoder;
pub use encoder::PageEncoder;
pub use method::{Method, UnknownMethod};
pub use unit::{UNIT_BYTES_MAX, UnitEncoder, UnitKey};

/// Bytes of room that [`PageEncoder::encode`] needs for a blob.
pub const BLOB_ROOM: usize = crate::PAGE_SIZE;

/// The longest blob, in bytes: with the 4-byte check that follows it in an image it is still
/// shorter than the page.
pub const BLOB_MAX: usize = crate::PAGE_SIZE - 5;

/// What a page became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCode {
    /// All bytes are zero: no blob.
    Zero,
    /// One 32-bit word all over, given as read in little-endian order: no blob.
    Fill(u32),
    /// Nothing shrinks it: the page itself is its code.
    Stored,
    /// The first `len` bytes of the blob room are the code, for the coder `tag`.
    Blob {
        /// Which coder decodes it.
        tag: Tag,
        /// Length in bytes, 1 to [`BLOB_MAX`].
        len: usize,
    },
}

/// Which coder made a blob: the entry tags of the image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tag {
    /// An LZ4 block.
    Lz4 = 3,
    /// A zstd block, without frame and block headers.
    Zstd = 4,
    /// Page LZ: distances in words and repeated ones cost a byte less, or none.
    PageLz = 5,
    /// Page LZ with its tokens and literals in fixed prefix codes.
    PackedLz = 12,
    /// 64-bit words, each by what it has beyond an earlier one or beyond zero.
    Words = 13,
}

impl Tag {
    /// The tag in an image's page table.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The tag with this number, if a page coder has it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            5 => Some(Self::PageLz),
            12 => Some(Self::PackedLz),
            13 => Some(Self::Words),
            _ => None,
        }
    }

    /// The coder's name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::PageLz => "page-lz",
            Self::PackedLz => "packed-lz",
            Self::Words => "words",
        }
    }
}

/// How much was done for each coder: what a report shows and a model charges for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages by entry tag (see `format::entry`).
    pub pages: [u64; 16],
    /// Encoded bytes by entry tag, checks included.
    pub bytes: [u64; 16],
}

impl Tally {
    /// Counts a page of entry tag `tag` that takes `bytes`.
    pub fn add(&mut self, tag: u8, bytes: usize) {
        let slot = usize::from(tag & 0xf);
        self.pages[slot] += 1;
        self.bytes[slot] += bytes as u64;
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in self.pages.iter_mut().zip(other.pages) {
            *sum += more;
        }
        for (sum, more) in self.bytes.iter_mut().zip(other.bytes) {
            *sum += more;
        }
    }
}
