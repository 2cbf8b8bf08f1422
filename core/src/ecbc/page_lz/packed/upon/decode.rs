//! From the code and the base back to the page, whatever the code says.
#![expect(clippy::cast_possible_truncation, reason = "of bits, the lowest few are wanted")]
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::super::bits::{Room, look};
use super::super::code::{STATES, decoding};
use super::super::literals::{self, Literals, Read};
use super::super::token::{extension, token};
use super::super::{LEN_BITS, LEN_FIELD_MAX, LITERALS_BITS, LITERALS_FIELD_MAX, ROOM};
use super::{LEN_EXTRA, LEN_STARTS, PADDED, SAME_MIN, SAME_PLACE, TOKEN_LENGTHS, WAYS, WINDOW};
use crate::ecbc::BLOB_MAX;
use crate::ecbc::cpu::Cpu;
use crate::ecbc::page_lz::copy::{copy_literals, copy_match};
use crate::ecbc::page_lz::vectors::{Vectors, choose_vectors};
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN};
use crate::{PAGE_SIZE, Page};

static DECODING: [u32; STATES] = decoding(&TOKEN_LENGTHS);

/// Decodes pages upon others; the memory is reused.
pub(in crate::ecbc) struct UponDecoder {
    cpu: Cpu,
    input: Box<Room>,
    literals: Box<Literals>,
    window: Box<[u8; PADDED]>,
}

impl UponDecoder {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        let (input, window) = (Box::new([0; ROOM + 8]), Box::new([0; PADDED]));
        Self { cpu, input, literals: Box::new([0; ROOM + 64]), window }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is as it was.
    pub(in crate::ecbc) fn decode(&mut self, blob: &[u8], base: &Page, page: &mut Page) -> bool {
        if blob.len() > BLOB_MAX {
            return false;
        }
        self.input[..blob.len()].copy_from_slice(blob);
        self.window[..PAGE_SIZE].copy_from_slice(base);
        let (cpu, this, end) = (self.cpu, &mut *self, blob.len());
        let whole = choose_vectors!(
            cpu,
            fn decode<V>(this: &mut UponDecoder, end: usize) -> bool {
                let UponDecoder { input, literals, window, .. } = this;
                literals::read(input, end, literals).is_some_and(|read| match read.plain_at {
                    Some(at) => sequences::<V, _>(input, end, (input, at), read, window),
                    None => sequences::<V, _>(input, end, (literals, 0), read, window),
                })
            }
        );
        if whole {
            page.copy_from_slice(&self.window[PAGE_SIZE..WINDOW]);
        }
        whole
    }
}

/// A token with all that belongs to it.
struct Header {
    distance: usize,
    /// `None`: up to the page's end.
    len: Option<usize>,
    literals: usize,
}

/// Decodes the tokens, given the literals and where they begin; what the arrays hold of earlier pages
/// is never part of a result that this calls whole.
#[inline(always)]
fn sequences<V: Vectors, const N: usize>(
    input: &Room,
    end: usize,
    (literals, first): (&[u8; N], usize),
    read: Read,
    window: &mut [u8; PADDED],
) -> bool {
    let mut at = read.tokens_at * 8;
    let mut other = FIRST_DISTANCE;
    let (mut used, mut written) = (0, PAGE_SIZE);
    // What is left of the page is what is left of the literals: no match follows.
    while WINDOW - written != read.count - used {
        if at > end * 8 {
            return false;
        }
        let Some(header) = header(input, &mut at, &mut other) else { return false };
        let match_at = written + header.literals;
        let len = header.len.unwrap_or(WINDOW.saturating_sub(match_at));
        if header.literals > read.count - used
            || len == 0
            || match_at + len > WINDOW
            || header.distance.wrapping_sub(1) >= match_at
        {
            return false;
        }
        copy_literals(literals, first + used, window, written, header.literals);
        copy_match::<V, PADDED>(window, match_at, header.distance, len);
        used += header.literals;
        written = match_at + len;
    }
    window[written..WINDOW].copy_from_slice(&literals[first + used..first + read.count]);
    at.div_ceil(8) == end
}

/// Reads a header at bit `at`, which may lead beyond the code's end: the caller checks that.
#[inline(always)]
fn header(input: &Room, at: &mut usize, other: &mut usize) -> Option<Header> {
    let mut bits = look(input, *at);
    let (token, mut used) = token(&DECODING, bits)?;
    bits >>= used;
    let class = token >> (LEN_BITS + LITERALS_BITS);
    let way = WAYS.get(class)?;
    let given = (bits as usize & ((1 << way.bits) - 1)) << way.shift;
    bits >>= way.bits;
    used += way.bits;
    let (distance, min) = match class {
        0 => (SAME_PLACE, SAME_MIN),
        1 => (*other, MATCH_MIN),
        _ => (given, MATCH_MIN),
    };
    if class > 1 {
        *other = given;
    }
    let field = token >> LITERALS_BITS & LEN_FIELD_MAX;
    let len = LEN_EXTRA.get(field).map(|&extra| {
        used += extra;
        min + LEN_STARTS[field] + (bits as usize & ((1 << extra) - 1))
    });
    *at += used as usize;
    let mut literals = token & LITERALS_FIELD_MAX;
    if literals == LITERALS_FIELD_MAX {
        let (rest, bits) = extension(look(input, *at));
        literals += rest;
        *at += bits as usize;
    }
    Some(Header { distance, len, literals })
}
