//! From page LZ back to the page, whatever the code says.
//!
//! Indices are masked to their array's size, so that no code can make the decoder reach beyond;
//! what they must be for the page to be right is checked once for each sequence.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::copy::{Shuffle, choose_shuffle, copy_literals, copy_match};
use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, PADDED, mode};
use crate::ecbc::BLOB_MAX;
use crate::ecbc::cpu::Cpu;
use crate::{PAGE_SIZE, Page};

/// Decodes pages; the memory is reused.
pub(in crate::ecbc) struct PageLzDecoder {
    cpu: Cpu,
    input: Box<[u8; PADDED]>,
    output: Box<[u8; PADDED]>,
}

/// A sequence's header.
struct Header {
    distance: usize,
    len: usize,
    literals: usize,
}

impl PageLzDecoder {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        Self { cpu, input: Box::new([0; PADDED]), output: Box::new([0; PADDED]) }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is as it was.
    pub(in crate::ecbc) fn decode(&mut self, blob: &[u8], page: &mut Page) -> bool {
        if blob.len() > BLOB_MAX {
            return false;
        }
        self.input[..blob.len()].copy_from_slice(blob);
        let (input, output, end) = (&*self.input, &mut *self.output, blob.len());
        let whole = choose_shuffle!(
            self.cpu,
            fn decode<S>(input: &[u8; PADDED], end: usize, output: &mut [u8; PADDED]) -> bool {
                sequences::<S>(input, end, output)
            }
        );
        if whole {
            page.copy_from_slice(&self.output[..PAGE_SIZE]);
        }
        whole
    }
}

/// Decodes the `end` bytes of code in `input`; what either array holds of earlier pages is never
/// part of a result that this calls whole.
#[inline(always)]
fn sequences<S: Shuffle>(input: &[u8; PADDED], end: usize, output: &mut [u8; PADDED]) -> bool {
    let mut read = 0;
    let mut written = 0;
    let mut distance = FIRST_DISTANCE;
    while read < end {
        let header = header(input, &mut read, distance);
        if read + header.literals > end || written + header.literals > PAGE_SIZE {
            return false;
        }
        copy_literals(input, read, output, written, header.literals);
        read += header.literals;
        written += header.literals;
        if written == PAGE_SIZE {
            break;
        }
        distance = header.distance;
        if distance == 0 || distance > written || written + header.len > PAGE_SIZE {
            return false;
        }
        copy_match::<S>(output, written, distance, header.len);
        written += header.len;
        if written == PAGE_SIZE {
            break;
        }
    }
    read == end && written == PAGE_SIZE
}

/// Reads a header at `read`, which may lead beyond the code's end: the caller checks that.
#[inline(always)]
fn header(input: &[u8; PADDED], read: &mut usize, distance_before: usize) -> Header {
    const MASK: [usize; 4] = [0, 0xff, 0xff, 0xffff];
    const SHIFT: [u8; 4] = [0, 0, 3, 0];
    let at = *read & (PAGE_SIZE - 1);
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
fn length(input: &[u8; PADDED], read: &mut usize, field: usize) -> usize {
    if field < FIELD_MAX {
        return field;
    }
    let at = *read & (PAGE_SIZE - 1);
    let mut rest = usize::from(input[at]);
    *read += 1;
    if rest == EXTENSION_MAX {
        rest = usize::from(u16::from_le_bytes([input[at + 1], input[at + 2]]));
        *read += 2;
    }
    FIELD_MAX + rest
}
