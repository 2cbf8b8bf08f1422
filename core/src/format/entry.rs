//! Page table entry: everything about one page in 64 bits.
//!
//! ```text
//! bits 0-3 tag | 4-15 length - 1 | 16-34 offset / 8 from the end of the table | 35-63 content check
//! ```

use xxhash_rust::xxh3::xxh3_64;

/// Entry tags, bits 0 to 3.
pub mod tag {
    /// A page of zeros.
    pub const ZERO: u8 = 0;
    /// A page filled with one 32-bit word.
    pub const FILL: u8 = 1;
    /// A page as it is.
    pub const STORED: u8 = 2;
    /// The first tag of a page coder's blob; which coder it is, `ecbc` knows.
    pub const CODERS: [u8; 5] = [3, 4, 5, 12, 13];
    /// The page of the same pfn in an ancestor.
    pub const SAME: u8 = 9;
    /// A page of an ancestor by its place there.
    pub const ELSEWHERE: u8 = 10;
    /// The difference to an ancestor's page.
    pub const DIFFERENCE: u8 = 11;
    /// A page of a unit: several pages in one code.
    pub const UNIT: u8 = 14;
    /// No page here: a hole, which is not a page of zeros.
    pub const ABSENT: u8 = 15;
}

/// Where blobs may start, in bytes.
pub const GRANULE: usize = 8;
/// Bytes of the check that follows a coder's blob.
pub const BLOB_CHECK_LEN: usize = 4;
/// The most pages in a unit.
pub const UNIT_PAGES_MAX: usize = 16;
/// Entries tell a unit's length in parts of so many bytes, so that one read surely brings it.
pub const UNIT_GRAIN: usize = 256;
const LEN_BITS: u32 = 12;
const AT_BITS: u32 = 19;
const CHECK_BITS: u32 = 29;

/// Where a page's contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Zeros.
    Zero,
    /// One 32-bit little-endian word over and over.
    Fill(u32),
    /// The page's own bytes.
    Stored {
        /// Where, in bytes from the end of the table.
        at: u32,
        /// Low 29 bits of the contents' xxh3.
        check: u32,
    },
    /// A page coder's output.
    Blob {
        /// Which coder.
        tag: u8,
        /// Bytes, the check after the blob included.
        len: u16,
        /// Where, in bytes from the end of the table.
        at: u32,
        /// Low 29 bits of the contents' xxh3.
        check: u32,
    },
    /// The contents of an ancestor's page with the same pfn.
    Same {
        /// Which ancestor, by its place in the superblock's table.
        ancestor: u8,
        /// Low 29 bits of the contents' xxh3; the default entry of a table keeps none.
        check: Option<u32>,
    },
    /// The contents of an ancestor's page, wherever it is.
    Elsewhere {
        /// Which ancestor, by its place in the superblock's table.
        ancestor: u8,
        /// The page's segment there, below [`ELSEWHERE_SEGMENTS`].
        segment: u32,
        /// Its index in the segment.
        index: u16,
        /// Low 29 bits of the contents' xxh3.
        check: u32,
    },
    /// The difference to an ancestor's page, which `format::reference` names.
    Difference {
        /// Bytes, the check after the blob included.
        len: u16,
        /// Where, in bytes from the end of the table.
        at: u32,
        /// Low 29 bits of the contents' xxh3.
        check: u32,
    },
    /// A page of a unit.
    Unit {
        /// Its place among the unit's pages, below [`UNIT_PAGES_MAX`].
        index: u8,
        /// Bytes from the unit's start within which it ends: a multiple of [`UNIT_GRAIN`].
        reach: u32,
        /// Where the unit begins, in bytes from the end of the table.
        at: u32,
        /// Low 29 bits of the contents' xxh3.
        check: u32,
    },
    /// Nothing.
    Absent,
}

/// Pages of segments from this number on cannot be named by an entry (half a TiB of guest).
pub const ELSEWHERE_SEGMENTS: u32 = 1 << 17;
/// Says of a [`tag::SAME`] entry that it keeps no check.
const UNCHECKED: u64 = 1 << 8;

