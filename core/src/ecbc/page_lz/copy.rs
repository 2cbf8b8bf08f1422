//! Copying literals in pieces of 32 bytes and matches in pieces of 16, beyond their ends if need be.
//!
//! Indices are masked to their array's size, so that no code can make a decoder reach beyond.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::vectors::{Vectors, WIDE};
use super::{PAD, PIECE};

/// `SPREAD[d][i]` is where byte i comes from when the last d bytes repeat; d = 16 stands for all
/// larger ones.
static SPREAD: [[u8; PIECE]; PIECE + 1] = {
    let mut table = [[0; PIECE]; PIECE + 1];
    let mut distance = 1;
    while distance <= PIECE {
        let mut i = 0;
        while i < PIECE {
            #[expect(clippy::cast_possible_truncation, reason = "below 16")]
            let from = (i % distance) as u8;
            table[distance][i] = from;
            i += 1;
        }
        distance += 1;
    }
    table
};

/// The smallest multiple of a distance that is at least a piece.
static FAR: [u8; PIECE + 1] = {
    let mut table = [0; PIECE + 1];
    let mut distance = 1;
    while distance <= PIECE {
        #[expect(clippy::cast_possible_truncation, reason = "below 32")]
        let multiple = PIECE.next_multiple_of(distance) as u8;
        table[distance] = multiple;
        distance += 1;
    }
    table
};

/// Copies `len` literals; at least one piece is written.
#[inline(always)]
pub(super) fn copy_literals<const N: usize, const P: usize>(
    input: &[u8; N],
    from: usize,
    output: &mut [u8; P],
    to: usize,
    len: usize,
) {
    let mut copied = 0;
    loop {
        let source = (from + copied) & (P - PAD - 1);
        let target = (to + copied) & (P - PAD - 1);
        output[target..target + WIDE].copy_from_slice(&input[source..source + WIDE]);
        copied += WIDE;
        if copied >= len {
            break;
        }
    }
}

/// Copies a match of `len` bytes from `distance`, at most `to` and not 0, bytes before `to`.
#[inline(always)]
pub(super) fn copy_match<V: Vectors, const P: usize>(
    output: &mut [u8; P],
    to: usize,
    distance: usize,
    len: usize,
) {
    let near = distance.min(PIECE);
    let first = piece(output, to - distance);
    put(output, to, V::shuffle(first, &SPREAD[near]));
    // What repeats at a near distance also does at each multiple of it.
    let distance = if distance < PIECE { usize::from(FAR[near]) } else { distance };
    let mut copied = PIECE;
    while copied < len {
        let bytes = piece(output, to + copied - distance);
        put(output, to + copied, bytes);
        copied += PIECE;
    }
}

#[inline(always)]
fn piece<const P: usize>(output: &[u8; P], at: usize) -> [u8; PIECE] {
    let at = at & (P - PAD - 1);
    *output[at..at + PIECE].first_chunk().unwrap_or(&[0; PIECE])
}

#[inline(always)]
fn put<const P: usize>(output: &mut [u8; P], at: usize, bytes: [u8; PIECE]) {
    let at = at & (P - PAD - 1);
    output[at..at + PIECE].copy_from_slice(&bytes);
}
