//! Where blobs go inside a segment.
//!
//! The reader does not care; the writer's policy trades padding against the number of 4 KiB
//! blocks a page touches. A blob is at most 4096 bytes, so it never touches more than two.

use super::BLOCK;
use super::entry::GRANULE;

/// The writer's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// The largest blob that fits the rest of a block; where none fits, the largest straddles,
    /// unless the rest is small and the segment gets no longer by leaving it empty.
    #[default]
    Hybrid,
    /// No blob straddles a block boundary: the paper's rule, at a price (`results/layout`).
    Strict,
    /// Pages one behind the other, for images of which others need runs of pages (templates): a
    /// run is one stretch then, where it would be spread over its segment.
    Ordered,
}

/// A rest of a block up to this size may be left empty (bytes).
const SMALL_REST: usize = 128;
/// Length of a stored page.
const STORED: u16 = 4096;
const BUCKETS: usize = BLOCK / GRANULE + 1;

/// The layout of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For each blob its offset in bytes from the segment's start.
    pub at: Vec<u32>,
    /// Bytes from the segment's start to the end of the last blob.
    pub end: usize,
}

/// Places blobs of the given lengths (bytes, each 1 to 4096) after `start` bytes of header and
/// table. Blobs of exactly 4096 bytes are stored pages and start on a block boundary, unless
/// order counts.
///
/// # Panics
/// If a length is 0 or exceeds 4096.
#[expect(clippy::cast_possible_truncation, reason = "a segment is a little over 4 MiB")]
pub fn place(lens: &[u16], start: usize, placement: Placement) -> Plan {
    if placement == Placement::Ordered {
        return in_order(lens, start);
    }
    let mut waiting = Waiting::new(lens);
    let mut at = vec![0u32; lens.len()];
    let mut pos = start.next_multiple_of(GRANULE);
    let mut spare = slack(lens, pos);
    let mut end = start;
    while !waiting.is_empty() {
        let rest = BLOCK - pos % BLOCK;
        let straddle = placement == Placement::Hybrid && (rest > SMALL_REST || rest > spare);
        let chosen = waiting.largest_up_to(rest).or_else(|| {
            // Stored pages stay on their boundary.
            if straddle { waiting.largest_up_to(BLOCK - GRANULE) } else { None }
        });
        if let Some(blob) = chosen {
            waiting.remove(blob);
            at[blob] = pos as u32;
            end = pos + usize::from(lens[blob]);
            pos = end.next_multiple_of(GRANULE);
        } else {
            spare = spare.saturating_sub(rest);
            pos += rest;
        }
    }
    Plan { at, end }
}

#[expect(clippy::cast_possible_truncation, reason = "a segment is a little over 4 MiB")]
fn in_order(lens: &[u16], start: usize) -> Plan {
    let mut plan = Plan { at: Vec::with_capacity(lens.len()), end: start };
    for &len in lens {
        assert!((1..=STORED).contains(&len), "blob of {len} bytes");
        let at = plan.end.next_multiple_of(GRANULE);
        plan.at.push(at as u32);
        plan.end = at + usize::from(len);
    }
    plan
}

/// How many bytes the last block leaves empty whatever the order, in bytes.
fn slack(lens: &[u16], start: usize) -> usize {
    let granules = lens.iter().map(|&len| usize::from(len).next_multiple_of(GRANULE));
    let total = start.next_multiple_of(GRANULE) + granules.sum::<usize>();
    total.next_multiple_of(BLOCK) - total
}

/// Turns blobs into stored pages (4096 bytes) as long as the segment gets no longer by it: what
/// the last block would leave empty holds pages that need no decoding instead.
pub fn spend_slack(lens: &mut [u16], start: usize) {
    let mut left = slack(lens, start);
    let missing = |len: u16| BLOCK - usize::from(len).next_multiple_of(GRANULE);
    for len in lens.iter_mut().filter(|len| missing(**len) == 0) {
        *len = STORED;
    }
    let candidates: Vec<usize> = (0..lens.len()).filter(|&blob| lens[blob] != STORED).collect();
    #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
    let costs: Vec<u16> = candidates.iter().map(|&blob| missing(lens[blob]) as u16).collect();
    let mut waiting = Waiting::new(&costs);
    while let Some(candidate) = waiting.largest_up_to(left) {
        waiting.remove(candidate);
        left -= usize::from(costs[candidate]);
        lens[candidates[candidate]] = STORED;
    }
}

