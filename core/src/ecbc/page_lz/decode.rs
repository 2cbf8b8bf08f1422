//! From page LZ back to the page, whatever the code says.
//!
//! Indices are masked to their array's size, so that no code can make the decoder reach beyond;
//! what they must be for the page to be right is checked once for each sequence.
#![expect(clippy::inline_always, reason = "measured: calls within a sequence cost several percent")]

use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, mode};
use crate::ecbc::BLOB_MAX;
use crate::{PAGE_SIZE, Page};

/// Bytes copied at a time, beyond the end if need be.
const PIECE: usize = 16;
/// A page, or a code, and room to read and write beyond it.
const PADDED: usize = PAGE_SIZE + 64;

/// Decodes pages; the memory is reused.
pub(in crate::ecbc) struct PageLzDecoder {
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
    pub(in crate::ecbc) fn new() -> Self {
        Self { input: Box::new([0; PADDED]), output: Box::new([0; PADDED]) }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is as it was.
    pub(in crate::ecbc) fn decode(&mut self, blob: &[u8], page: &mut Page) -> bool {
        if blob.len() > BLOB_MAX {
            return false;
        }
        self.input[..blob.len()].copy_from_slice(blob);
        let whole = sequences(&self.input, blob.len(), &mut self.output);
        if whole {
            page.copy_from_slice(&self.output[..PAGE_SIZE]);
        }
        whole
    }
}

/// Decodes the `end` bytes of code in `input`; what either array holds of earlier pages is never
/// part of a result that this calls whole.
fn sequences(input: &[u8; PADDED], end: usize, output: &mut [u8; PADDED]) -> bool {
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
        copy_match(output, written, distance, header.len);
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

#[inline(always)]
fn copy_literals(input: &[u8; PADDED], from: usize, output: &mut [u8; PADDED], to: usize, len: usize) {
    let mut copied = 0;
    loop {
        let source = (from + copied) & (PAGE_SIZE - 1);
        let target = (to + copied) & (PAGE_SIZE - 1);
        output[target..target + PIECE].copy_from_slice(&input[source..source + PIECE]);
        copied += PIECE;
        if copied >= len {
            break;
        }
    }
}

#[inline(always)]
fn copy_match(output: &mut [u8; PADDED], to: usize, distance: usize, len: usize) {
    let mut copied = 0;
    if distance >= 8 {
        while copied < len {
            let source = (to - distance + copied) & (PAGE_SIZE - 1);
            let target = (to + copied) & (PAGE_SIZE - 1);
            // Two halves: at distances from 8 to 15 the second reads what the first wrote.
            output.copy_within(source..source + 8, target);
            output.copy_within(source + 8..source + 16, target + 8);
            copied += PIECE;
        }
        return;
    }
    while copied < len {
        output[(to + copied) & (PAGE_SIZE - 1)] = output[(to - distance + copied) & (PAGE_SIZE - 1)];
        copied += 1;
    }
}
