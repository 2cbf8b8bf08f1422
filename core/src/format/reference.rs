//! References: how a page names the ancestor's page that it rests on.
//!
//! An entry of tag 9 or 10 is a reference itself. A difference begins with one:
//!
//! ```text
//! byte 0: bits 0-3 ancestor, bit 4 by place instead of the same pfn, bit 5 the difference's coder
//! by place: u32 segment number << 10 | index in the segment
//! ```

use super::entry::Entry;
use crate::SEGMENT_PAGES;
use crate::ecbc::DifferenceCoder;

/// Which page of an ancestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The one with the same pfn.
    SamePfn,
    /// The one that stands there.
    At {
        /// The segment's number, in tape order.
        segment: u32,
        /// The page's index in the segment.
        index: u16,
    },
}

/// A page of an ancestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Which ancestor, by its place in the superblock's table.
    pub ancestor: u8,
    /// Which page.
    pub place: Place,
}

const AT: u8 = 1 << 4;
const PACKED_LZ: u8 = 1 << 5;
const KNOWN: u8 = 0xf | AT | PACKED_LZ;
const INDEX_BITS: u32 = SEGMENT_PAGES.trailing_zeros();
/// Pages of segments from this number on cannot be named by a difference.
const SEGMENTS: u32 = 1 << (u32::BITS - INDEX_BITS);

impl Reference {
    /// What `entry` refers to, if it is a reference.
    pub fn of_entry(entry: Entry) -> Option<Self> {
        match entry {
            Entry::Same { ancestor, .. } => Some(Self { ancestor, place: Place::SamePfn }),
            Entry::Elsewhere { ancestor, segment, index, .. } => {
                Some(Self { ancestor, place: Place::At { segment, index } })
            }
            _ => None,
        }
    }

    /// Appends the reference as a difference by `coder` begins with it.
    pub(crate) fn write(self, coder: DifferenceCoder, out: &mut Vec<u8>) {
        let coder = if coder == DifferenceCoder::PackedLz { PACKED_LZ } else { 0 };
        match self.place {
            Place::SamePfn => out.push(self.ancestor & 0xf | coder),
            Place::At { segment, index } => {
                out.push(self.ancestor & 0xf | AT | coder);
                let place = ((segment % SEGMENTS) << INDEX_BITS) | (u32::from(index) % (1 << INDEX_BITS));
                out.extend_from_slice(&place.to_le_bytes());
            }
        }
    }

    /// Reads the reference that a difference begins with; gives its coder and the rest as well.
    pub(crate) fn split_from(blob: &[u8]) -> Option<(Self, DifferenceCoder, &[u8])> {
        let (&head, rest) = blob.split_first()?;
        if head & !KNOWN != 0 {
            return None;
        }
        let ancestor = head & 0xf;
        let coder = if head & PACKED_LZ == 0 { DifferenceCoder::Zstd } else { DifferenceCoder::PackedLz };
        if head & AT == 0 {
            return Some((Self { ancestor, place: Place::SamePfn }, coder, rest));
        }
        let (place, rest) = rest.split_first_chunk()?;
        let place = u32::from_le_bytes(*place);
        let index = (place % (1 << INDEX_BITS)) as u16;
        Some((Self { ancestor, place: Place::At { segment: place >> INDEX_BITS, index } }, coder, rest))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn references_come_back() {
        for place in [Place::SamePfn, Place::At { segment: SEGMENTS - 1, index: 1023 }] {
            let reference = Reference { ancestor: 15, place };
            for coder in [DifferenceCoder::Zstd, DifferenceCoder::PackedLz] {
                let mut blob = Vec::new();
                reference.write(coder, &mut blob);
                blob.push(0xaa);
                assert_eq!(Reference::split_from(&blob), Some((reference, coder, &[0xaa][..])));
            }
        }
        assert_eq!(Reference::split_from(&[]), None);
        assert_eq!(Reference::split_from(&[0x10, 1, 2, 3]), None);
        assert_eq!(Reference::split_from(&[0x40, 1, 2, 3, 4]), None);
    }
}
