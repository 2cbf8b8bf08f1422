//! Literals as four streams, each in the one of eight codes that suits it.
//!
//! A header of eight bytes tells the number of literals (12 bits), the four codes (3 bits each)
//! and the streams' lengths in bytes (10 bits each). Fewer than [`PACKED_MIN`] literals follow a
//! header of two bytes as they are.
#![expect(clippy::cast_possible_truncation, reason = "of bits, the lowest few are wanted")]
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::ROOM;
use super::bits::{BitWriter, Room, look};
use super::code::{STATES, codes, decoding};
use super::tables::{CLASSES, LITERAL_LENGTHS};
use crate::PAGE_SIZE;

/// Fewer literals are not packed.
pub(super) const PACKED_MIN: usize = 64;
/// More literals are not packed either, and the page is stored: lengths must fit their fields.
pub(super) const PACKED_MAX: usize = 4 * 1023;
const HEADER: usize = 8;
const SHORT_HEADER: usize = 2;
const STREAMS: usize = 4;
const COUNT_BITS: u32 = 12;
const CLASS_BITS: u32 = 3;
const SIZE_BITS: u32 = 10;
/// The class of streams that hold their literals as they are.
const PLAIN: usize = 0;
/// Literals are packed if that saves more than one bit of so many: what saves less takes the decoder
/// longer than it is worth.
const GAIN: u64 = 24;
/// Symbols between two looks at the bits: 55 of 57.
const GROUP: usize = 5;

/// Literals, with room for pieces beyond.
pub(super) type Literals = [u8; ROOM + 64];

/// By class and literal: its code, and below that the code's length in eight bits.
static ENCODING: [[u32; 256]; CLASSES] = {
    let mut tables = [[0; 256]; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let codes = codes(&LITERAL_LENGTHS[class]);
        let mut literal = 0;
        while literal < 256 {
            let plain = literal as u32;
            let code = if class == PLAIN { plain } else { codes[literal] };
            tables[class][literal] = code << 8 | LITERAL_LENGTHS[class][literal] as u32;
            literal += 1;
        }
        class += 1;
    }
    tables
};

/// By class and next bits: the literal, and below that the code's length in eight bits.
static DECODING: [[u16; STATES]; CLASSES] = {
    let mut tables = [[0; STATES]; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let wide = decoding(&LITERAL_LENGTHS[class]);
        let mut state = 0;
        while state < STATES {
            #[expect(clippy::cast_possible_truncation, reason = "literals are bytes")]
            let narrow = wide[state] as u16;
            tables[class][state] = if class == PLAIN { (state as u16) << 8 | 8 } else { narrow };
            state += 1;
        }
        class += 1;
    }
    tables
};

/// By literal: the lengths of its codes, a byte for each class.
static LENGTHS: [u64; 256] = {
    let mut lengths = [0; 256];
    let mut literal = 0;
    while literal < 256 {
        let mut class = 0;
        while class < CLASSES {
            lengths[literal] |= (LITERAL_LENGTHS[class][literal] as u64) << (8 * class);
            class += 1;
        }
        literal += 1;
    }
    lengths
};

/// Each stream's class; that of plain literals for all, where codes save next to nothing.
#[inline(always)]
fn classes_of(streams: [&[u8]; STREAMS]) -> [usize; STREAMS] {
    let best = streams.map(best_class);
    let packed = best.iter().map(|(_, bits)| bits).sum::<u64>();
    let plain = 8 * streams.iter().map(|stream| stream.len() as u64).sum::<u64>();
    if packed + plain / GAIN >= plain { [PLAIN; STREAMS] } else { best.map(|(class, _)| class) }
}

/// The class whose code makes these literals shortest, of equals the first; and their bits in it.
#[inline(always)]
fn best_class(literals: &[u8]) -> (usize, u64) {
    /// As many lengths as a byte can sum up.
    const RUN: usize = 255 / super::code::CODE_BITS as usize;
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let (mut even, mut odd) = (0, 0);
    for run in literals.chunks(RUN) {
        let sum = run.iter().map(|&literal| LENGTHS[usize::from(literal)]).sum::<u64>();
        even += sum & EVEN;
        odd += sum >> 8 & EVEN;
    }
    let bits = |class: usize| (if class.is_multiple_of(2) { even } else { odd }) >> (class / 2 * 16) & 0xffff;
    (0..CLASSES).map(|class| (class, bits(class))).min_by_key(|&(_, bits)| bits).unwrap_or((PLAIN, 0))
}

