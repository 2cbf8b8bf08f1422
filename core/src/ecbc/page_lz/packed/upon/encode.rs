//! From a page and its base to the code.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::super::bits::{BitWriter, Room};
use super::super::literals::{self, Literals};
use super::super::token::{encoding, put_extension};
use super::super::{LEN_BITS, LITERALS_BITS, LITERALS_FIELD_MAX, ROOM, TOKENS, distance_class};
use super::{LEN_EXTRA, LEN_STARTS, PADDED, SAME_MIN, SAME_PLACE, TO_THE_END, TOKEN_LENGTHS, WAYS, WINDOW};
use crate::ecbc::cpu::{Cpu, compiled_for};
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN, PIECE};
use crate::{PAGE_SIZE, Page};

const TABLE_LOG: u32 = 12;
/// Every so many bytes of the base a position is entered; matches are extended backward.
const BASE_STEP: usize = 8;
/// How hard the encoder looks.
#[derive(Clone, Copy)]
pub(in crate::ecbc) struct Looks {
    /// If fewer words of the page differ from the base's, its other places are not looked for.
    pub(in crate::ecbc) few_words: usize,
    /// After 2 to the power of this positions without a match every second is tried, and so on.
    pub(in crate::ecbc) patience_log: u32,
}

static ENCODING: [u32; TOKENS] = encoding(&TOKEN_LENGTHS);

/// By how much longer a match is than the shortest, up to the last start: the field for that.
static LEN_FIELDS: [u8; LEN_STARTS[LEN_STARTS.len() - 1] + 1] = {
    let mut fields = [0; LEN_STARTS[LEN_STARTS.len() - 1] + 1];
    let mut field = 0;
    let mut len = 0;
    while len < fields.len() {
        if field + 1 < LEN_STARTS.len() && LEN_STARTS[field + 1] == len {
            field += 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 16")]
        let number = field as u8;
        fields[len] = number;
        len += 1;
    }
    fields
};

/// Encodes pages upon others; the memory is reused, nothing of its content is.
pub(in crate::ecbc) struct UponEncoder {
    cpu: Cpu,
    looks: Looks,
    window: Box<[u8; PADDED]>,
    /// For a hash, where its bytes were met last; 0 at first.
    table: Box<[u16; 1 << TABLE_LOG]>,
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
    /// The last one that was not that of the same place.
    distance: usize,
}

/// Bytes equal at two places, the later one not yet coded.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    distance: usize,
}

impl UponEncoder {
    pub(in crate::ecbc) fn new(cpu: Cpu, looks: Looks) -> Self {
        let room = || Box::new([0; ROOM + 8]);
        Self {
            cpu,
            looks,
            window: Box::new([0; PADDED]),
            table: Box::new([0; 1 << TABLE_LOG]),
            output: Output::new(),
            out: room(),
            spare: room(),
        }
    }

    /// Appends the code of `page` upon `base` if it is shorter than `limit` bytes; gives its length.
    pub(in crate::ecbc) fn encode(
        &mut self,
        page: &Page,
        base: &Page,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        self.window[..PAGE_SIZE].copy_from_slice(base);
        self.window[PAGE_SIZE..WINDOW].copy_from_slice(page);
        let (cpu, this) = (self.cpu, &mut *self);
        let lens = compiled_for!(
            cpu,
            fn encode(this: &mut UponEncoder) -> Option<(usize, usize)> {
                this.encode_inline()
            }
        );
        let (literals, tokens) = lens?;
        if literals + tokens >= limit {
            return None;
        }
        out.extend_from_slice(&self.out[..literals]);
        out.extend_from_slice(&self.output.tokens[..tokens]);
        Some(literals + tokens)
    }

    /// The lengths of literals and tokens.
    #[inline(always)]
    fn encode_inline(&mut self) -> Option<(usize, usize)> {
        self.output.begin();
        let (base, page) = self.window[..WINDOW].split_at(PAGE_SIZE);
        let pairs = base.as_chunks::<8>().0.iter().zip(page.as_chunks::<8>().0);
        self.table.fill(0);
        if pairs.filter(|(old, new)| old != new).count() >= self.looks.few_words {
            for at in (0..PAGE_SIZE).step_by(BASE_STEP) {
                enter(&mut self.table, read(&self.window, at), at);
            }
        }
        let coded = self.matches();
        let last = &self.window[coded.min(WINDOW)..WINDOW];
        self.output.last_literals(last);
        let Output { literals, count, tokens, writer, .. } = &mut self.output;
        let at = literals::write(literals, *count, &mut self.out, &mut self.spare)?;
        Some((at, std::mem::take(writer).finish(tokens)))
    }

    /// Codes all that ends with a match; gives where the last literals begin.
    #[inline(always)]
    fn matches(&mut self) -> usize {
        let mut coded = PAGE_SIZE;
        while let Some(found) = self.search(coded) {
            let Match { at, distance } = self.extend_back(found, coded);
            let len = self.match_len(at, distance);
            self.output.take(&self.window, coded, at - coded, distance, len);
            coded = at + len;
        }
        coded
    }

