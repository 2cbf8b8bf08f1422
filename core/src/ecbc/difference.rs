//! A page as the difference to another one: packed page LZ or a zstd block whose matches may reach
//! back into the base page.
//!
//! Where much stands at the same places in both, packed page LZ takes less room and a tenth of the time.
//! zstd is for pages that are alike elsewhere. As with pages alone, its frame and block headers follow from the blob's length and
//! are cut off, which leaves a hostile blob nothing to say about windows, dictionaries or blocks.

use std::fmt;

use zstd_safe::{CCtx, DCtx};

use super::Method;
use super::cpu::Cpu;
use super::page_lz::packed::upon::{Looks, UponDecoder, UponEncoder};
use crate::{PAGE_SIZE, Page};

/// Magic; frame header (single segment, two bytes of content size); content size less 256.
const FRAME_HEADER: [u8; 7] = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f];
const HEADER: usize = FRAME_HEADER.len() + 3;
/// A base that begins like this would be taken for a trained dictionary, not for a page.
const DICTIONARY_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();
/// zstd's levels. The higher one looks at more places of the base: for a page of another boot
/// that is a tenth of the difference, and twice the time.
const LEVEL_FAST: i32 = 3;
const LEVEL: i32 = 6;

fn header(blob_len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (frame, block) = header.split_at_mut(FRAME_HEADER.len());
    frame.copy_from_slice(&FRAME_HEADER);
    // Block header, 24 bits: last block, type 2 (compressed), length.
    #[expect(clippy::cast_possible_truncation, reason = "blobs are shorter than a page")]
    let bits = (1 | 2 << 1 | (blob_len as u32) << 3).to_le_bytes();
    block.copy_from_slice(&bits[..3]);
    header
}

fn is_dictionary(base: &Page) -> bool {
    base.starts_with(&DICTIONARY_MAGIC)
}

/// What a difference is coded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceCoder {
    /// A zstd block with the base as dictionary.
    Zstd,
    /// Packed page LZ upon the base.
    PackedLz,
}

/// Codes differences; its memory is reused.
pub(crate) struct DifferenceEncoder {
    upon: UponEncoder,
    level: i32,
    context: CCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl DifferenceEncoder {
    pub(crate) fn new(method: Method) -> Self {
        let level = if matches!(method, Method::Balanced | Method::Dense) { LEVEL } else { LEVEL_FAST };
        let looks = match method {
            Method::Turbo | Method::Lz4 | Method::Raw => Looks { few_words: 512, patience_log: 0 },
            Method::Fast => Looks { few_words: 64, patience_log: 2 },
            _ => Looks { few_words: 8, patience_log: 4 },
        };
        Self {
            upon: UponEncoder::new(Cpu::detect(), looks),
            level,
            context: CCtx::create(),
            frame: Box::new([0; PAGE_SIZE + HEADER]),
        }
    }

    /// Appends the difference of `page` to `base` by `coder`, if it is shorter than `limit` bytes;
    /// gives its length.
    pub(crate) fn encode(
        &mut self,
        coder: DifferenceCoder,
        page: &Page,
        base: &Page,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        match coder {
            DifferenceCoder::Zstd => self.encode_by_zstd(page, base, limit, out),
            DifferenceCoder::PackedLz => self.upon.encode(page, base, limit, out),
        }
    }

    fn encode_by_zstd(&mut self, page: &Page, base: &Page, limit: usize, out: &mut Vec<u8>) -> Option<usize> {
        if is_dictionary(base) {
            return None;
        }
        let target = self.frame.as_mut_slice();
        let len = self.context.compress_using_dict(target, page, base, self.level).ok()?;
        let (head, blob) = self.frame.get(..len)?.split_at_checked(HEADER)?;
        // Anything but one compressed block did not shrink.
        if blob.len() >= limit || head != header(blob.len()) {
            return None;
        }
        out.extend_from_slice(blob);
        Some(blob.len())
    }
}

impl fmt::Debug for DifferenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DifferenceEncoder").finish_non_exhaustive()
    }
}