/// Writes the first `count` literals to the beginning of `out`; gives the length, or nothing if
/// there are too many. `spare` is overwritten.
#[inline(always)]
pub(super) fn write(literals: &Literals, count: usize, out: &mut Room, spare: &mut Room) -> Option<usize> {
    if count < PACKED_MIN {
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        out[..SHORT_HEADER].copy_from_slice(&(count as u16).to_le_bytes());
        out[SHORT_HEADER..SHORT_HEADER + PACKED_MIN].copy_from_slice(&literals[..PACKED_MIN]);
        return Some(SHORT_HEADER + count);
    }
    if count > PACKED_MAX {
        return None;
    }
    let quarter = count.div_ceil(STREAMS);
    let mut header = count as u64;
    let mut at = HEADER;
    let parts = [0, 1, 2, 3].map(|stream| &literals[stream * quarter..((stream + 1) * quarter).min(count)]);
    let all_classes = classes_of(parts);
    for pair in [0, 2] {
        let (one, other) = (parts[pair], parts[pair + 1]);
        let classes = [all_classes[pair], all_classes[pair + 1]];
        let (middle, other_len) = if classes == [PLAIN; 2] {
            out[at..at + one.len()].copy_from_slice(one);
            spare[..other.len()].copy_from_slice(other);
            (at + one.len(), other.len())
        } else {
            write_pair([one, other], classes, out, at, spare)
        };
        out[middle..middle + other_len].copy_from_slice(&spare[..other_len]);
        for (stream, class, len) in [(pair, classes[0], middle - at), (pair + 1, classes[1], other_len)] {
            let stream = u32::try_from(stream).unwrap_or_default();
            header |= (class as u64) << (COUNT_BITS + stream * CLASS_BITS);
            header |= (len as u64) << (COUNT_BITS + 4 * CLASS_BITS + stream * SIZE_BITS);
        }
        at = middle + other_len;
    }
    out[..HEADER].copy_from_slice(&header.to_le_bytes());
    Some(at)
}

/// Writes two streams at once, the first to `out` from `at`, the other to `spare`: one alone
/// would wait for itself. Gives the first one's end and the other's length.
#[inline(always)]
fn write_pair(
    parts: [&[u8]; 2],
    classes: [usize; 2],
    out: &mut Room,
    at: usize,
    spare: &mut Room,
) -> (usize, usize) {
    let tables = classes.map(|class| &ENCODING[class & (CLASSES - 1)]);
    let mut one = BitWriter::starting(at);
    let mut other = BitWriter::starting(0);
    let put = |writer: &mut BitWriter, table: &[u32; 256], literal: u8| {
        let entry = table[usize::from(literal)];
        writer.put(u64::from(entry >> 8), entry & 0xff);
    };
    let ([ones, ones_rest], [others, others_rest]) = (grouped(parts[0]), grouped(parts[1]));
    let (ones, others) = (ones.as_chunks::<GROUP>().0, others.as_chunks::<GROUP>().0);
    for (first, second) in ones.iter().zip(others) {
        for i in 0..GROUP {
            put(&mut one, tables[0], first[i]);
            put(&mut other, tables[1], second[i]);
        }
        one.flush(out);
        other.flush(spare);
    }
    // The last stream may be a few literals shorter than the others.
    let both = ones.len().min(others.len()) * GROUP;
    for &literal in ones.as_flattened()[both..].iter().chain(ones_rest) {
        put(&mut one, tables[0], literal);
        one.flush(out);
    }
    for &literal in others.as_flattened()[both..].iter().chain(others_rest) {
        put(&mut other, tables[1], literal);
        other.flush(spare);
    }
    (one.finish(out), other.finish(spare))
}

/// Whole groups, and the rest.
#[inline(always)]
fn grouped(literals: &[u8]) -> [&[u8]; 2] {
    let (whole, rest) = literals.split_at(literals.len() / GROUP * GROUP);
    [whole, rest]
}

/// Where literals and tokens are found.
#[derive(Clone, Copy)]
pub(super) struct Read {
    /// Number of literals.
    pub(super) count: usize,
    /// Where they begin in the code if it has them as they are; then they were not read.
    pub(super) plain_at: Option<usize>,
    /// Where the tokens begin.
    pub(super) tokens_at: usize,
}

