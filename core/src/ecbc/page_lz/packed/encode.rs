//! From sequences to packed page LZ.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use std::marker::PhantomData;

use super::bits::{BitWriter, Room};
use super::literals::{self, Literals};
use super::tables::TOKEN_LENGTHS;
use super::token::{encoding, put_extension};
use super::{
    DISTANCES, LEN_BITS, LEN_FIELD_MAX, LITERALS_BITS, LITERALS_FIELD_MAX, ROOM, SECOND_DISTANCE, TOKENS,
    distance_class,
};
use crate::ecbc::cpu::Cpu;
use crate::ecbc::page_lz::parse::{Effort, PageParser, Sequence, Sink};
use crate::ecbc::page_lz::vectors::{Vectors, choose_vectors};
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN, PADDED, PIECE};
use crate::{PAGE_SIZE, Page};

static ENCODING: [u32; TOKENS] = encoding(&TOKEN_LENGTHS);

/// Six bytes hashed, strides late: what literals and tokens then cost less pays for the search.
pub(in crate::ecbc) struct Balanced;

impl Effort for Balanced {
    const HASHED_BYTES: u32 = 6;
    const ALIGNED: usize = 1;
    const SKIP_LOG: u32 = 5;
    const ACCEPTED: usize = 6;
    const REPEATED: usize = MATCH_MIN;
}

/// Faster than LZ4 and denser: what is lost by a search in strides, the codes make good.
pub(in crate::ecbc) struct Light;

impl Effort for Light {
    const HASHED_BYTES: u32 = 8;
    const ALIGNED: usize = 1;
    const SKIP_LOG: u32 = 2;
    const ACCEPTED: usize = 8;
    const REPEATED: usize = MATCH_MIN;
}

/// Encodes pages; the memory is reused, nothing of a page's content is.
pub(in crate::ecbc) struct PackedEncoder<E> {
    effort: PhantomData<E>,
    cpu: Cpu,
    parser: PageParser,
    output: Output,
    out: Box<Room>,
    spare: Box<Room>,
}

/// What was coded so far.
struct Output {
    literals: Box<Literals>,
    count: usize,
    tokens: Box<Room>,
    writer: BitWriter,
    /// Of the two sequences before.
    distances: [usize; 2],
}

impl<E: Effort> PackedEncoder<E> {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        let room = || Box::new([0; ROOM + 8]);
        Self {
            effort: PhantomData,
            cpu,
            parser: PageParser::new(),
            output: Output::new(),
            out: room(),
            spare: room(),
        }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(in crate::ecbc) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        let (cpu, this) = (self.cpu, self);
        choose_vectors!(
            cpu,
            fn encode<V; E: Effort>(this: &mut PackedEncoder<E>, page: &Page, target: &mut [u8]) -> Option<usize> {
                this.encode_inline::<V>(page, target)
            }
        )
    }

    #[inline(always)]
    fn encode_inline<V: Vectors>(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        self.output.begin();
        let last = self.parser.parse::<V, E>(page, &mut self.output);
        self.output.last_literals(last);
        let Output { literals, count, tokens, writer, .. } = &mut self.output;
        let at = literals::write(literals, *count, &mut self.out, &mut self.spare)?;
        let tokens_len = std::mem::take(writer).finish(tokens);
        let (head, tail) = target.get_mut(..at + tokens_len)?.split_at_mut(at);
        head.copy_from_slice(&self.out[..at]);
        tail.copy_from_slice(&tokens[..tokens_len]);
        Some(at + tokens_len)
    }
}

impl Output {
    fn new() -> Self {
        Self {
            literals: Box::new([0; ROOM + 64]),
            count: 0,
            tokens: Box::new([0; ROOM + 8]),
            writer: BitWriter::default(),
            distances: [0; 2],
        }
    }

    fn begin(&mut self) {
        self.count = 0;
        self.writer = BitWriter::default();
        self.distances = [FIRST_DISTANCE, SECOND_DISTANCE];
    }

    /// The class of a distance, which becomes that of the sequence before.
    #[inline(always)]
    fn class(&mut self, distance: usize) -> usize {
        let [last, second] = self.distances;
        if distance == last {
            return 0;
        }
        self.distances = [distance, last];
        if distance == second { 1 } else { distance_class(distance) }
    }

    fn last_literals(&mut self, literals: &[u8]) {
        self.literals[self.count..self.count + literals.len()].copy_from_slice(literals);
        self.count += literals.len();
    }
}

impl Sink<PADDED> for Output {
    #[inline(always)]
    fn take(&mut self, input: &[u8; PADDED], sequence: Sequence) {
        let class = self.class(sequence.distance);
        let len = sequence.len - MATCH_MIN;
        let (len_field, count_field) = (len.min(LEN_FIELD_MAX), sequence.literals.min(LITERALS_FIELD_MAX));
        let token = class << (LEN_BITS + LITERALS_BITS) | len_field << LITERALS_BITS | count_field;
        let entry = ENCODING[token];
        self.writer.put(u64::from(entry >> 8), entry & 0xff);
        let way = &DISTANCES[class];
        let given = sequence.distance >> way.shift & ((1 << way.bits) - 1);
        self.writer.put(given as u64, way.bits);
        // At most 21 + 12 bits so far; an extension takes up to 20.
        if len >= LEN_FIELD_MAX {
            put_extension(&mut self.writer, len - LEN_FIELD_MAX);
        }
        self.writer.flush(&mut self.tokens);
        if sequence.literals >= LITERALS_FIELD_MAX {
            put_extension(&mut self.writer, sequence.literals - LITERALS_FIELD_MAX);
            self.writer.flush(&mut self.tokens);
        }
        let mut copied = 0;
        loop {
            let from = (sequence.start + copied) & (PAGE_SIZE - 1);
            let to = (self.count + copied) & (PAGE_SIZE - 1);
            self.literals[to..to + PIECE].copy_from_slice(&input[from..from + PIECE]);
            copied += PIECE;
            if copied >= sequence.literals {
                break;
            }
        }
        self.count += sequence.literals;
    }
}
