//! Cheap looks at a page that tell which coder suits it.
//!
//! Portable code without branches in its inner loops, so that the compiler vectorises it; every
//! machine comes to the same verdict.

use crate::{PAGE_SIZE, Page};

/// Bytes compared between two decisions to go on.
const STRIDE: usize = 512;

/// The 32-bit word that fills the page, if one does.
pub(crate) fn uniform(page: &Page) -> Option<u32> {
    let (words, _) = page.as_chunks::<8>();
    let first = u64::from_le_bytes(words[0]);
    if first != first.rotate_left(32) {
        return None;
    }
    let (strides, _) = words.as_chunks::<{ STRIDE / 8 }>();
    let differs = |stride: &[[u8; 8]; STRIDE / 8]| {
        stride.iter().fold(0, |acc, word| acc | (u64::from_le_bytes(*word) ^ first)) != 0
    };
    #[expect(clippy::cast_possible_truncation, reason = "both halves are the word")]
    (!strides.iter().any(differs)).then_some(first as u32)
}

/// Bytes of a page that are sampled for its entropy.
const SAMPLE: usize = 1024;
/// They are taken in runs of this length, evenly spread.
const RUN: usize = 64;
const _: () = assert!(SAMPLE == 1024, "the chi-square below is multiplied out for it");
/// Zero bytes that a sample of noise may have (4 expected, standard deviation 2).
const NOISE_ZEROS_MAX: u32 = 14;
/// Chi-square over the 256 byte values that a sample of noise stays below (255 expected, standard
/// deviation 23).
const NOISE_CHI_SQUARE_MAX: u32 = 340;

/// Equal hashes among a page's 64-bit words that noise stays below (32 expected, standard
/// deviation 6): bytes may be evenly distributed and yet repeat.
const NOISE_REPEATS_MAX: u32 = 64;

/// Whether an attempt to compress the page would be wasted: it looks compressed, encrypted or
/// random. Most pages are found ordinary by the first, cheapest look.
pub(super) fn is_noise(page: &Page) -> bool {
    let (runs, _) = page.as_chunks::<RUN>();
    let sample = || runs.iter().step_by(PAGE_SIZE / SAMPLE);
    sample().map(zero_bytes).sum::<u32>() <= NOISE_ZEROS_MAX
        && chi_square(sample()) < NOISE_CHI_SQUARE_MAX
        && repeats(page) < NOISE_REPEATS_MAX
}

fn chi_square<'a>(runs: impl Iterator<Item = &'a [u8; RUN]>) -> u32 {
    let mut counts = [0u16; 256];
    for &byte in runs.flatten() {
        counts[usize::from(byte)] += 1;
    }
    let squares = counts.iter().map(|&count| u32::from(count) * u32::from(count)).sum::<u32>();
    // Sum of (count - mean)² / mean, multiplied out, with mean = SAMPLE / 256 = 4.
    (squares / 4).saturating_sub(1024)
}

/// How many of the page's 64-bit words have a hash that an earlier one had.
fn repeats(page: &Page) -> u32 {
    let mut seen = [0u64; 64];
    let mut repeats = 0;
    for word in page.as_chunks::<8>().0 {
        let hash = u64::from_le_bytes(*word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
        let bits = &mut seen[usize::from((hash >> 6) as u8)];
        repeats += u32::from(*bits >> (hash & 63) & 1 != 0);
        *bits |= 1 << (hash & 63);
    }
    repeats
}

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
        let verdicts = (0..1000).filter(|&seed| is_noise(&noise(seed))).count();
        assert!(verdicts > 995, "{verdicts} of 1000");
    }

    #[test]
    fn noise_that_repeats_is_not_noise() {
        let mut page = noise(3);
        let (first, second) = page.split_at_mut(PAGE_SIZE / 2);
        second.copy_from_slice(first);
        assert!(!is_noise(&page));
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
            assert!(!is_noise(&page));
        }
    }
}
