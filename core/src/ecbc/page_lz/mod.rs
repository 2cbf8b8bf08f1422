//! Page LZ: an LZ coder made for guest pages.
//!
//! Half of the matches in guest memory are less than 256 bytes away, most others lie a multiple
//! of 8 away (structures, pointers), and every sixth has the distance of the one before. LZ4
//! spends two bytes on each distance; this format spends none, one or two:
//!
//! ```text
//! sequence = token, distance (0..2 bytes), length extension, literals extension, literals
//! token    = bits 0-1 how the distance is given | 2-4 match length - 5 | 5-7 literals
//!   0  the distance of the sequence before (8 at first)
//!   1  one byte                2  one byte, times 8                3  two bytes, little-endian
//! extension, where the field is 7: a byte e < 255 adds e; 255 is followed by the addend (u16)
//! ```
//!
//! Output is the literals, then the match. The code ends where the page does: after a match, or
//! after the literals of a last sequence whose match and distance are not given (fields 0).
//! All of a sequence's header stands before its literals, so that a decoder need not wait for
//! their number to learn the rest.

mod copy;
mod decode;
mod encode;
pub(super) mod packed;
mod parse;
mod vectors;

pub(super) use decode::{PageLzDecoder, UnitLzDecoder};
pub(super) use encode::{Fast, FastPageLzEncoder, LightUnits, TurboUnits, UnitLzEncoder};
pub(super) use parse::Effort;

/// Bytes copied at a time, beyond the end if need be.
const PIECE: usize = 16;
/// Room to read and write beyond a page, a unit or a code.
const PAD: usize = 64;
/// A page, or its code, padded.
const PADDED: usize = PAGE_SIZE + PAD;
/// The largest unit, padded.
const UNIT_PADDED: usize = super::UNIT_BYTES_MAX + PAD;
/// Shortest match in bytes.
const MATCH_MIN: usize = 5;
/// A length field of this value is followed by an extension.
const FIELD_MAX: usize = 7;
/// An extension byte of this value is followed by the addend itself.
const EXTENSION_MAX: usize = 255;
/// The distance "before" the first sequence: a 64-bit word.
const FIRST_DISTANCE: usize = 8;

use crate::PAGE_SIZE;

/// How a token says the distance.
mod mode {
    pub(super) const REPEAT: usize = 0;
    pub(super) const BYTE: usize = 1;
    pub(super) const WORDS: usize = 2;
    pub(super) const FULL: usize = 3;
    /// Bytes that the distance takes, by mode.
    pub(super) const BYTES: [u8; 4] = [0, 1, 1, 2];
}
