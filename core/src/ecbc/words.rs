//! Words: a coder without decisions, for cores that must fill a fast link.
//!
//! Each of the page's 64-bit words becomes its low bytes that differ from an earlier word, found by
//! a hash of its five upper bytes, or from zero. No branch depends on the page's contents, but for
//! eight words that are all zero, so that nothing is ever mispredicted. `docs/ecbc.md` specifies
//! the format.
#![expect(clippy::cast_possible_truncation, reason = "of bits, the lowest few are wanted")]
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use std::hint::select_unpredictable;

use super::BLOB_MAX;
use super::cpu::{Cpu, compiled_for};
use crate::{PAGE_SIZE, Page};

const WORDS: usize = PAGE_SIZE / 8;
/// Words that share a bit of the mask and, if that is set, four bytes of tags.
const GROUP: usize = 8;
const GROUPS: usize = WORDS / GROUP;
/// How many words back a word may refer to; those before the page are zero.
const REACH: usize = 256;
const MASK_LEN: usize = 8;
const HASH_LOG: u32 = 10;
/// The lower bytes, which are not hashed.
const LOW_BITS: u32 = 24;
/// Added to the length in the tag of a word that refers to another.
const REFERS: u32 = 8;

/// The page's words behind as many zeros as a reference may go back.
type Window = [u64; 1024];
const _: () = assert!(REACH + WORDS <= 1024);

/// A code and room to look and to write beyond it.
type Room = [u8; ROOM + 8];
const ROOM: usize = 8192;
const _: () = assert!(MASK_LEN + GROUPS * (GROUP / 2 + GROUP * 8) <= ROOM, "the longest code");

/// Encodes pages; the memory is reused, nothing of a page's content is.
pub(super) struct WordsEncoder {
    cpu: Cpu,
    window: Box<Window>,
    /// By hash, the number of the last word that had it, modulo [`REACH`].
    table: Box<[u8; 1 << HASH_LOG]>,
    output: Box<Room>,
}

impl WordsEncoder {
    pub(super) fn new(cpu: Cpu) -> Self {
        let (window, table) = (Box::new([0; 1024]), Box::new([0; 1 << HASH_LOG]));
        Self { cpu, window, table, output: Box::new([0; ROOM + 8]) }
    }

    /// The length of the code, or `None` if `target` cannot hold it.
    pub(super) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        for (word, bytes) in self.window[REACH..].iter_mut().zip(page.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.table.fill(0);
        let (cpu, this) = (self.cpu, &mut *self);
        let len = compiled_for!(
            cpu,
            fn encode(this: &mut WordsEncoder) -> usize {
                encode(&this.window, &mut this.table, &mut this.output)
            }
        );
        target.get_mut(..len)?.copy_from_slice(&self.output[..len]);
        Some(len)
    }
}

#[inline(always)]
fn encode(window: &Window, table: &mut [u8; 1 << HASH_LOG], output: &mut Room) -> usize {
    let mask = mask(window);
    output[..MASK_LEN].copy_from_slice(&mask.to_le_bytes());
    let mut tags_at = MASK_LEN;
    let mut at = MASK_LEN + mask.count_ones() as usize * GROUP / 2;
    let mut groups = mask;
    while groups != 0 {
        let group = groups.trailing_zeros() as usize;
        groups &= groups - 1;
        let mut tags = 0;
        for i in 0..GROUP {
            let (bytes, len, tag) = word(window, table, group * GROUP + i);
            let to = at & (ROOM - 1);
            output[to..to + 8].copy_from_slice(&bytes.to_le_bytes());
            at += len as usize;
            tags |= tag << (4 * i);
        }
        let to = tags_at & (ROOM - 1);
        output[to..to + GROUP / 2].copy_from_slice(&tags.to_le_bytes());
        tags_at += GROUP / 2;
    }
    at
}

/// Which groups are not all zero.
#[inline(always)]
fn mask(window: &Window) -> u64 {
    let groups = window[REACH..REACH + WORDS].as_chunks::<GROUP>().0.iter();
    let bits =
        groups.zip(0..).map(|(group, i)| u64::from(group.iter().fold(0, |or, word| or | word) != 0) << i);
    bits.fold(0, |mask, bit| mask | bit)
}

