//! Cheap looks at a page that tell which coder suits it.
//!
//! Code without branches in its inner loops, so that the compiler vectorises it for the CPU; every
//! machine comes to the same verdict.
#![expect(clippy::inline_always, reason = "compiled for several CPUs")]

use super::cpu::{Cpu, compiled_for};
use crate::{PAGE_SIZE, Page};

/// Words compared before the rest is looked at, and then between two decisions to go on.
const FIRST_WORDS: usize = 8;
const STRIDE_WORDS: usize = 256;

/// The 32-bit word that fills the page, if one does.
pub(crate) fn uniform(page: &Page) -> Option<u32> {
    uniform_on(Cpu::detect(), page)
}

/// The same for this CPU.
pub(super) fn uniform_on(cpu: Cpu, page: &Page) -> Option<u32> {
    compiled_for!(
        cpu,
        fn find(page: &Page) -> Option<u32> {
            uniform_inline(page)
        }
    )
}

#[inline(always)]
fn uniform_inline(page: &Page) -> Option<u32> {
    let (words, _) = page.as_chunks::<8>();
    let first = u64::from_le_bytes(words[0]);
    if first != first.rotate_left(32) {
        return None;
    }
    if differ(&words[1..FIRST_WORDS], first) {
        return None;
    }
    for stride in words.as_chunks::<STRIDE_WORDS>().0 {
        if differ(stride, first) {
            return None;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "both halves are the word")]
    Some(first as u32)
}

/// Whether any of `words` is another than `first`.
#[inline(always)]
fn differ(words: &[[u8; 8]], first: u64) -> bool {
    words.iter().fold(0, |acc, word| acc | (u64::from_le_bytes(*word) ^ first)) != 0
}

/// Bytes of a page that are sampled for its entropy.
const SAMPLE: usize = 512;
/// They are taken in runs of this length, evenly spread.
const RUN: usize = 32;
const _: () = assert!(SAMPLE == 512, "the chi-square below is multiplied out for it");
/// Zero bytes that a sample of noise may have (2 expected, standard deviation 1.4).
const NOISE_ZEROS_MAX: u32 = 8;
/// Chi-square over the 256 byte values that a sample of noise stays below (255 expected, standard
/// deviation 23).
const NOISE_CHI_SQUARE_MAX: u32 = 310;

/// Equal hashes among every second of a page's 64-bit words that noise stays below (8 expected,
/// standard deviation 3): bytes may be evenly distributed and yet repeat.
const NOISE_REPEATS_MAX: u32 = 22;

/// Whether an attempt to compress the page would be wasted: it looks compressed, encrypted or
/// random. Most pages are found ordinary by the first, cheapest look.
pub(super) fn is_noise(cpu: Cpu, page: &Page) -> bool {
    compiled_for!(
        cpu,
        fn look(page: &Page) -> bool {
            is_noise_inline(page)
        }
    )
}

#[inline(always)]
fn is_noise_inline(page: &Page) -> bool {
    let (runs, _) = page.as_chunks::<RUN>();
    let sample = || runs.iter().step_by(PAGE_SIZE / SAMPLE);
    sample().map(zero_bytes).sum::<u32>() <= NOISE_ZEROS_MAX
        && chi_square(sample()) < NOISE_CHI_SQUARE_MAX
        && repeats(page) < NOISE_REPEATS_MAX
}

#[inline(always)]
fn chi_square<'a>(runs: impl Iterator<Item = &'a [u8; RUN]>) -> u32 {
    // Several counters for each value, since one would be waited for when a value repeats. None
    // overflows: each sees a quarter of the sample.
    const { assert!(SAMPLE / 4 <= u8::MAX as usize) }
    let mut counts = [[0u8; 256]; 4];
    for run in runs {
        for [a, b, c, d] in run.as_chunks::<4>().0 {
            counts[0][usize::from(*a)] += 1;
            counts[1][usize::from(*b)] += 1;
            counts[2][usize::from(*c)] += 1;
            counts[3][usize::from(*d)] += 1;
        }
    }
    let [one, two, three, four] = &counts;
    // A sum that reaches a byte's limit is far beyond what noise has.
    let count = |value: usize| {
        let two_each = [one[value].saturating_add(two[value]), three[value].saturating_add(four[value])];
        u16::from(two_each[0].saturating_add(two_each[1]))
    };
    let squares = (0..256).map(|value| u32::from(count(value) * count(value))).sum::<u32>();
    // Sum of (count - mean)² / mean, multiplied out, with mean = SAMPLE / 256 = 2.
    (squares / 2).saturating_sub(512)
}

/// How many of every second of the page's 64-bit words have a hash that an earlier one had.
#[inline(always)]
fn repeats(page: &Page) -> u32 {
    const HASH_BITS: u32 = 12;
    #[expect(clippy::cast_possible_truncation, reason = "512")]
    const PAGE_WORDS: u32 = PAGE_SIZE as u32 / 8;
    // One bit for each hash: a table of bytes would be as large as a page, and wait for itself.
    let mut seen = [0u64; 1 << (HASH_BITS - 6)];
    let (words, _) = page.as_chunks::<8>().0.as_chunks::<2>();
    for [word, _] in words {
        let hash = u64::from_le_bytes(*word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS);
        seen[(hash >> 6) as usize] |= 1 << (hash & 63);
    }
    let hashes = seen.iter().map(|bits| bits.count_ones()).sum::<u32>();
    const { PAGE_WORDS / 2 }.saturating_sub(hashes)
}

#[inline(always)]
fn zero_bytes(run: &[u8; RUN]) -> u32 {
    // A byte counter cannot overflow: a run is shorter than 256.
    u32::from(run.iter().fold(0u8, |count, &byte| count + u8::from(byte == 0)))
}

#[cfg(test)]
mod test {
    use super::*;

    fn noise(seed: u64) -> Page {
        let mut page = [0; PAGE_SIZE];
        for (word, i) in page.as_chunks_mut::<8>().0.iter_mut().zip(0u64..) {
            *word = xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed).to_le_bytes();
        }
        page
    }

    #[test]
    fn one_word_all_over_is_uniform_and_one_bit_less_is_not() {
        for word in [0u32, 1, 0xffff_ffff, 0xdead_beef] {
            let mut page: Page = std::array::from_fn(|i| word.to_le_bytes()[i % 4]);
            assert_eq!(uniform(&page), Some(word));
            for at in [0, 3, 511, 512, 2047, 4095] {
                page[at] ^= 0x10;
                assert_eq!(uniform(&page), None, "byte {at}");
                page[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn noise_is_recognised() {
        let verdicts = (0..1000).filter(|&seed| is_noise(Cpu::detect(), &noise(seed))).count();
        assert!(verdicts > 975, "{verdicts} of 1000");
    }

    #[test]
    fn noise_that_repeats_is_not_noise() {
        let mut page = noise(3);
        let (first, second) = page.split_at_mut(PAGE_SIZE / 2);
        second.copy_from_slice(first);
        assert!(!is_noise(Cpu::detect(), &page));
    }

    #[test]
    fn text_pointers_and_small_numbers_are_ordinary() {
        let text: Page = std::array::from_fn(|i| b"a page of words, "[i * 7 % 17]);
        let mut pointers = noise(1);
        for pointer in pointers.as_chunks_mut::<8>().0 {
            pointer[5..].copy_from_slice(&[0x7f, 0, 0]);
        }
        let mut floats = noise(2);
        for float in floats.as_chunks_mut::<8>().0 {
            float[7] = 0x3f;
        }
        for page in [text, pointers, floats] {
            assert!(!is_noise(Cpu::detect(), &page));
        }
    }
}
