//! From page LZ back to the page, whatever the code says.
//!
//! Indices are masked to their array's size, so that no code can make the decoder reach beyond;
//! what they must be for the page to be right is checked once for each sequence.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::copy::{copy_literals, copy_match};
use super::vectors::{Vectors, choose_vectors};
use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, PAD, PADDED, UNIT_PADDED, mode};
use crate::ecbc::cpu::Cpu;

/// Decodes single pages.
pub(in crate::ecbc) type PageLzDecoder = Decoder<PADDED>;
/// Decodes units.
pub(in crate::ecbc) type UnitLzDecoder = Decoder<UNIT_PADDED>;

/// Decodes up to `P` - [`PAD`] bytes, a power of two; the memory is reused.
pub(in crate::ecbc) struct Decoder<const P: usize> {
    cpu: Cpu,
    input: Box<[u8; P]>,
    output: Box<[u8; P]>,
}

/// A sequence's header.
struct Header {
    distance: usize,
    len: usize,
    literals: usize,
}

impl<const P: usize> Decoder<P> {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        const { assert!((P - PAD).is_power_of_two()) }
        Self { cpu, input: Box::new([0; P]), output: Box::new([0; P]) }
    }

    /// Whether `code` gave exactly `pages`. If not, these are as they were.
    #[inline]
    pub(in crate::ecbc) fn decode(&mut self, code: &[u8], pages: &mut [u8]) -> bool {
        if code.len().max(pages.len()) > P - PAD {
            return false;
        }
        self.input[..code.len()].copy_from_slice(code);
        let (input, output, end, size) = (&*self.input, &mut *self.output, code.len(), pages.len());
        let whole = choose_vectors!(
            self.cpu,
            fn decode<V, const P: usize>(
                input: &[u8; P],
                end: usize,
                output: &mut [u8; P],
                size: usize,
            ) -> bool {
                sequences::<V, P>(input, end, output, size)
            }
        );
        if whole {
            pages.copy_from_slice(&self.output[..size]);
        }
        whole
    }
}

/// Decodes the `end` bytes of code in `input` to `size` bytes; what either array holds of earlier
/// pages is never part of a result that this calls whole.
#[inline(always)]
fn sequences<V: Vectors, const P: usize>(
    input: &[u8; P],
    end: usize,
    output: &mut [u8; P],
    size: usize,
) -> bool {
    let mut read = 0;
    let mut written = 0;
    let mut distance = FIRST_DISTANCE;
    while read < end {
        let header = header(input, &mut read, distance);
        if read + header.literals > end || written + header.literals > size {
            return false;
        }
        copy_literals(input, read, output, written, header.literals);
        read += header.literals;
        written += header.literals;
        if written == size {
            break;
        }
        distance = header.distance;
        if distance == 0 || distance > written || written + header.len > size {
            return false;
        }
        copy_match::<V, P>(output, written, distance, header.len);
        written += header.len;
        if written == size {
            break;
        }
    }
    read == end && written == size
}

/// Reads a header at `read`, which may lead beyond the code's end: the caller checks that.
#[inline(always)]
fn header<const P: usize>(input: &[u8; P], read: &mut usize, distance_before: usize) -> Header {
    const MASK: [usize; 4] = [0, 0xff, 0xff, 0xffff];
    const SHIFT: [u8; 4] = [0, 0, 3, 0];
    let at = *read & (P - PAD - 1);
    let word = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]) as usize;
    let mode = word & 3;
    let given = (word >> 8 & MASK[mode]) << SHIFT[mode];
    *read += 1 + usize::from(mode::BYTES[mode]);
    let len = length(input, read, word >> 2 & FIELD_MAX) + MATCH_MIN;
    let literals = length(input, read, word >> 5 & FIELD_MAX);
    Header { distance: if mode == mode::REPEAT { distance_before } else { given }, len, literals }
}

/// A length field with its extension, if it has one.
#[inline(always)]
fn length<const P: usize>(input: &[u8; P], read: &mut usize, field: usize) -> usize {
    if field < FIELD_MAX {
        return field;
    }
    let at = *read & (P - PAD - 1);
    let mut rest = usize::from(input[at]);
    *read += 1;
    if rest == EXTENSION_MAX {
        rest = usize::from(u16::from_le_bytes([input[at + 1], input[at + 2]]));
        *read += 2;
    }
    FIELD_MAX + rest
}
