//! From a page to page LZ: one greedy pass.
//!
//! Indices are masked to their array's size where that costs less than a checked index; they are
//! in range anyway.
#![expect(clippy::inline_always, reason = "measured: calls within a sequence cost several percent")]

use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, mode};
use crate::{PAGE_SIZE, Page};

/// Log2 of the hash table's entries: 4 KiB, so that table, page and output share the L1 cache.
const HASH_LOG: u32 = 11;
const ENTRIES: usize = 1 << HASH_LOG;
/// Bytes hashed: longer than the shortest match, since short matches cost more time than they
/// save space.
const HASHED_BYTES: u32 = 6;
/// After `2^SKIP_LOG` positions without a match every second is tried, then every third, ...
const SKIP_LOG: u32 = 3;
/// Literals are copied in pieces of this size, beyond their end if need be.
const PIECE: usize = 16;
/// A page and room to read beyond it.
const PADDED: usize = PAGE_SIZE + 64;
/// Positions after this one start no match: eight bytes are read at each.
const LAST_START: usize = PAGE_SIZE - 8;
/// Twice a page: no code is as long, since no sequence is longer than what it stands for by more
/// than the extension of its literals.
const ROOM: usize = 2 * PAGE_SIZE;

/// Encodes pages; the memory is reused, nothing of a page's content is.
pub(in crate::ecbc) struct PageLzEncoder {
    /// For a hash of six bytes, where they were met last (0 at first: as good as any position).
    table: Box<[u16; ENTRIES]>,
    input: Box<[u8; PADDED]>,
    output: Output,
}

/// Bytes equal at two places, the later one not yet coded.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    from: usize,
}

impl PageLzEncoder {
    pub(in crate::ecbc) fn new() -> Self {
        Self {
            table: Box::new([0; ENTRIES]),
            input: Box::new([0; PADDED]),
            output: Output { bytes: Box::new([0; ROOM + PIECE]), len: 0 },
        }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(in crate::ecbc) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        self.input[..PAGE_SIZE].copy_from_slice(page);
        self.table.fill(0);
        self.output.len = 0;
        let coded = self.encode_matches();
        self.output.last_literals(&self.input[coded..PAGE_SIZE]);
        let code = &self.output.bytes[..self.output.len];
        target.get_mut(..code.len())?.copy_from_slice(code);
        Some(code.len())
    }

    /// Codes all that ends with a match; gives where the last literals begin.
    fn encode_matches(&mut self) -> usize {
        let input = &*self.input;
        let table = &mut *self.table;
        let mut distance = FIRST_DISTANCE;
        let mut coded = 0;
        let mut at = 1;
        while let Some(found) = search(input, table, at, distance) {
            let mut found = extend_back(input, found, coded);
            // Matches often follow each other without a gap: look there first.
            loop {
                let len = match_len(input, found);
                let found_distance = found.at - found.from;
                self.output.sequence(input, coded..found.at, found_distance, distance, len);
                distance = found_distance;
                coded = found.at + len;
                if coded > LAST_START {
                    return coded;
                }
                let inner = coded - 2;
                swap_in(table, read(input, inner), inner);
                let here = read(input, coded);
                let from = swap_in(table, here, coded);
                if !starts_match(read(input, from), here) {
                    break;
                }
                found = Match { at: coded, from };
            }
            at = coded + 1;
        }
        coded
    }
}

/// The first match at or after `at`: at the distance of the match before, or by the table.
#[inline(always)]
fn search(input: &[u8; PADDED], table: &mut [u16; ENTRIES], mut at: usize, distance: usize) -> Option<Match> {
    let mut tried = 1 << SKIP_LOG;
    while at <= LAST_START {
        let here = read(input, at);
        let from = swap_in(table, here, at);
        if at >= distance && starts_match(read(input, at - distance), here) {
            return Some(Match { at, from: at - distance });
        }
        if starts_match(read(input, from), here) {
            return Some(Match { at, from });
        }
        at += tried >> SKIP_LOG;
        tried += 1;
    }
    None
}

/// Enters the position of the bytes `here`; gives the one that the table had for their hash.
#[inline(always)]
fn swap_in(table: &mut [u16; ENTRIES], here: u64, at: usize) -> usize {
    usize::from(std::mem::replace(&mut table[hash(here)], position(at)))
}

