//! From a page to sequences: one greedy pass, shared by the formats.
//!
//! Indices are masked to their array's size where that costs less than a checked index; they are
//! in range anyway.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::{FIRST_DISTANCE, MATCH_MIN, PADDED};
use crate::{PAGE_SIZE, Page};

/// Log2 of the hash table's entries: 4 KiB, so that table, page and output share the L1 cache.
const HASH_LOG: u32 = 11;
const ENTRIES: usize = 1 << HASH_LOG;
/// Positions after this one start no match: eight bytes are read at each.
const LAST_START: usize = PAGE_SIZE - 8;

/// How hard to search.
pub(in crate::ecbc) trait Effort {
    /// Bytes hashed: more than the shortest match where short matches cost more time than they
    /// save space.
    const HASHED_BYTES: u32;
    /// After `2^SKIP_LOG` positions without a match every second is tried, then every third, ...
    const SKIP_LOG: u32;
    /// Equal bytes that make a match, at least [`MATCH_MIN`].
    const ACCEPTED: usize;
}

/// Literals, and a match that follows them.
#[derive(Debug, Clone, Copy)]
pub(in crate::ecbc) struct Sequence {
    /// Where the literals begin.
    pub(in crate::ecbc) start: usize,
    /// How many there are.
    pub(in crate::ecbc) literals: usize,
    /// How far back the match's bytes are.
    pub(in crate::ecbc) distance: usize,
    /// Bytes in the match, at least [`MATCH_MIN`].
    pub(in crate::ecbc) len: usize,
}

/// What becomes of sequences.
pub(in crate::ecbc) trait Sink {
    /// Takes the next sequence of the page in `input`.
    fn take(&mut self, input: &[u8; PADDED], sequence: Sequence);
}

/// Finds sequences; the memory is reused, nothing of a page's content is.
pub(in crate::ecbc) struct Parser {
    /// For a hash, where its bytes were met last (0 at first: as good as any position).
    table: Box<[u16; ENTRIES]>,
    input: Box<[u8; PADDED]>,
}

/// Bytes equal at two places, the later one not yet coded.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    from: usize,
}

impl Parser {
    pub(in crate::ecbc) fn new() -> Self {
        Self { table: Box::new([0; ENTRIES]), input: Box::new([0; PADDED]) }
    }

    /// Gives all sequences of `page` to `sink`; gives the literals behind the last one.
    #[inline(always)]
    pub(in crate::ecbc) fn parse<E: Effort>(&mut self, page: &Page, sink: &mut impl Sink) -> &[u8] {
        self.input[..PAGE_SIZE].copy_from_slice(page);
        self.table.fill(0);
        let coded = matches::<E>(&self.input, &mut self.table, sink);
        &self.input[coded.min(PAGE_SIZE)..PAGE_SIZE]
    }
}

/// Finds all that ends with a match; gives where the last literals begin.
#[inline(always)]
fn matches<E: Effort>(input: &[u8; PADDED], table: &mut [u16; ENTRIES], sink: &mut impl Sink) -> usize {
    let mut distance = FIRST_DISTANCE;
    let mut coded = 0;
    let mut at = 1;
    while let Some(found) = search::<E>(input, table, at, distance) {
        let mut found = extend_back(input, found, coded);
        // Matches often follow each other without a gap: look there first.
        loop {
            let len = match_len::<E>(input, found);
            distance = found.at - found.from;
            sink.take(input, Sequence { start: coded, literals: found.at - coded, distance, len });
            coded = found.at + len;
            if coded > LAST_START {
                return coded;
            }
            let inner = coded - 2;
            swap_in::<E>(table, read(input, inner), inner);
            let here = read(input, coded);
            let from = swap_in::<E>(table, here, coded);
            if !starts_match::<E>(read(input, from), here) {
                break;
            }
            found = Match { at: coded, from };
        }
        at = coded + 1;
    }
    coded
}

/// The first match at or after `at`: at the distance of the match before, or by the table.
#[inline(always)]
fn search<E: Effort>(
    input: &[u8; PADDED],
    table: &mut [u16; ENTRIES],
    mut at: usize,
    distance: usize,
) -> Option<Match> {
    let mut tried = 1 << E::SKIP_LOG;
    while at <= LAST_START {
        let here = read(input, at);
        let from = swap_in::<E>(table, here, at);
        if at >= distance && starts_match::<E>(read(input, at - distance), here) {
            return Some(Match { at, from: at - distance });
        }
        if starts_match::<E>(read(input, from), here) {
            return Some(Match { at, from });
        }
        at += tried >> E::SKIP_LOG;
        tried += 1;
    }
    None
}

/// Enters the position of the bytes `here`; gives the one that the table had for their hash.
#[inline(always)]
fn swap_in<E: Effort>(table: &mut [u16; ENTRIES], here: u64, at: usize) -> usize {
    usize::from(std::mem::replace(&mut table[hash::<E>(here)], position(at)))
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

/// How many bytes match, at least [`Effort::ACCEPTED`], of which the caller knows.
#[inline(always)]
fn match_len<E: Effort>(input: &[u8; PADDED], Match { at, from }: Match) -> usize {
    let mut len = E::ACCEPTED;
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

/// Whether enough bytes are the same.
#[inline(always)]
fn starts_match<E: Effort>(one: u64, other: u64) -> bool {
    const { assert!(MATCH_MIN <= E::ACCEPTED && E::ACCEPTED <= 8) }
    (one ^ other) << (64 - 8 * E::ACCEPTED) == 0
}

#[inline(always)]
fn hash<E: Effort>(bytes: u64) -> usize {
    // 2^64 divided by the golden ratio spreads consecutive numbers best.
    let mixed = (bytes << (64 - 8 * E::HASHED_BYTES)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - HASH_LOG)) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "positions in a page are below 4096")]
fn position(at: usize) -> u16 {
    at as u16
}