    /// The first match at or after `at`: at the same place of the base, at the last other
    /// distance, or by the table.
    #[inline(always)]
    fn search(&mut self, mut at: usize) -> Option<Match> {
        let patience_log = self.looks.patience_log;
        let mut tried = 1 << patience_log;
        while at + MATCH_MIN <= WINDOW {
            let here = read(&self.window, at);
            if same(SAME_MIN, read(&self.window, at - SAME_PLACE), here) {
                return Some(Match { at, distance: SAME_PLACE });
            }
            let from = enter(&mut self.table, here, at);
            for from in [at - self.output.distance, from] {
                if same(MATCH_MIN, read(&self.window, from), here) {
                    return Some(Match { at, distance: at - from });
                }
            }
            at += tried >> patience_log;
            tried += 1;
        }
        None
    }

    /// The match begun as early as it can be, not before `coded`.
    #[inline(always)]
    fn extend_back(&self, Match { mut at, distance }: Match, coded: usize) -> Match {
        let byte = |index: usize| self.window[index & (WINDOW - 1)];
        while at > coded && at > distance && byte(at - 1) == byte(at - 1 - distance) {
            at -= 1;
        }
        Match { at, distance }
    }

    /// How many bytes match.
    #[inline(always)]
    fn match_len(&self, at: usize, distance: usize) -> usize {
        let mut len = 0;
        while at + len < WINDOW {
            let differing = read(&self.window, at + len) ^ read(&self.window, at + len - distance);
            if differing != 0 {
                len += differing.trailing_zeros() as usize / 8;
                break;
            }
            len += 8;
        }
        len.min(WINDOW - at)
    }
}

impl Output {
    fn new() -> Self {
        Self {
            literals: Box::new([0; ROOM + 64]),
            count: 0,
            tokens: Box::new([0; ROOM + 8]),
            writer: BitWriter::default(),
            distance: FIRST_DISTANCE,
        }
    }

    fn begin(&mut self) {
        self.count = 0;
        self.writer = BitWriter::default();
        self.distance = FIRST_DISTANCE;
    }

    /// Takes `count` literals from `start` on and the match behind them.
    #[inline(always)]
    fn take(&mut self, window: &[u8; PADDED], start: usize, count: usize, distance: usize, len: usize) {
        let (class, min) = match distance {
            SAME_PLACE => (0, SAME_MIN),
            _ if distance == self.distance => (1, MATCH_MIN),
            _ => (distance_class(distance), MATCH_MIN),
        };
        if class > 0 {
            self.distance = distance;
        }
        let rest = len - min;
        let is_last = start + count + len == WINDOW;
        let len_field =
            if is_last { TO_THE_END } else { usize::from(LEN_FIELDS[rest.min(LEN_FIELDS.len() - 1)]) };
        let count_field = count.min(LITERALS_FIELD_MAX);
        let token = class << (LEN_BITS + LITERALS_BITS) | len_field << LITERALS_BITS | count_field;
        #[cfg(test)]
        super::train::note(token);
        let entry = ENCODING[token];
        self.writer.put(u64::from(entry >> 8), entry & 0xff);
        let way = &WAYS[class];
        self.writer.put((distance >> way.shift & ((1 << way.bits) - 1)) as u64, way.bits);
        // At most 21 + 13 bits so far, and up to 12 here.
        if !is_last {
            self.writer.put((rest - LEN_STARTS[len_field]) as u64, LEN_EXTRA[len_field]);
        }
        self.writer.flush(&mut self.tokens);
        if count >= LITERALS_FIELD_MAX {
            put_extension(&mut self.writer, count - LITERALS_FIELD_MAX);
            self.writer.flush(&mut self.tokens);
        }
        let mut copied = 0;
        while copied < count {
            let from = (start + copied) & (WINDOW - 1);
            let to = (self.count + copied) & (PAGE_SIZE - 1);
            self.literals[to..to + PIECE].copy_from_slice(&window[from..from + PIECE]);
            copied += PIECE;
        }
        self.count += count;
    }

    fn last_literals(&mut self, literals: &[u8]) {
        self.literals[self.count..self.count + literals.len()].copy_from_slice(literals);
        self.count += literals.len();
    }
}

/// Enters the position of the bytes `here`; gives the one that the table had for their hash.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an index of the table; positions are below 2^13")]
fn enter(table: &mut [u16; 1 << TABLE_LOG], here: u64, at: usize) -> usize {
    let mixed = (here << (64 - 8 * MATCH_MIN)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::from(std::mem::replace(&mut table[(mixed >> (64 - TABLE_LOG)) as usize], at as u16))
}

/// Eight bytes of the window, or of the padding behind it.
#[inline(always)]
fn read(window: &[u8; PADDED], at: usize) -> u64 {
    let at = at & (WINDOW - 1);
    let bytes: &[u8; 8] = window[at..at + 8].first_chunk().unwrap_or(&[0; 8]);
    u64::from_le_bytes(*bytes)
}

/// Whether the first `count` bytes, 1 to 8, are the same.
#[inline(always)]
fn same(count: usize, one: u64, other: u64) -> bool {
    (one ^ other) << (64 - 8 * count) == 0
}
