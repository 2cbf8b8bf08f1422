//! A page as the difference to another one: a zstd block whose matches may reach back into
//! the base page.
//!
//! As with pages alone, the frame and block headers follow from the blob's length and are cut
//! off, which leaves a hostile blob nothing to say about windows, dictionaries or blocks.

use std::fmt;

use zstd_safe::{CCtx, DCtx};

use super::Method;
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

/// Codes differences with one context that is reused.
pub(crate) struct DifferenceEncoder {
    level: i32,
    context: CCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl DifferenceEncoder {
    pub(crate) fn new(method: Method) -> Self {
        let level = if matches!(method, Method::Balanced | Method::Dense) { LEVEL } else { LEVEL_FAST };
        Self { level, context: CCtx::create(), frame: Box::new([0; PAGE_SIZE + HEADER]) }
    }

    /// Appends the difference of `page` to `base`, if it is shorter than `limit` bytes; gives
    /// its length.
    pub(crate) fn encode(
        &mut self,
        page: &Page,
        base: &Page,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
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

/// Decodes differences with one context that is reused.
pub(super) struct DifferenceDecoder {
    context: DCtx<'static>,
    frame: Box<[u8; PAGE_SIZE + HEADER]>,
}

impl DifferenceDecoder {
    pub(super) fn new() -> Self {
        Self { context: DCtx::create(), frame: Box::new([0; PAGE_SIZE + HEADER]) }
    }

    /// Whether `blob` gave exactly one page. If not, `page` is unspecified.
    pub(super) fn decode(&mut self, blob: &[u8], base: &Page, page: &mut Page) -> bool {
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

    fn coded(page: &Page, base: &Page) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        DifferenceEncoder::new(Method::Balanced).encode(page, base, PAGE_SIZE, &mut out).map(|_| out)
    }

    #[test]
    fn a_small_change_is_a_small_difference() {
        let base = text(1);
        let mut page = base;
        page[1000..1008].copy_from_slice(b"changed!");
        let blob = coded(&page, &base).expect("shrinks");
        assert!(blob.len() < 64, "{}", blob.len());
        let mut back = [0; PAGE_SIZE];
        assert!(DifferenceDecoder::new().decode(&blob, &base, &mut back));
        assert!(back == page);
    }

    #[test]
    fn damage_and_wrong_bases_give_no_panic() {
        let base = text(2);
        let mut page = base;
        page[7] ^= 1;
        page[4000] ^= 8;
        let blob = coded(&page, &base).expect("shrinks");
        let mut decoder = DifferenceDecoder::new();
        let mut back = [0; PAGE_SIZE];
        for bit in 0..blob.len() * 8 {
            let mut blob = blob.clone();
            blob[bit / 8] ^= 1 << (bit % 8);
            decoder.decode(&blob, &base, &mut back);
        }
        assert!(!decoder.decode(&vec![1; 5000], &base, &mut back));
        assert!(decoder.decode(&blob, &base, &mut back) && back == page, "the context is usable again");
    }

    #[test]
    fn a_page_that_looks_like_a_dictionary_is_no_base() {
        let mut base = text(3);
        base[..4].copy_from_slice(&DICTIONARY_MAGIC);
        let mut page = base;
        page[9] ^= 1;
        assert_eq!(coded(&page, &base), None);
        assert!(!DifferenceDecoder::new().decode(&[0; 10], &base, &mut page));
    }
}
