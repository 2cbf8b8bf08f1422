//! From sequences to bytes.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use std::marker::PhantomData;

use super::parse::{Effort, Parser, Sequence, Sink};
use super::vectors::{WIDE, choose_vectors};
use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, PAD, PADDED, UNIT_PADDED, mode};
use crate::ecbc::cpu::Cpu;

/// Room for the code of `padded` bytes: twice as many, since no sequence is longer than what it stands
/// for by more than the extension of its literals.
const fn room(padded: usize) -> usize {
    2 * (padded - PAD) + WIDE
}

/// Encodes single pages fast. Half the usual table: filling it anew for each page takes time.
pub(in crate::ecbc) type FastPageLzEncoder = Encoder<Fast, PADDED, { 1 << 10 }, { room(PADDED) }>;
/// Encodes units.
pub(in crate::ecbc) type UnitLzEncoder<E> = Encoder<E, UNIT_PADDED, { 1 << 12 }, { room(UNIT_PADDED) }>;

/// Whole 64-bit words only, in strides that soon grow: faster than LZ4 at acceleration 32, and denser.
pub(in crate::ecbc) struct TurboUnits;

impl Effort for TurboUnits {
    const HASHED_BYTES: u32 = 8;
    const ALIGNED: usize = 8;
    const SKIP_LOG: u32 = 1;
    const ACCEPTED: usize = 8;
    const REPEATED: usize = 8;
}

/// Eight bytes hashed and compared, soon in large strides: denser than LZ4 at acceleration 8, and faster.
pub(in crate::ecbc) struct Fast;

impl Effort for Fast {
    const HASHED_BYTES: u32 = 8;
    const ALIGNED: usize = 1;
    const SKIP_LOG: u32 = 1;
    const ACCEPTED: usize = 8;
    const REPEATED: usize = MATCH_MIN;
}

/// Six bytes hashed and compared, strides after 16 positions: denser than LZ4 and faster.
pub(in crate::ecbc) struct LightUnits;

impl Effort for LightUnits {
    const HASHED_BYTES: u32 = 6;
    const ALIGNED: usize = 1;
    const SKIP_LOG: u32 = 4;
    const ACCEPTED: usize = 6;
    const REPEATED: usize = MATCH_MIN;
}

/// Encodes up to `P` - [`PAD`] bytes with a table of `T` entries and `R` bytes of room for the code; the
/// memory is reused, nothing of its content is.
pub(in crate::ecbc) struct Encoder<E, const P: usize, const T: usize, const R: usize> {
    cpu: Cpu,
    parser: Parser<P, T>,
    output: Output<R>,
    effort: PhantomData<E>,
}

impl<E: Effort, const P: usize, const T: usize, const R: usize> Encoder<E, P, T, R> {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        Self { cpu, parser: Parser::new(), output: Output::new(), effort: PhantomData }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(in crate::ecbc) fn encode(&mut self, bytes: &[u8], target: &mut [u8]) -> Option<usize> {
        let (cpu, parser, output) = (self.cpu, &mut self.parser, &mut self.output);
        choose_vectors!(
            cpu,
            fn encode<V; E: Effort, const P: usize, const T: usize, const R: usize>(
                parser: &mut Parser<P, T>,
                output: &mut Output<R>,
                bytes: &[u8],
            ) -> () {
                output.begin();
                let last = parser.parse::<V, E>(bytes, output);
                output.last_literals(last);
            }
        );
        let code = &self.output.bytes[..self.output.len];
        target.get_mut(..code.len())?.copy_from_slice(code);
        Some(code.len())
    }
}

struct Output<const R: usize> {
    bytes: Box<[u8; R]>,
    len: usize,
    /// Of the sequence before.
    distance: usize,
}

impl<const P: usize, const R: usize> Sink<P> for Output<R> {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are masked, distances below 2^16")]
    fn take(&mut self, input: &[u8; P], sequence: Sequence) {
        let Sequence { start, literals: count, distance, len } = sequence;
        let near = distance < 256;
        let words = distance.is_multiple_of(8) && distance < 8 * 256;
        let (mode, given) = match (distance == self.distance, near, words) {
            (true, ..) => (mode::REPEAT, distance),
            (_, true, _) => (mode::BYTE, distance),
            (.., true) => (mode::WORDS, distance / 8),
            _ => (mode::FULL, distance),
        };
        let len = len - MATCH_MIN;
        self.distance = distance;
        let token = mode | len.min(FIELD_MAX) << 2 | count.min(FIELD_MAX) << 5;
        let at = self.len & (R - WIDE - 1);
        self.bytes[at] = token as u8;
        self.bytes[at + 1..at + 3].copy_from_slice(&(given as u16).to_le_bytes());
        self.len += 1 + usize::from(mode::BYTES[mode]);
        self.extension(len);
        self.extension(count);
        self.literals(input, start, count);
    }
}

impl<const R: usize> Output<R> {
    fn new() -> Self {
        Self { bytes: Box::new([0; R]), len: 0, distance: 0 }
    }

    fn begin(&mut self) {
        self.len = 0;
        self.distance = FIRST_DISTANCE;
    }

    /// What a length field could not say.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "lengths are below 2^16")]
    fn extension(&mut self, field: usize) {
        let at = self.len & (R - WIDE - 1);
        let rest = field.wrapping_sub(FIELD_MAX);
        // Written in any case: whether it counts is hard to predict.
        self.bytes[at] = rest.min(EXTENSION_MAX) as u8;
        self.len += usize::from(field >= FIELD_MAX);
        if field >= FIELD_MAX + EXTENSION_MAX {
            self.bytes[at + 1..at + 3].copy_from_slice(&(rest as u16).to_le_bytes());
            self.len += 2;
        }
    }

    #[inline(always)]
    fn literals<const P: usize>(&mut self, input: &[u8; P], start: usize, count: usize) {
        let mut copied = 0;
        loop {
            let from = (start + copied) & (P - PAD - 1);
            let to = (self.len + copied) & (R - WIDE - 1);
            self.bytes[to..to + WIDE].copy_from_slice(&input[from..from + WIDE]);
            copied += WIDE;
            if copied >= count {
                break;
            }
        }
        self.len += count;
    }

    #[expect(clippy::cast_possible_truncation, reason = "the field is masked")]
    fn last_literals(&mut self, literals: &[u8]) {
        if literals.is_empty() {
            return;
        }
        self.bytes[self.len] = (literals.len().min(FIELD_MAX) << 5) as u8;
        self.len += 1;
        self.extension(literals.len());
        self.bytes[self.len..self.len + literals.len()].copy_from_slice(literals);
        self.len += literals.len();
    }
}
