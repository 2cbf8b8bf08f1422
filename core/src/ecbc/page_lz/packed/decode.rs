//! From packed page LZ back to the page, whatever the code says.
#![expect(clippy::cast_possible_truncation, reason = "of bits, the lowest few are wanted")]
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use std::hint::select_unpredictable;

use super::bits::{Room, look};
use super::code::{STATES, decoding};
use super::literals::{self, Literals};
use super::tables::TOKEN_LENGTHS;
use super::token::{extension, token};
use super::{DISTANCES, LEN_BITS, LEN_FIELD_MAX, LITERALS_BITS, LITERALS_FIELD_MAX, ROOM, SECOND_DISTANCE};
use crate::ecbc::BLOB_MAX;
use crate::ecbc::cpu::Cpu;
use crate::ecbc::page_lz::copy::{copy_literals, copy_match};
use crate::ecbc::page_lz::vectors::{Vectors, choose_vectors};
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN, PADDED};
use crate::{PAGE_SIZE, Page};

static DECODING: [u32; STATES] = decoding(&TOKEN_LENGTHS);

/// Decodes pages; the memory is reused.
pub(in crate::ecbc) struct PackedDecoder {
    cpu: Cpu,
    input: Box<Room>,
    literals: Box<Literals>,
    output: Box<[u8; PADDED]>,
}

impl PackedDecoder {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        let (input, output) = (Box::new([0; ROOM + 8]), Box::new([0; PADDED]));
        Self { cpu, input, literals: Box::new([0; ROOM + 64]), output }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is as it was.
    pub(in crate::ecbc) fn decode(&mut self, blob: &[u8], page: &mut Page) -> bool {
        if blob.len() > BLOB_MAX {
            return false;
        }
        self.input[..blob.len()].copy_from_slice(blob);
        let (cpu, this, end) = (self.cpu, &mut *self, blob.len());
        let whole = choose_vectors!(
            cpu,
            fn decode<V>(this: &mut PackedDecoder, end: usize) -> bool {
                let PackedDecoder { input, literals, output, .. } = this;
                literals::read(input, end, literals).is_some_and(|read| match read.plain_at {
                    Some(at) => sequences::<V, _>(input, end, (input, at), read, output),
                    None => sequences::<V, _>(input, end, (literals, 0), read, output),
                })
            }
        );
        if whole {
            page.copy_from_slice(&self.output[..PAGE_SIZE]);
        }
        whole
    }
}

/// A token with all that belongs to it.
struct Header {
    distance: usize,
    len: usize,
    literals: usize,
}

/// Decodes the tokens, given the literals and where they begin; what the arrays hold of earlier pages
/// is never part of a result that this calls whole.
#[inline(always)]
fn sequences<V: Vectors, const N: usize>(
    input: &Room,
    end: usize,
    (literals, first): (&[u8; N], usize),
    read: literals::Read,
    output: &mut [u8; PADDED],
) -> bool {
    let mut at = read.tokens_at * 8;
    let mut distances = [FIRST_DISTANCE, SECOND_DISTANCE];
    let (mut used, mut written) = (0, 0);
    // What is left of the page is what is left of the literals: no match follows.
    while PAGE_SIZE - written != read.count - used {
        if at > end * 8 {
            return false;
        }
        let Some(header) = header(input, &mut at, &mut distances) else { return false };
        let match_at = written + header.literals;
        if header.literals > read.count - used
            || match_at + header.len > PAGE_SIZE
            || header.distance.wrapping_sub(1) >= match_at
        {
            return false;
        }
        copy_literals(literals, first + used, output, written, header.literals);
        copy_match::<V, PADDED>(output, match_at, header.distance, header.len);
        used += header.literals;
        written = match_at + header.len;
    }
    output[written..PAGE_SIZE].copy_from_slice(&literals[first + used..first + read.count]);
    at.div_ceil(8) == end
}

/// Reads a header at bit `at`, which may lead beyond the code's end: the caller checks that.
#[inline(always)]
fn header(input: &Room, at: &mut usize, distances: &mut [usize; 2]) -> Option<Header> {
    let mut bits = look(input, *at);
    let (token, mut used) = token(&DECODING, bits)?;
    bits >>= used;
    let class = token >> (LEN_BITS + LITERALS_BITS);
    let way = WAYS[class & (WAYS.len() - 1)];
    let given = (bits as usize & way.mask) << way.shift;
    bits >>= way.bits;
    used += u32::from(way.bits);
    let [last, second] = *distances;
    let distance = select_unpredictable(class == 0, last, select_unpredictable(class == 1, second, given));
    *distances = [distance, select_unpredictable(class == 0, second, last)];
    let mut len = token >> LITERALS_BITS & LEN_FIELD_MAX;
    if len == LEN_FIELD_MAX {
        let (rest, bits) = extension(bits);
        len += rest;
        used += bits;
    }
    *at += used as usize;
    let mut literals = token & LITERALS_FIELD_MAX;
    if literals == LITERALS_FIELD_MAX {
        let (rest, bits) = extension(look(input, *at));
        literals += rest;
        *at += bits as usize;
    }
    Some(Header { distance, len: len + MATCH_MIN, literals })
}

/// A [`Distance`](super::Distance), ready for use.
#[derive(Clone, Copy)]
struct Way {
    mask: usize,
    bits: u8,
    shift: u8,
}

/// The ways of all classes; an eighth makes indices easy to bound.
static WAYS: [Way; 8] = {
    let mut ways = [Way { mask: 0, bits: 0, shift: 0 }; 8];
    let mut class = 0;
    while class < DISTANCES.len() {
        let way = &DISTANCES[class];
        #[expect(clippy::cast_possible_truncation, reason = "at most twelve")]
        let (bits, shift) = (way.bits as u8, way.shift as u8);
        ways[class] = Way { mask: (1 << bits) - 1, bits, shift };
        class += 1;
    }
    ways
};
