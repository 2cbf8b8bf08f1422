//! A segment's pages in 16 bytes, in such a way that a later save knows its pages for the parent's
//! without decoding these.
//!
//! The digest is the exclusive or of one tag for each page that is not one word all over; a tag is
//! a keyed BLAKE3 of the page's index and of NH of its contents. NH (Black and others, "UMAC: Fast
//! and Secure Message Authentication", 1999) is some sums of products, as fast as the checks. Two
//! different pages have the same four sums with a probability of 2^-128 at most, for whoever does not
//! know the key. A sum of tags can be taken apart: the parent's digest, less the tags of its pages
//! that changed, is what the tags of the unchanged ones must give. `docs/security.md` says more.
#![expect(clippy::inline_always, reason = "compiled for several CPUs")]

use crate::ecbc::cpu::{Cpu, compiled_for};
use crate::ecbc::uniform;
use crate::format::segment::{Digest, DigestKey};
use crate::{PAGE_SIZE, Page};

const WORDS: usize = PAGE_SIZE / 8;
/// How often a page is summed up, each time under other words of the key: 32 bits of certainty each.
const PASSES: usize = 4;
/// How many 64-bit words further on in the key a pass begins than the one before it.
const SHIFT: usize = 4;
const KEY_WORDS: usize = WORDS + (PASSES - 1) * SHIFT;
/// A word's lower half.
const HALF: u64 = 0xffff_ffff;
const CONTEXT: &str = "ComIO 2026 digest of a segment's pages";

/// What a page adds to its segment's digest.
pub(super) type PageTag = [u8; 16];

/// A key's halves of words, each in 64 bits, so that four words are added and multiplied at once.
struct NhKey {
    low: [u64; KEY_WORDS],
    high: [u64; KEY_WORDS],
}

/// Means to digest pages under one key after the other.
pub(super) struct Digester {
    cpu: Cpu,
    key: DigestKey,
    nh_key: Box<NhKey>,
    tag_key: [u8; 32],
}

impl Digester {
    pub(super) fn new(key: DigestKey) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        let mut stream = hasher.update(&key).finalize_xof();
        let mut tag_key = [0; 32];
        stream.fill(&mut tag_key);
        let mut bytes = [0; 8 * KEY_WORDS];
        stream.fill(&mut bytes);
        let mut nh_key = Box::new(NhKey { low: [0; KEY_WORDS], high: [0; KEY_WORDS] });
        for (i, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*bytes);
            (nh_key.low[i], nh_key.high[i]) = (word & HALF, word >> 32);
        }
        Self { cpu: Cpu::detect(), key, nh_key, tag_key }
    }

    /// Goes on with `key`.
    pub(super) fn change_key(&mut self, key: DigestKey) {
        if self.key != key {
            *self = Self::new(key);
        }
    }

    /// The tag of page `index`: zeros if it is one word all over.
    pub(super) fn tag(&self, index: usize, page: &Page) -> PageTag {
        if uniform(page).is_some() { [0; 16] } else { self.tag_of_telling(index, page) }
    }

    /// The tag of page `index`, which is known not to be one word all over.
    pub(super) fn tag_of_telling(&self, index: usize, page: &Page) -> PageTag {
        let (cpu, key) = (self.cpu, &*self.nh_key);
        let sums = compiled_for!(
            cpu,
            fn nh(page: &Page, key: &NhKey) -> [u64; PASSES] {
                nh_inline(page, key)
            }
        );
        let mut input = [0; 8 + 8 * PASSES];
        let (head, rest) = input.split_at_mut(8);
        head.copy_from_slice(&(index as u64).to_le_bytes());
        for (to, sum) in rest.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            *to = sum.to_le_bytes();
        }
        let whole = *blake3::keyed_hash(&self.tag_key, &input).as_bytes();
        std::array::from_fn(|i| whole[i])
    }

    pub(super) fn digest(&self, sum: PageTag) -> Digest {
        Digest { key: self.key, sum }
    }
}

/// Adds `tag` to `sum`, or takes it away.
pub(super) fn add(sum: &mut PageTag, tag: PageTag) {
    for (sum, tag) in sum.iter_mut().zip(tag) {
        *sum ^= tag;
    }
}

#[inline(always)]
fn nh_inline(page: &Page, key: &NhKey) -> [u64; PASSES] {
    let mut sums = [0u64; PASSES];
    for (i, word) in page.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        for (pass, sum) in sums.iter_mut().enumerate() {
            let of_key = i + SHIFT * pass;
            let low = word.wrapping_add(key.low[of_key]) & HALF;
            let high = (word >> 32).wrapping_add(key.high[of_key]) & HALF;
            *sum = sum.wrapping_add(low * high);
        }
    }
    sums
}

#[cfg(test)]
mod test {
    use super::*;

    fn page(seed: u32) -> Page {
        let mut state = seed;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
    }

    #[test]
    fn every_bit_the_place_and_the_key_matter() {
        let digester = Digester::new([1; 16]);
        let mut page = page(1);
        let tag = digester.tag(5, &page);
        assert_ne!(tag, digester.tag(6, &page));
        assert_ne!(tag, Digester::new([2; 16]).tag(5, &page));
        for bit in 0..8 * PAGE_SIZE {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(tag, digester.tag(5, &page), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(tag, digester.tag(5, &page));
    }

    #[test]
    fn sums_are_those_of_the_format() {
        let mut digester = Digester::new([9; 16]);
        let page = page(2);
        let words: Vec<u32> = page.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let key = &digester.nh_key;
        let nh = |pass: usize| -> u64 {
            let product = |i: usize| {
                let half = |half: u64| u32::try_from(half).expect("half a word");
                let low = words[2 * i].wrapping_add(half(key.low[i + 4 * pass]));
                let high = words[2 * i + 1].wrapping_add(half(key.high[i + 4 * pass]));
                u64::from(low) * u64::from(high)
            };
            (0..512).map(product).fold(0, u64::wrapping_add)
        };
        assert_eq!(nh_inline(&page, key), [nh(0), nh(1), nh(2), nh(3)]);
        let portable = digester.tag(3, &page);
        digester.cpu = Cpu::Any;
        assert_eq!(portable, digester.tag(3, &page), "every machine comes to the same");
    }

    #[test]
    fn uniform_pages_add_nothing() {
        assert_eq!(Digester::new([0; 16]).tag(1, &[7; PAGE_SIZE]), [0; 16]);
    }
}
