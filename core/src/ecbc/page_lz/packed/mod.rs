//! Page LZ with its tokens and literals in codes of one to eleven bits.
//!
//! The codes are fixed, trained on the public test pages: a page is too short to carry a table
//! of its own. `docs/ecbc.md` specifies the format.

mod bits;
mod code;
mod decode;
mod encode;
mod literals;
mod tables;
mod token;
#[cfg(test)]
mod train;
pub(in crate::ecbc) mod upon;

pub(in crate::ecbc) use decode::PackedDecoder;
pub(in crate::ecbc) use encode::{Balanced, Light, PackedEncoder};

/// A page, or a code, as it grows; twice what is ever needed.
const ROOM: usize = 2 * crate::PAGE_SIZE;

/// The distance before that of the sequence before, at first.
const SECOND_DISTANCE: usize = 16;

/// Bits of a token's field for the match length, and of that for the number of literals.
const LEN_BITS: u32 = 4;
const LITERALS_BITS: u32 = 3;
const LEN_FIELD_MAX: usize = (1 << LEN_BITS) - 1;
const LITERALS_FIELD_MAX: usize = (1 << LITERALS_BITS) - 1;
/// Different tokens: distance class, match length field, literals field.
const TOKENS: usize = DISTANCES.len() << (LEN_BITS + LITERALS_BITS);
/// Bits of a token that has no code of its own, behind the escape's.
const TOKEN_BITS: u32 = 10;
/// An extension byte of this value is followed by twelve bits.
const EXTENSION_MAX: usize = 255;
const EXTENSION_BITS: u32 = 12;

/// How a distance is given: so many bits of it, after shifting it right.
struct Distance {
    bits: u32,
    shift: u32,
}

/// The classes of distances. 0 and 1 are the two before; the others are tried in the order 2, 3,
/// 4 for distances below 256, and 5, 6 for the rest.
const DISTANCES: [Distance; 7] = [
    Distance { bits: 0, shift: 0 },
    Distance { bits: 0, shift: 0 },
    Distance { bits: 5, shift: 3 },
    Distance { bits: 4, shift: 0 },
    Distance { bits: 8, shift: 0 },
    Distance { bits: 8, shift: 3 },
    Distance { bits: 12, shift: 0 },
];

/// The class of a distance that neither of the two before is.
const fn distance_class(distance: usize) -> usize {
    let words = distance.is_multiple_of(8);
    match distance {
        0..16 if !words => 3,
        0..256 if words => 2,
        0..256 => 4,
        256..2048 if words => 5,
        _ => 6,
    }
}