/// Reads the literals of the code in `input`, which is `end` bytes long, unless they are plain.
#[inline(always)]
pub(super) fn read(input: &Room, end: usize, literals: &mut Literals) -> Option<Read> {
    let header = look(input, 0);
    let field = |at: u32, bits: u32| (header >> at) as usize & ((1 << bits) - 1);
    let count = field(0, COUNT_BITS);
    if count < PACKED_MIN {
        let tokens_at = SHORT_HEADER + count;
        return (tokens_at <= end).then_some(Read { count, plain_at: Some(SHORT_HEADER), tokens_at });
    }
    let mut starts = [HEADER; STREAMS + 1];
    let mut classes = [0; STREAMS];
    for (stream, shift) in (0..STREAMS).zip(0..) {
        classes[stream] = field(COUNT_BITS + shift * CLASS_BITS, CLASS_BITS);
        let len = field(COUNT_BITS + 4 * CLASS_BITS + shift * SIZE_BITS, SIZE_BITS);
        starts[stream + 1] = starts[stream] + len;
    }
    let tokens_at = starts[STREAMS];
    if tokens_at > end || count > PACKED_MAX {
        return None;
    }
    let quarter = count.div_ceil(STREAMS);
    if classes == [PLAIN; STREAMS] {
        if tokens_at != HEADER + count {
            return None;
        }
        return Some(Read { count, plain_at: Some(HEADER), tokens_at });
    }
    let ends = read_streams(input, starts, classes, quarter, literals);
    // The last stream may have been read beyond its end.
    let whole = (0..STREAMS - 1).all(|stream| ends[stream].div_ceil(8) == starts[stream + 1]);
    whole.then_some(Read { count, plain_at: None, tokens_at })
}

/// Reads `quarter` literals from each stream; gives the bit where each ended. Whatever the
/// streams hold, no look goes beyond the room: at most 1023 codes of eleven bits follow a start
/// that is at most a page into it.
#[inline(always)]
fn read_streams(
    input: &Room,
    starts: [usize; STREAMS + 1],
    classes: [usize; STREAMS],
    quarter: usize,
    literals: &mut Literals,
) -> [usize; STREAMS] {
    const { assert!(PAGE_SIZE + 1023 * super::code::CODE_BITS as usize / 8 + 8 < ROOM) }
    let tables = classes.map(|class| &DECODING[class & (CLASSES - 1)]);
    let mut at = [starts[0] * 8, starts[1] * 8, starts[2] * 8, starts[3] * 8];
    let (first, rest) = literals.split_at_mut(quarter);
    let (second, rest) = rest.split_at_mut(quarter);
    let (third, rest) = rest.split_at_mut(quarter);
    let fourth = &mut rest[..quarter];
    let (firsts, first) = first.as_chunks_mut::<GROUP>();
    let (seconds, second) = second.as_chunks_mut::<GROUP>();
    let (thirds, third) = third.as_chunks_mut::<GROUP>();
    let (fourths, fourth) = fourth.as_chunks_mut::<GROUP>();
    for (((a, b), c), d) in firsts.iter_mut().zip(seconds).zip(thirds).zip(fourths) {
        read_group(input, tables, &mut at, &mut [a, b, c, d]);
    }
    for (((a, b), c), d) in first.iter_mut().zip(second).zip(third).zip(fourth) {
        let one = std::array::from_mut::<u8>;
        read_group(input, tables, &mut at, &mut [one(a), one(b), one(c), one(d)]);
    }
    at
}

/// Reads so many literals from each stream.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "four arrays are gone through at once")]
fn read_group<const N: usize>(
    input: &Room,
    tables: [&[u16; STATES]; STREAMS],
    at: &mut [usize; STREAMS],
    groups: &mut [&mut [u8; N]; STREAMS],
) {
    /// Above all bits that are used; those used are counted by how far it has come down.
    const MARK: u64 = 1 << 63;
    let mut bits = at.map(|at| look(input, at) | MARK);
    for i in 0..N {
        for stream in 0..STREAMS {
            let entry = tables[stream][bits[stream] as usize & (STATES - 1)];
            bits[stream] >>= entry & 63;
            groups[stream][i] = (entry >> 8) as u8;
        }
    }
    for stream in 0..STREAMS {
        at[stream] += bits[stream].leading_zeros() as usize;
    }
}
