//! From a page to sequences: one greedy pass, shared by the formats.
//!
//! Indices are masked to their array's size where that costs less than a checked index; they are
//! in range anyway.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::vectors::{Vectors, WIDE};
use super::{FIRST_DISTANCE, MATCH_MIN, PAD, PADDED};

/// Positions fewer than so many bytes before the end start no match: eight are read at each.
const LAST_BYTES: usize = 8;

/// How hard to search.
pub(in crate::ecbc) trait Effort {
    /// Bytes hashed: more than the shortest match where short matches cost more time than they
    /// save space.
    const HASHED_BYTES: u32;
    /// Only positions that are multiples of this are tried.
    const ALIGNED: usize;
    /// After `2^SKIP_LOG` tries without a match the stride is one more, and so on.
    const SKIP_LOG: u32;
    /// Equal bytes that make a match, [`MATCH_MIN`] to 8.
    const ACCEPTED: usize;
    /// The same for one at the distance of the match before, which takes no byte to tell.
    const REPEATED: usize;
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
pub(in crate::ecbc) trait Sink<const P: usize> {
    /// Takes the next sequence of the bytes in `input`.
    fn take(&mut self, input: &[u8; P], sequence: Sequence);
}

/// Finds sequences in `P` - [`PAD`] bytes at most, a power of two up to 2^16, with a table of `T`
/// entries; the memory is reused, nothing of its content is.
pub(in crate::ecbc) struct Parser<const P: usize, const T: usize> {
    /// For a hash, where its bytes were met last (0 at first: as good as any position).
    table: Box<[u16; T]>,
    input: Box<[u8; P]>,
}

/// For single pages: 4 KiB of table, so that it, page and output share the L1 cache.
pub(in crate::ecbc) type PageParser = Parser<PADDED, { 1 << 11 }>;

/// Bytes equal at two places, the later one not yet coded.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    from: usize,
}

impl<const P: usize, const T: usize> Parser<P, T> {
    pub(in crate::ecbc) fn new() -> Self {
        const { assert!((P - PAD).is_power_of_two() && P - PAD <= 1 << 16 && T.is_power_of_two()) }
        Self { table: Box::new([0; T]), input: Box::new([0; P]) }
    }

    /// Gives all sequences of `bytes` to `sink`; gives the literals behind the last one.
    #[inline(always)]
    pub(in crate::ecbc) fn parse<V: Vectors, E: Effort>(
        &mut self,
        bytes: &[u8],
        sink: &mut impl Sink<P>,
    ) -> &[u8] {
        let len = bytes.len();
        self.input[..len].copy_from_slice(bytes);
        self.table.fill(0);
        let coded = matches::<V, E, P, T>(&self.input, len, &mut self.table, sink);
        &self.input[coded.min(len)..len]
    }
}

/// Finds all that ends with a match; gives where the last literals begin.
#[inline(always)]
fn matches<V: Vectors, E: Effort, const P: usize, const T: usize>(
    input: &[u8; P],
    end: usize,
    table: &mut [u16; T],
    sink: &mut impl Sink<P>,
) -> usize {
    let Some(last_start) = end.checked_sub(LAST_BYTES) else { return 0 };
    let mut distance = FIRST_DISTANCE;
    let mut coded = 0;
    let mut at = E::ALIGNED;
    while let Some(found) = search::<E, P, T>(input, last_start, table, at, distance) {
        let mut found = extend_back(input, found, coded);
        // Matches often follow each other without a gap: look there first.
        loop {
            let len = match_len::<V, P>(input, end, found);
            distance = found.at - found.from;
            sink.take(input, Sequence { start: coded, literals: found.at - coded, distance, len });
            coded = found.at + len;
            if coded > last_start {
                return coded;
            }
            let Some(next) = follow::<E, P, T>(input, table, coded) else { break };
            found = next;
        }
        at = if E::ALIGNED > 1 { coded.next_multiple_of(E::ALIGNED) } else { coded + 1 };
    }
    coded
}

