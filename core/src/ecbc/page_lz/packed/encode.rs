//! From sequences to packed page LZ.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::bits::{BitWriter, Room};
use super::code::codes;
use super::literals::{self, Literals};
use super::tables::{ESCAPE, TOKEN_LENGTHS};
use super::{
    DISTANCES, EXTENSION_BITS, EXTENSION_MAX, LEN_BITS, LEN_FIELD_MAX, LITERALS_BITS, LITERALS_FIELD_MAX,
    ROOM, SECOND_DISTANCE, TOKEN_BITS, TOKENS, distance_class,
};
use crate::ecbc::cpu::Cpu;
use crate::ecbc::page_lz::parse::{Effort, PageParser, Sequence, Sink};
use crate::ecbc::page_lz::vectors::{Vectors, choose_vectors};
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN, PADDED, PIECE};
use crate::{PAGE_SIZE, Page};

/// By token: its code, the escape's and the token's number if it has none, and below that the
/// length in eight bits.
static ENCODING: [u32; TOKENS] = {
    let codes = codes(&TOKEN_LENGTHS);
    let escape_len = TOKEN_LENGTHS[ESCAPE] as u32;
    let mut table = [0; TOKENS];
    let mut token = 0;
    while token < TOKENS {
        #[expect(clippy::cast_possible_truncation, reason = "tokens have ten bits")]
        let number = token as u32;
        table[token] = match TOKEN_LENGTHS[token] as u32 {
            0 => (codes[ESCAPE] | number << escape_len) << 8 | (escape_len + TOKEN_BITS),
            len => codes[token] << 8 | len,
        };
        token += 1;
    }
    table
};

/// Five bytes hashed, strides late: what literals and tokens then cost less pays for the search.
pub(super) struct Balanced;

impl Effort for Balanced {
    const HASHED_BYTES: u32 = 5;
    const ALIGNED: usize = 1;
    const STRIDE: usize = 1;
    const SKIP_LOG: u32 = 4;
    const ACCEPTED: usize = MATCH_MIN;
    const REPEATED: usize = MATCH_MIN;
}

/// Encodes pages; the memory is reused, nothing of a page's content is.
pub(in crate::ecbc) struct PackedEncoder {
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

impl PackedEncoder {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        let room = || Box::new([0; ROOM + 8]);
        Self { cpu, parser: PageParser::new(), output: Output::new(), out: room(), spare: room() }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(in crate::ecbc) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        let (cpu, this) = (self.cpu, self);
        choose_vectors!(
            cpu,
            fn encode<V>(this: &mut PackedEncoder, page: &Page, target: &mut [u8]) -> Option<usize> {
                this.encode_inline::<V>(page, target)
            }
        )
    }

    #[inline(always)]
    fn encode_inline<V: Vectors>(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        self.output.begin();
        let last = self.parser.parse::<V, Balanced>(page, &mut self.output);
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

    /// What a field could not say.
    #[inline(always)]
    fn extension(&mut self, rest: usize) {
        if rest < EXTENSION_MAX {
            self.writer.put(rest as u64, 8);
        } else {
            self.writer.put((EXTENSION_MAX | rest << 8) as u64, 8 + EXTENSION_BITS);
        }
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
            self.extension(len - LEN_FIELD_MAX);
        }
        self.writer.flush(&mut self.tokens);
        if sequence.literals >= LITERALS_FIELD_MAX {
            self.extension(sequence.literals - LITERALS_FIELD_MAX);
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
