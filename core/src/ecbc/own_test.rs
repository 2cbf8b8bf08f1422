//! The coders of our own, without those in C, so that Miri can run it:
//! `cargo +nightly miri test -p comio-core --lib own_test`, with `RUSTFLAGS=-Ctarget-cpu=haswell` for
//! the variants of newer CPUs.

use super::cpu::Cpu;
use super::page_lz::packed::{Balanced, PackedDecoder, PackedEncoder};
use super::page_lz::{FastPageLzEncoder, PageLzDecoder};
use super::words::{WordsDecoder, WordsEncoder};
use crate::{PAGE_SIZE, Page};

type Encode<'a> = &'a mut dyn FnMut(&Page, &mut [u8]) -> Option<usize>;
type Decode<'a> = &'a mut dyn FnMut(&[u8], &mut Page) -> bool;

/// Miri takes a thousand times as long.
const PAGES: u64 = if cfg!(miri) { 1 } else { 300 };
const DAMAGES: u64 = if cfg!(miri) { 3 } else { 100 };

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Zeros, pointers, small numbers, text and noise, in runs of up to 16 words.
fn page(random: &mut Random) -> Page {
    let mut page = [0; PAGE_SIZE];
    let (mut kind, mut left) = (0, 0);
    for (i, word) in (0u64..).zip(page.as_chunks_mut::<8>().0) {
        if left == 0 {
            (kind, left) = (random.below(5), 1 + random.below(16));
        }
        left -= 1;
        let text = u64::from_le_bytes(*b"of words");
        let kinds = [0, 0x7f12_3456_0000 + i * 64, random.next() & 0xff, random.next(), text];
        *word = kinds[kind].to_le_bytes();
    }
    page
}

fn check(seed: u64, encode: Encode<'_>, decode: Decode<'_>, plainly: Decode<'_>) {
    let mut random = Random(seed);
    let mut blob = [0; PAGE_SIZE];
    let mut coded = 0;
    for _ in 0..PAGES {
        let page = page(&mut random);
        let Some(len) = encode(&page, &mut blob) else { continue };
        coded += 1;
        let (mut one, mut two) = ([1; PAGE_SIZE], [2; PAGE_SIZE]);
        assert!(decode(&blob[..len], &mut one) && one == page);
        assert!(plainly(&blob[..len], &mut two) && two == page);
        for _ in 0..DAMAGES {
            let mut damaged = blob[..len].to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(len);
                damaged[at] = random.next().to_le_bytes()[0];
            }
            damaged.truncate(len - random.below(2) * random.below(len));
            let is_page = decode(&damaged, &mut one);
            assert_eq!(is_page, plainly(&damaged, &mut two));
            assert!(!is_page || one == two);
        }
    }
    assert!(coded > 0, "no page shrank");
}

#[test]
fn page_lz_takes_whatever_comes() {
    let (mut decoder, mut plain) = (PageLzDecoder::new(Cpu::detect()), PageLzDecoder::new(Cpu::Any));
    for (cpu, seed) in [Cpu::detect(), Cpu::Any].into_iter().zip(1..) {
        let mut encoder = FastPageLzEncoder::new(cpu);
        check(
            seed,
            &mut |page, blob| encoder.encode(page, blob),
            &mut |blob, page| decoder.decode(blob, page),
            &mut |blob, page| plain.decode(blob, page),
        );
    }
}

#[test]
fn packed_page_lz_takes_whatever_comes() {
    let (mut decoder, mut plain) = (PackedDecoder::new(Cpu::detect()), PackedDecoder::new(Cpu::Any));
    let mut encoder = PackedEncoder::<Balanced>::new(Cpu::detect());
    check(
        3,
        &mut |page, blob| encoder.encode(page, blob),
        &mut |blob, page| decoder.decode(blob, page),
        &mut |blob, page| plain.decode(blob, page),
    );
}

#[test]
fn words_take_whatever_comes() {
    let (mut decoder, mut plain) = (WordsDecoder::new(Cpu::detect()), WordsDecoder::new(Cpu::Any));
    let mut encoder = WordsEncoder::new(Cpu::detect());
    check(
        4,
        &mut |page, blob| encoder.encode(page, blob),
        &mut |blob, page| decoder.decode(blob, page),
        &mut |blob, page| plain.decode(blob, page),
    );
}