/// The match begun as early as it can be, not before `coded`.
#[inline(always)]
fn extend_back(input: &[u8; PADDED], Match { mut at, mut from }: Match, coded: usize) -> Match {
    let byte = |index: usize| input[index & (PAGE_SIZE - 1)];
    while at > coded && from > 0 && byte(at - 1) == byte(from - 1) {
        at -= 1;
        from -= 1;
    }
    Match { at, from }
}

/// How many bytes match, at least [`MATCH_MIN`], of which the caller knows.
#[inline(always)]
fn match_len(input: &[u8; PADDED], Match { at, from }: Match) -> usize {
    let mut len = MATCH_MIN;
    while at + len < PAGE_SIZE {
        let differing = read(input, at + len) ^ read(input, from + len);
        if differing != 0 {
            len += differing.trailing_zeros() as usize / 8;
            break;
        }
        len += 8;
    }
    len.min(PAGE_SIZE - at)
}

/// Eight bytes of the page, or of the padding behind it.
#[inline(always)]
fn read(input: &[u8; PADDED], at: usize) -> u64 {
    let at = at & (PAGE_SIZE - 1);
    let bytes: &[u8; 8] = input[at..at + 8].first_chunk().unwrap_or(&[0; 8]);
    u64::from_le_bytes(*bytes)
}

/// Whether the first [`MATCH_MIN`] bytes are the same.
#[inline(always)]
fn starts_match(one: u64, other: u64) -> bool {
    (one ^ other) << (64 - 8 * MATCH_MIN) == 0
}

#[inline(always)]
fn hash(bytes: u64) -> usize {
    // 2^64 divided by the golden ratio spreads consecutive numbers best.
    let mixed = (bytes << (64 - 8 * HASHED_BYTES)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - HASH_LOG)) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "positions in a page are below 4096")]
fn position(at: usize) -> u16 {
    at as u16
}

struct Output {
    bytes: Box<[u8; ROOM + PIECE]>,
    len: usize,
}

impl Output {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are masked, distances below 4096")]
    fn sequence(
        &mut self,
        input: &[u8; PADDED],
        literals: std::ops::Range<usize>,
        distance: usize,
        distance_before: usize,
        len: usize,
    ) {
        let near = distance < 256;
        let words = distance.is_multiple_of(8) && distance < 8 * 256;
        let (mode, given) = match (distance == distance_before, near, words) {
            (true, ..) => (mode::REPEAT, distance),
            (_, true, _) => (mode::BYTE, distance),
            (.., true) => (mode::WORDS, distance / 8),
            _ => (mode::FULL, distance),
        };
        let (len, count) = (len - MATCH_MIN, literals.len());
        let token = mode | len.min(FIELD_MAX) << 2 | count.min(FIELD_MAX) << 5;
        let at = self.len & (ROOM - 1);
        self.bytes[at] = token as u8;
        self.bytes[at + 1..at + 3].copy_from_slice(&(given as u16).to_le_bytes());
        self.len += 1 + usize::from(mode::BYTES[mode]);
        self.extension(len);
        self.extension(count);
        self.literals(input, literals.start, count);
    }

    /// What a length field could not say.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "lengths are at most a page")]
    fn extension(&mut self, field: usize) {
        let Some(rest) = field.checked_sub(FIELD_MAX) else { return };
        let at = self.len & (ROOM - 1);
        self.bytes[at] = rest.min(EXTENSION_MAX) as u8;
        self.len += 1;
        if rest >= EXTENSION_MAX {
            self.bytes[at + 1..at + 3].copy_from_slice(&(rest as u16).to_le_bytes());
            self.len += 2;
        }
    }

    #[inline(always)]
    fn literals(&mut self, input: &[u8; PADDED], start: usize, count: usize) {
        let mut copied = 0;
        loop {
            let from = (start + copied) & (PAGE_SIZE - 1);
            let to = (self.len + copied) & (ROOM - 1);
            self.bytes[to..to + PIECE].copy_from_slice(&input[from..from + PIECE]);
            copied += PIECE;
            if copied >= count {
                break;
            }
        }
        self.len += count;
    }

    #[expect(clippy::cast_possible_truncation, reason = "the field is masked")]
    fn last_literals(&mut self, literals: &[u8]) {
        if literals.is_empty() {
            return;
        }
        self.bytes[self.len] = (literals.len().min(FIELD_MAX) << 5) as u8;
        self.len += 1;
        self.extension(literals.len());
        self.bytes[self.len..self.len + literals.len()].copy_from_slice(literals);
        self.len += literals.len();
    }
}
