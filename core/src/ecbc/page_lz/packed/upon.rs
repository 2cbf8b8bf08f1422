//! Packed page LZ upon another page: matches may reach back into that one.
//!
//! The window is the base and then the page. What stands at the same place in the base is the
//! nearest of all and has the first class of distances for itself. `docs/ecbc.md` specifies the format.

mod decode;
mod encode;
#[cfg(test)]
mod train;

pub(in crate::ecbc) use decode::UponDecoder;
pub(in crate::ecbc) use encode::{Looks, UponEncoder};

use super::super::PAD;
use super::tables::digits;
use super::{DISTANCES, Distance, LEN_FIELD_MAX, TOKENS};
use crate::PAGE_SIZE;

/// The base, and the page behind it.
const WINDOW: usize = 2 * PAGE_SIZE;
const PADDED: usize = WINDOW + PAD;
/// How far back the same place in the base is.
const SAME_PLACE: usize = PAGE_SIZE;
/// Shortest match at the same place in the base.
const SAME_MIN: usize = 3;

/// As in packed page LZ, with distances that reach back into the base.
const WAYS: [Distance; 7] = {
    let mut ways = DISTANCES;
    ways[FAR].bits = WINDOW.trailing_zeros();
    ways
};
/// The class of distances that no other one fits.
const FAR: usize = 6;

/// Bits of the codes of tokens, as in packed page LZ: these were trained on differences.
const TOKEN_LENGTHS: [u8; TOKENS + 1] = digits(include_bytes!("upon/lengths.txt"), 0);

/// By a token's field for the match length: the bits that follow it and say how much longer the match is
/// than the shortest with this field. The last field stands for a match up to the page's end.
const LEN_EXTRA: [u32; LEN_FIELD_MAX] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 7, 12];
const TO_THE_END: usize = LEN_FIELD_MAX;

/// By field, how much longer than the shortest match the shortest with this field is.
const LEN_STARTS: [usize; LEN_FIELD_MAX] = {
    let mut starts = [0; LEN_FIELD_MAX];
    let mut field = 1;
    while field < LEN_FIELD_MAX {
        starts[field] = starts[field - 1] + (1 << LEN_EXTRA[field - 1]);
        field += 1;
    }
    starts
};
