//! References: how a page names the ancestor's page that it rests on.
//!
//! An entry of tag 9 or 10 is a reference itself. A difference begins with one:
//!
//! ```text
//! byte 0: bits 0-3 ancestor, bits 4-7 kind (0 the same pfn, 1 by place)
//! kind 1: u32 segment number << 10 | index in the segment
//! ```

use super::entry::Entry;
use crate::SEGMENT_PAGES;

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

const SAME_PFN: u8 = 0;
const AT: u8 = 1;
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

    /// Appends the reference as a difference begins with it.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self.place {
            Place::SamePfn => out.push(self.ancestor & 0xf | SAME_PFN << 4),
            Place::At { segment, index } => {
                out.push(self.ancestor & 0xf | AT << 4);
                let place = ((segment % SEGMENTS) << INDEX_BITS) | (u32::from(index) % (1 << INDEX_BITS));
                out.extend_from_slice(&place.to_le_bytes());
            }
        }
    }

    /// Reads the reference that a difference begins with; gives the rest as well.
    pub(crate) fn split_from(blob: &[u8]) -> Option<(Self, &[u8])> {
        let (&head, rest) = blob.split_first()?;
        let ancestor = head & 0xf;
        match head >> 4 {
            SAME_PFN => Some((Self { ancestor, place: Place::SamePfn }, rest)),
            AT => {
                let (place, rest) = rest.split_first_chunk()?;
                let place = u32::from_le_bytes(*place);
                let index = (place % (1 << INDEX_BITS)) as u16;
                Some((Self { ancestor, place: Place::At { segment: place >> INDEX_BITS, index } }, rest))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn references_come_back() {
        for place in [Place::SamePfn, Place::At { segment: SEGMENTS - 1, index: 1023 }] {
            let reference = Reference { ancestor: 15, place };
            let mut blob = Vec::new();
            reference.write(&mut blob);
            blob.push(0xaa);
            assert_eq!(Reference::split_from(&blob), Some((reference, &[0xaa][..])));
        }
        assert_eq!(Reference::split_from(&[]), None);
        assert_eq!(Reference::split_from(&[0x10, 1, 2, 3]), None);
        assert_eq!(Reference::split_from(&[0x20, 1, 2, 3, 4]), None);
    }
}