/// Blobs by size, with a bitmap of the sizes present so that "the largest that fits" is a
/// few instructions.
struct Waiting {
    /// For each size in granules, the blob to take next.
    head: [u16; BUCKETS],
    /// For each blob the next of its size.
    next: Vec<u16>,
    size_of: Vec<u16>,
    present: [u64; BUCKETS.div_ceil(64)],
}

const NONE: u16 = u16::MAX;

impl Waiting {
    #[expect(clippy::cast_possible_truncation, reason = "at most 1024 blobs of at most 512 granules")]
    fn new(lens: &[u16]) -> Self {
        let size_of: Vec<u16> = lens.iter().map(|&len| len.div_ceil(GRANULE as u16)).collect();
        let mut waiting = Self {
            head: [NONE; BUCKETS],
            next: vec![NONE; lens.len()],
            size_of,
            present: [0; BUCKETS.div_ceil(64)],
        };
        // Backwards, so that blobs of one size come out in page order.
        for blob in (0..lens.len()).rev() {
            let size = usize::from(waiting.size_of[blob]);
            assert!((1..BUCKETS).contains(&size), "blob of {} bytes", lens[blob]);
            waiting.next[blob] = waiting.head[size];
            waiting.head[size] = blob as u16;
            waiting.present[size / 64] |= 1 << (size % 64);
        }
        waiting
    }

    fn is_empty(&self) -> bool {
        self.present.iter().all(|&word| word == 0)
    }

    /// The first blob of the largest size that is at most `bytes`.
    fn largest_up_to(&self, bytes: usize) -> Option<usize> {
        let limit = bytes / GRANULE;
        let (last, bit) = (limit / 64, limit % 64);
        let mut mask = u64::MAX >> (63 - bit);
        for word in (0..=last).rev() {
            let candidates = self.present[word] & mask;
            if candidates != 0 {
                let size = word * 64 + 63 - candidates.leading_zeros() as usize;
                return Some(usize::from(self.head[size]));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Takes out `blob`, the first of its size.
    fn remove(&mut self, blob: usize) {
        let size = usize::from(self.size_of[blob]);
        self.head[size] = self.next[blob];
        if self.head[size] == NONE {
            self.present[size / 64] &= !(1 << (size % 64));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn blocks_touched(at: u32, len: u16) -> usize {
        (at as usize + usize::from(len) - 1) / BLOCK - at as usize / BLOCK + 1
    }

    fn check(lens: &[u16], start: usize, placement: Placement) {
        let plan = place(lens, start, placement);
        let mut spans: Vec<_> = plan.at.iter().zip(lens).map(|(&at, &len)| (at, len)).collect();
        spans.sort_unstable();
        let mut free_from = start;
        for (at, len) in spans {
            assert!(at as usize >= free_from, "overlap at {at}");
            assert_eq!(at as usize % GRANULE, 0);
            assert!(blocks_touched(at, len) <= if placement == Placement::Strict { 1 } else { 2 });
            if usize::from(len) == BLOCK && placement != Placement::Ordered {
                assert_eq!(at as usize % BLOCK, 0, "a stored page off its boundary");
            }
            free_from = at as usize + usize::from(len);
        }
        assert_eq!(plan.end, free_from.max(start));
        // Never more than a block a blob after the table's blocks.
        assert!(plan.end.div_ceil(BLOCK) <= start.div_ceil(BLOCK) + lens.len());
    }

    proptest! {
        #[test]
        fn blobs_keep_apart(lens in prop::collection::vec(1u16..=4096, 0..1024), start in 64usize..16704) {
            check(&lens, start, Placement::Hybrid);
            check(&lens, start, Placement::Strict);
            check(&lens, start, Placement::Ordered);
            prop_assert!(place(&lens, start, Placement::Ordered).at.is_sorted());
        }

        #[test]
        fn hybrid_takes_no_more_blocks_than_it_must(
            mut lens in prop::collection::vec(1u16..=4095, 0..1024),
            start in 64usize..16704,
        ) {
            let granules: usize = lens.iter().map(|&len| usize::from(len).next_multiple_of(GRANULE)).sum();
            let least = start.next_multiple_of(GRANULE) + granules;
            spend_slack(&mut lens, start);
            let plan = place(&lens, start, Placement::Hybrid);
            // Where only stored pages are left, the rest of the block before them stays empty.
            prop_assert!(plan.end.div_ceil(BLOCK) <= least.div_ceil(BLOCK) + 1);
            check(&lens, start, Placement::Hybrid);
        }
    }

    #[test]
    fn an_empty_segment_ends_with_its_table() {
        assert_eq!(place(&[], 192, Placement::Hybrid), Plan { at: vec![], end: 192 });
    }
}