/// Decodes differences; its memory is reused.
pub(super) struct DifferenceDecoder {
    upon: UponDecoder,
    context: DCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl DifferenceDecoder {
    pub(super) fn new(cpu: Cpu) -> Self {
        Self {
            upon: UponDecoder::new(cpu),
            context: DCtx::create(),
            frame: Box::new([0; PAGE_SIZE + HEADER]),
        }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is unspecified.
    pub(super) fn decode(
        &mut self,
        coder: DifferenceCoder,
        blob: &[u8],
        base: &Page,
        page: &mut Page,
    ) -> bool {
        match coder {
            DifferenceCoder::Zstd => self.decode_by_zstd(blob, base, page),
            DifferenceCoder::PackedLz => self.upon.decode(blob, base, page),
        }
    }

    fn decode_by_zstd(&mut self, blob: &[u8], base: &Page, page: &mut Page) -> bool {
        let Some(frame) = self.frame.get_mut(..HEADER + blob.len()) else { return false };
        if is_dictionary(base) {
            return false;
        }
        let (head, body) = frame.split_at_mut(HEADER);
        head.copy_from_slice(&header(blob.len()));
        body.copy_from_slice(blob);
        self.context.decompress_using_dict(page.as_mut_slice(), frame, base) == Ok(PAGE_SIZE)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn text(seed: u32) -> Page {
        let mut state = seed;
        let mut page = [0; PAGE_SIZE];
        for byte in &mut page {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
        page
    }

    const CODERS: [DifferenceCoder; 2] = [DifferenceCoder::Zstd, DifferenceCoder::PackedLz];

    fn coded(coder: DifferenceCoder, page: &Page, base: &Page) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        DifferenceEncoder::new(Method::Balanced).encode(coder, page, base, PAGE_SIZE, &mut out)?;
        Some(out)
    }

    fn decoded(coder: DifferenceCoder, blob: &[u8], base: &Page) -> Option<Page> {
        let page = |cpu| {
            let mut page = [0; PAGE_SIZE];
            DifferenceDecoder::new(cpu).decode(coder, blob, base, &mut page).then_some(page)
        };
        let decoded = page(Cpu::detect());
        assert!(decoded == page(Cpu::Any), "the CPU makes no difference");
        decoded
    }

    #[test]
    fn a_small_change_is_a_small_difference() {
        let base = text(1);
        let mut page = base;
        page[1000..1008].copy_from_slice(b"changed!");
        for coder in CODERS {
            let blob = coded(coder, &page, &base).expect("shrinks");
            assert!(blob.len() < 64, "{}", blob.len());
            assert!(decoded(coder, &blob, &base) == Some(page));
        }
    }

    #[test]
    fn pages_of_every_likeness_come_back() {
        let (base, other) = (text(4), text(5));
        for step in [1, 3, 7, 8, 20, 64, 700, 4000] {
            for changed in 0..step.min(70) {
                let page: Page = std::array::from_fn(|i| if i % step < changed { other[i] } else { base[i] });
                let mut moved = page;
                moved.rotate_left(step);
                for page in [page, moved] {
                    for coder in CODERS {
                        let Some(blob) = coded(coder, &page, &base) else { continue };
                        assert!(decoded(coder, &blob, &base) == Some(page), "{coder:?} {step} {changed}");
                    }
                }
            }
        }
    }

    #[test]
    fn damage_and_wrong_bases_give_no_panic() {
        let base = text(2);
        let mut page = base;
        page[7] ^= 1;
        page[4000] ^= 8;
        for coder in CODERS {
            let whole = coded(coder, &page, &base).expect("shrinks");
            let mut decoder = DifferenceDecoder::new(Cpu::detect());
            let mut back = [0; PAGE_SIZE];
            for bit in 0..whole.len() * 8 {
                let mut blob = whole.clone();
                blob[bit / 8] ^= 1 << (bit % 8);
                decoder.decode(coder, &blob, &base, &mut back);
            }
            for len in 0..whole.len() {
                assert!(!decoder.decode(coder, &whole[..len], &base, &mut back), "cut off");
            }
            assert!(!decoder.decode(coder, &vec![1; 5000], &base, &mut back));
            assert!(decoder.decode(coder, &whole, &base, &mut back) && back == page, "usable again");
        }
    }

    #[test]
    fn a_page_that_looks_like_a_dictionary_is_no_base_for_zstd() {
        let mut base = text(3);
        base[..4].copy_from_slice(&DICTIONARY_MAGIC);
        let mut page = base;
        page[9] ^= 1;
        assert_eq!(coded(DifferenceCoder::Zstd, &page, &base), None);
        assert_eq!(decoded(DifferenceCoder::Zstd, &[0; 10], &base), None);
    }
}