/// The match that begins where one has ended, if every position is tried.
#[inline(always)]
fn follow<E: Effort, const P: usize, const T: usize>(
    input: &[u8; P],
    table: &mut [u16; T],
    at: usize,
) -> Option<Match> {
    if E::ALIGNED > 1 {
        return None;
    }
    let inner = at - 2;
    swap_in::<E, T>(table, read(input, inner), inner);
    let here = read(input, at);
    let from = swap_in::<E, T>(table, here, at);
    same(E::ACCEPTED, read(input, from), here).then_some(Match { at, from })
}

/// The first match at or after `at`: at the distance of the match before, or by the table.
#[inline(always)]
fn search<E: Effort, const P: usize, const T: usize>(
    input: &[u8; P],
    last_start: usize,
    table: &mut [u16; T],
    mut at: usize,
    distance: usize,
) -> Option<Match> {
    let mut tried = 1 << E::SKIP_LOG;
    while at <= last_start {
        let here = read(input, at);
        let from = swap_in::<E, T>(table, here, at);
        if at >= distance && same(E::REPEATED, read(input, at - distance), here) {
            return Some(Match { at, from: at - distance });
        }
        if same(E::ACCEPTED, read(input, from), here) {
            return Some(Match { at, from });
        }
        at += (tried >> E::SKIP_LOG) * E::ALIGNED;
        tried += 1;
    }
    None
}

/// Enters the position of the bytes `here`; gives the one that the table had for their hash.
#[inline(always)]
fn swap_in<E: Effort, const T: usize>(table: &mut [u16; T], here: u64, at: usize) -> usize {
    usize::from(std::mem::replace(&mut table[hash::<E, T>(here)], position(at)))
}

/// The match begun as early as it can be, not before `coded`.
#[inline(always)]
fn extend_back<const P: usize>(input: &[u8; P], Match { mut at, mut from }: Match, coded: usize) -> Match {
    let byte = |index: usize| input[index & (P - PAD - 1)];
    while at > coded && from > 0 && byte(at - 1) == byte(from - 1) {
        at -= 1;
        from -= 1;
    }
    Match { at, from }
}

/// How many bytes match, at least [`MATCH_MIN`], of which the caller knows.
#[inline(always)]
fn match_len<V: Vectors, const P: usize>(input: &[u8; P], end: usize, Match { at, from }: Match) -> usize {
    let mut len = MATCH_MIN;
    while at + len < end {
        let equal = V::equal_bytes(wide(input, at + len), wide(input, from + len));
        len += equal;
        if equal < WIDE {
            break;
        }
    }
    len.min(end - at)
}

/// [`WIDE`] bytes of the input, or of the padding behind it.
#[inline(always)]
fn wide<const P: usize>(input: &[u8; P], at: usize) -> &[u8; WIDE] {
    const { assert!(WIDE <= PAD) }
    let at = at & (P - PAD - 1);
    input[at..at + WIDE].first_chunk().unwrap_or(&[0; WIDE])
}

/// Eight bytes of the input, or of the padding behind it.
#[inline(always)]
fn read<const P: usize>(input: &[u8; P], at: usize) -> u64 {
    let at = at & (P - PAD - 1);
    let bytes: &[u8; 8] = input[at..at + 8].first_chunk().unwrap_or(&[0; 8]);
    u64::from_le_bytes(*bytes)
}

/// Whether the first `count` bytes, [`MATCH_MIN`] to 8, are the same.
#[inline(always)]
fn same(count: usize, one: u64, other: u64) -> bool {
    (one ^ other) << (64 - 8 * count) == 0
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an index of the table")]
fn hash<E: Effort, const T: usize>(bytes: u64) -> usize {
    // 2^64 divided by the golden ratio spreads consecutive numbers best.
    let mixed = (bytes << (64 - 8 * E::HASHED_BYTES)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - T.trailing_zeros())) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "positions are below 2^16")]
fn position(at: usize) -> u16 {
    at as u16
}