impl Entry {
    /// The entry as it stands in the table.
    pub fn to_bits(self) -> u64 {
        let placed = |tag: u8, len: u64, at: u32, check: u32| {
            debug_assert!((1..=4096).contains(&len) && (at as usize).is_multiple_of(GRANULE));
            u64::from(tag)
                | (len - 1) << 4
                | u64::from(at / 8) << (4 + LEN_BITS)
                | u64::from(check) << (4 + LEN_BITS + AT_BITS)
        };
        match self {
            Self::Zero => u64::from(tag::ZERO),
            Self::Fill(word) => u64::from(tag::FILL) | u64::from(word) << 16,
            Self::Stored { at, check } => placed(tag::STORED, 4096, at, check),
            Self::Blob { tag, len, at, check } => placed(tag, u64::from(len), at, check),
            Self::Same { ancestor, check } => {
                let check = check.map_or(UNCHECKED, |check| u64::from(check) << (4 + LEN_BITS + AT_BITS));
                u64::from(tag::SAME) | u64::from(ancestor & 0xf) << 4 | check
            }
            Self::Elsewhere { ancestor, segment, index, check } => {
                u64::from(tag::ELSEWHERE)
                    | u64::from(ancestor & 0xf) << 4
                    | u64::from(index & 0x3ff) << 8
                    | u64::from(segment % ELSEWHERE_SEGMENTS) << 18
                    | u64::from(check) << (4 + LEN_BITS + AT_BITS)
            }
            Self::Difference { len, at, check } => placed(tag::DIFFERENCE, u64::from(len), at, check),
            Self::Unit { index, reach, at, check } => {
                let grains = u64::from(reach) / UNIT_GRAIN as u64;
                debug_assert!((1..=256).contains(&grains));
                placed(tag::UNIT, (u64::from(index & 0xf) | (grains - 1) << 4) + 1, at, check)
            }
            Self::Absent => u64::from(tag::ABSENT),
        }
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// In words: a tag this version does not know, or bits that must be zero.
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of the 64 bits by mask")]
    pub fn from_bits(bits: u64) -> Result<Self, BadEntry> {
        let tag = (bits & 0xf) as u8;
        let len = ((bits >> 4 & 0xfff) + 1) as u16;
        let at = (bits >> (4 + LEN_BITS) & ((1 << AT_BITS) - 1)) as u32 * 8;
        let check = (bits >> (4 + LEN_BITS + AT_BITS)) as u32;
        match tag {
            tag::ZERO if bits == 0 => Ok(Self::Zero),
            tag::FILL if bits & !(0xffff_ffff << 16) == u64::from(tag::FILL) => {
                Ok(Self::Fill((bits >> 16) as u32))
            }
            tag::STORED if len == 4096 => Ok(Self::Stored { at, check }),
            tag::ABSENT if bits == u64::from(tag::ABSENT) => Ok(Self::Absent),
            tag::SAME => same_from_bits(bits, check),
            tag::ELSEWHERE => Ok(Self::Elsewhere {
                ancestor: (bits >> 4 & 0xf) as u8,
                segment: (bits >> 18) as u32 % ELSEWHERE_SEGMENTS,
                index: (bits >> 8 & 0x3ff) as u16,
                check,
            }),
            tag::DIFFERENCE if usize::from(len) > BLOB_CHECK_LEN => Ok(Self::Difference { len, at, check }),
            tag::UNIT => {
                let reach = ((bits >> 8 & 0xff) as u32 + 1) * UNIT_GRAIN as u32;
                Ok(Self::Unit { index: (bits >> 4 & 0xf) as u8, reach, at, check })
            }
            tag::ZERO | tag::FILL | tag::STORED | tag::ABSENT | tag::DIFFERENCE => {
                Err(BadEntry::Malformed(bits))
            }
            _ if tag::CODERS.contains(&tag) => {
                if usize::from(len) <= BLOB_CHECK_LEN {
                    return Err(BadEntry::Malformed(bits));
                }
                Ok(Self::Blob { tag, len, at, check })
            }
            _ => Err(BadEntry::UnknownTag(tag)),
        }
    }

    /// Its tag.
    pub fn tag(self) -> u8 {
        match self {
            Self::Zero => tag::ZERO,
            Self::Fill(_) => tag::FILL,
            Self::Stored { .. } => tag::STORED,
            Self::Blob { tag, .. } => tag,
            Self::Same { .. } => tag::SAME,
            Self::Elsewhere { .. } => tag::ELSEWHERE,
            Self::Difference { .. } => tag::DIFFERENCE,
            Self::Unit { .. } => tag::UNIT,
            Self::Absent => tag::ABSENT,
        }
    }

    /// Where its bytes are: (offset from the end of the table, length), both in bytes.
    pub fn extent(self) -> Option<(usize, usize)> {
        match self {
            Self::Stored { at, .. } => Some((at as usize, 4096)),
            Self::Blob { at, len, .. } | Self::Difference { at, len, .. } => {
                Some((at as usize, usize::from(len)))
            }
            Self::Unit { at, reach, .. } => Some((at as usize, reach as usize)),
            Self::Zero | Self::Fill(_) | Self::Same { .. } | Self::Elsewhere { .. } | Self::Absent => None,
        }
    }

    /// Bytes that the page takes of its own: a unit's count for the first of its pages.
    pub fn own_bytes(self) -> usize {
        match self {
            Self::Unit { index: 1.., .. } => 0,
            _ => self.extent().map_or(0, |(_, len)| len),
        }
    }

    /// The check of the contents, if the entry keeps one.
    pub fn check(self) -> Option<u32> {
        match self {
            Self::Stored { check, .. }
            | Self::Blob { check, .. }
            | Self::Elsewhere { check, .. }
            | Self::Difference { check, .. }
            | Self::Unit { check, .. } => Some(check),
            Self::Same { check, .. } => check,
            Self::Zero | Self::Fill(_) | Self::Absent => None,
        }
    }
}

fn same_from_bits(bits: u64, check: u32) -> Result<Entry, BadEntry> {
    let ancestor = (bits >> 4 & 0xf) as u8;
    let kept = if bits & UNCHECKED == 0 { Some(check) } else { None };
    let entry = Entry::Same { ancestor, check: kept };
    if entry.to_bits() == bits { Ok(entry) } else { Err(BadEntry::Malformed(bits)) }
}

/// The check of a page's contents that its entry carries.
#[expect(clippy::cast_possible_truncation, reason = "the low 29 bits are what the format keeps")]
pub fn content_check(page: &[u8]) -> u32 {
    (xxh3_64(page) as u32) & ((1 << CHECK_BITS) - 1)
}

/// An entry that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadEntry {
    /// A kind of entry that a newer version made.
    UnknownTag(u8),
    /// Bits that no version writes.
    Malformed(u64),
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_comes_back() {
        for entry in [
            Entry::Zero,
            Entry::Fill(u32::MAX),
            Entry::Stored { at: (1 << 22) - 8, check: (1 << 29) - 1 },
            Entry::Blob { tag: 4, len: 4095, at: 8, check: 1 },
            Entry::Blob { tag: 3, len: 5, at: 0, check: 0 },
            Entry::Absent,
            Entry::Same { ancestor: 15, check: Some(0) },
            Entry::Same { ancestor: 3, check: None },
            Entry::Elsewhere { ancestor: 15, segment: ELSEWHERE_SEGMENTS - 1, index: 1023, check: 77 },
            Entry::Difference { len: 20, at: 16, check: (1 << 29) - 1 },
            Entry::Unit { index: 15, reach: 65536, at: 8, check: 5 },
            Entry::Unit { index: 0, reach: 256, at: (1 << 22) - 8, check: 0 },
        ] {
            assert_eq!(Entry::from_bits(entry.to_bits()), Ok(entry));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_writes_the_same_bits(bits: u64) {
            if let Ok(entry) = Entry::from_bits(bits) {
                prop_assert_eq!(entry.to_bits(), bits);
            }
        }
    }
}