/// The bytes for word `index`, how many they are, and the tag.
#[inline(always)]
fn word(window: &Window, table: &mut [u8; 1 << HASH_LOG], index: usize) -> (u64, u32, u32) {
    let word = window[(REACH + index) & (window.len() - 1)];
    let hash = (word >> LOW_BITS).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_LOG);
    #[expect(clippy::cast_possible_truncation, reason = "modulo REACH")]
    let before = std::mem::replace(&mut table[hash as usize], index as u8);
    // The distance less one.
    let back = (index.wrapping_sub(usize::from(before) + 1)) & (REACH - 1);
    let like = window[(REACH + index - 1 - back) & (window.len() - 1)];
    let plain_len = significant_bytes(word);
    let refer_len = significant_bytes(word ^ like) + 1;
    let refers = refer_len < plain_len;
    let bytes = select_unpredictable(refers, word << 8 | back as u64, word);
    let len = refer_len.min(plain_len);
    (bytes, len, len + u32::from(refers) * REFERS)
}

/// Bytes up to the highest that is not zero.
#[inline(always)]
fn significant_bytes(word: u64) -> u32 {
    (64 + 7 - word.leading_zeros()) / 8
}

/// Decodes pages; the memory is reused.
pub(super) struct WordsDecoder {
    cpu: Cpu,
    input: Box<Room>,
    window: Box<Window>,
}

impl WordsDecoder {
    pub(super) fn new(cpu: Cpu) -> Self {
        Self { cpu, input: Box::new([0; ROOM + 8]), window: Box::new([0; 1024]) }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is as it was.
    pub(super) fn decode(&mut self, blob: &[u8], page: &mut Page) -> bool {
        if !(MASK_LEN..=BLOB_MAX).contains(&blob.len()) {
            return false;
        }
        self.input[..blob.len()].copy_from_slice(blob);
        let (cpu, this) = (self.cpu, &mut *self);
        let end = compiled_for!(
            cpu,
            fn decode(this: &mut WordsDecoder) -> usize {
                decode(&this.input, &mut this.window)
            }
        );
        if end != blob.len() {
            return false;
        }
        for (bytes, word) in page.as_chunks_mut::<8>().0.iter_mut().zip(&self.window[REACH..]) {
            *bytes = word.to_le_bytes();
        }
        true
    }
}

/// Low bits that `len` bytes hold.
static LOW: [u64; 9] = {
    let mut low = [u64::MAX; 9];
    let mut len = 0;
    while len < 8 {
        low[len] = (1 << (8 * len)) - 1;
        len += 1;
    }
    low
};

/// Length, mask of the low bits taken from the code, and whether the rest is another word's.
#[derive(Clone, Copy)]
struct Kind {
    low: u64,
    len: u8,
    shift: u8,
}

static KINDS: [Kind; 16] = {
    let mut kinds = [Kind { low: 0, len: 0, shift: 0 }; 16];
    let mut tag = 0;
    while tag < 16 {
        #[expect(clippy::cast_possible_truncation, reason = "at most 15")]
        let number = tag as u8;
        kinds[tag] = if tag > 8 {
            Kind { low: LOW[tag - 9], len: number - 8, shift: 8 }
        } else {
            Kind { low: LOW[tag], len: number, shift: 0 }
        };
        tag += 1;
    }
    kinds
};

/// Decodes to the window whatever the code says; gives where the code ends. What the input holds
/// of earlier codes is looked at only if that is beyond this one's end.
#[inline(always)]
fn decode(input: &Room, window: &mut Window) -> usize {
    let look = |at: usize| -> u64 {
        let at = at & (ROOM - 1);
        u64::from_le_bytes(*input[at..at + 8].first_chunk().unwrap_or(&[0; 8]))
    };
    let mask = look(0);
    let mut tags_at = MASK_LEN;
    let mut at = MASK_LEN + mask.count_ones() as usize * GROUP / 2;
    for group in 0..GROUPS {
        let first = REACH + group * GROUP;
        if mask >> group & 1 == 0 {
            window[first..first + GROUP].fill(0);
            continue;
        }
        let mut tags = look(tags_at);
        tags_at += GROUP / 2;
        for i in 0..GROUP {
            let kind = KINDS[tags as usize & 15];
            tags >>= 4;
            let bytes = look(at);
            at += usize::from(kind.len);
            let index = first + i;
            let like = window[(index - 1 - (bytes as usize & (REACH - 1))) & (window.len() - 1)];
            let above = select_unpredictable(kind.shift == 8, like, 0);
            window[index] = bytes >> kind.shift & kind.low | above & !kind.low;
        }
    }
    at
}
