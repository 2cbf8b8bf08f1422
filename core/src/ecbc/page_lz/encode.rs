//! From sequences to bytes.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use std::marker::PhantomData;

use super::parse::{Effort, Parser, Sequence, Sink};
use super::{EXTENSION_MAX, FIELD_MAX, FIRST_DISTANCE, MATCH_MIN, PADDED, PIECE, mode};
use crate::ecbc::cpu::{Cpu, compiled_for};
use crate::{PAGE_SIZE, Page};

/// Twice a page: no code is as long, since no sequence is longer than what it stands for by more
/// than the extension of its literals.
const ROOM: usize = 2 * PAGE_SIZE;

/// Eight bytes hashed, soon in large strides: as fast as LZ4 that skips more, and denser.
pub(in crate::ecbc) struct Fast;

impl Effort for Fast {
    const HASHED_BYTES: u32 = 8;
    const SKIP_LOG: u32 = 1;
    const ACCEPTED: usize = 7;
}

/// Six bytes hashed, strides after eight positions: denser than LZ4 and faster.
pub(in crate::ecbc) struct Light;

impl Effort for Light {
    const HASHED_BYTES: u32 = 6;
    const SKIP_LOG: u32 = 3;
    const ACCEPTED: usize = MATCH_MIN;
}

/// Encodes pages; the memory is reused, nothing of a page's content is.
pub(in crate::ecbc) struct PageLzEncoder<E> {
    cpu: Cpu,
    parser: Parser,
    output: Output,
    effort: PhantomData<E>,
}

impl<E: Effort> PageLzEncoder<E> {
    pub(in crate::ecbc) fn new(cpu: Cpu) -> Self {
        Self { cpu, parser: Parser::new(), output: Output::new(), effort: PhantomData }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(in crate::ecbc) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        let (cpu, parser, output) = (self.cpu, &mut self.parser, &mut self.output);
        compiled_for!(
            cpu,
            fn encode<E: Effort>(parser: &mut Parser, output: &mut Output, page: &Page) -> () {
                output.begin();
                let last = parser.parse::<E>(page, output);
                output.last_literals(last);
            }
        );
        let code = &self.output.bytes[..self.output.len];
        target.get_mut(..code.len())?.copy_from_slice(code);
        Some(code.len())
    }
}

struct Output {
    bytes: Box<[u8; ROOM + PIECE]>,
    len: usize,
    /// Of the sequence before.
    distance: usize,
}

impl Sink for Output {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are masked, distances below 4096")]
    fn take(&mut self, input: &[u8; PADDED], sequence: Sequence) {
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
        let at = self.len & (ROOM - 1);
        self.bytes[at] = token as u8;
        self.bytes[at + 1..at + 3].copy_from_slice(&(given as u16).to_le_bytes());
        self.len += 1 + usize::from(mode::BYTES[mode]);
        self.extension(len);
        self.extension(count);
        self.literals(input, start, count);
    }
}

impl Output {
    fn new() -> Self {
        Self { bytes: Box::new([0; ROOM + PIECE]), len: 0, distance: 0 }
    }

    fn begin(&mut self) {
        self.len = 0;
        self.distance = FIRST_DISTANCE;
    }

    /// What a length field could not say.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "lengths are at most a page")]
    fn extension(&mut self, field: usize) {
        let Some(rest) = field.checked_sub(FIELD_MAX) else { return };
        let at = self.len & (ROOM - 1);
        self.bytes[at] = rest.min(EXTENSION_MAX) as u8;
        self.len += 1;
        if rest >= EXTENSION_MAX {
            self.bytes[at + 1..at + 3].copy_from_slice(&(rest as u16).to_le_bytes());
            self.len += 2;
        }
    }

    #[inline(always)]
    fn literals(&mut self, input: &[u8; PADDED], start: usize, count: usize) {
        let mut copied = 0;
        loop {
            let from = (start + copied) & (PAGE_SIZE - 1);
            let to = (self.len + copied) & (ROOM - 1);
            self.bytes[to..to + PIECE].copy_from_slice(&input[from..from + PIECE]);
            copied += PIECE;
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
