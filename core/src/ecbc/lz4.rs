//! LZ4 blocks of one page, by the reference implementation.
#![expect(unsafe_code, reason = "the reference implementation is C")]

use std::ffi::{c_char, c_int, c_void};

use crate::{PAGE_SIZE, Page};

/// `LZ4_sizeofState()` of version 1.10 as built by `lz4-sys`, in 64-bit words; checked when a
/// state is made.
const STATE_WORDS: usize = 16416 / 8;

// A page's length as C counts.
const PAGE_LEN: c_int = 4096;
const _: () = assert!(PAGE_LEN as usize == PAGE_SIZE);

unsafe extern "C" {
    // `lz4-sys` links these but does not declare them.
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_compress_fast_extState(
        state: *mut c_void,
        source: *const c_char,
        target: *mut c_char,
        source_len: c_int,
        target_len: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// Compresses pages with one state that is reused.
pub(super) struct Lz4Encoder {
    state: Box<[u64]>,
}

impl Lz4Encoder {
    pub(super) fn new() -> Self {
        // SAFETY: no arguments, no memory touched.
        let size = unsafe { LZ4_sizeofState() };
        assert!(usize::try_from(size).is_ok_and(|size| size <= STATE_WORDS * 8), "lz4 state of {size} bytes");
        Self { state: vec![0; STATE_WORDS].into_boxed_slice() }
    }

    /// The length of the block, or `None` if `target` cannot hold it.
    pub(super) fn encode(&mut self, page: &Page, target: &mut [u8]) -> Option<usize> {
        let room = c_int::try_from(target.len()).unwrap_or(c_int::MAX);
        // SAFETY: the state is as large and aligned as LZ4 wants it, and is initialised by the
        // call; it reads PAGE_LEN bytes of the page and writes at most `room` bytes of the target.
        let len = unsafe {
            LZ4_compress_fast_extState(
                self.state.as_mut_ptr().cast(),
                page.as_ptr().cast(),
                target.as_mut_ptr().cast(),
                PAGE_LEN,
                room,
                1,
            )
        };
        usize::try_from(len).ok().filter(|&len| len > 0)
    }
}

/// Whether `blob` was a block that gives exactly one page. If not, `page` is unspecified, but
/// holds no bytes other than its own old ones and the blob's.
pub(super) fn decode(blob: &[u8], page: &mut Page) -> bool {
    let Ok(len) = c_int::try_from(blob.len()) else { return false };
    // SAFETY: reads at most `len` bytes of the blob and writes at most PAGE_LEN of the page,
    // whatever the blob says; offsets before the page's start are refused by it.
    let written = unsafe {
        lz4_sys::LZ4_decompress_safe(blob.as_ptr().cast(), page.as_mut_ptr().cast(), len, PAGE_LEN)
    };
    written == PAGE_LEN
}
