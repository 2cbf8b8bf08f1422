//! LZ4 blocks of one page or several, by the reference implementation.
#![expect(unsafe_code, reason = "the reference implementation is C")]

use std::ffi::{c_char, c_int, c_void};

/// `LZ4_sizeofState()` of version 1.10 as built by `lz4-sys`, in 64-bit words; checked when a
/// state is made.
const STATE_WORDS: usize = 16416 / 8;

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

/// Compresses with one state that is reused.
pub(super) struct Lz4Encoder {
    state: Box<[u64]>,
    acceleration: c_int,
}

impl Lz4Encoder {
    pub(super) fn new() -> Self {
        Self::accelerated(1)
    }

    /// Faster and looser the higher the `acceleration` is; 1 is LZ4's default.
    pub(super) fn accelerated(acceleration: i32) -> Self {
        // SAFETY: no arguments, no memory touched.
        let size = unsafe { LZ4_sizeofState() };
        assert!(usize::try_from(size).is_ok_and(|size| size <= STATE_WORDS * 8), "lz4 state of {size} bytes");
        Self { state: vec![0; STATE_WORDS].into_boxed_slice(), acceleration }
    }

    /// The length of the block, or `None` if `target` cannot hold it.
    pub(super) fn encode(&mut self, pages: &[u8], target: &mut [u8]) -> Option<usize> {
        let len = c_int::try_from(pages.len()).ok()?;
        let room = c_int::try_from(target.len()).unwrap_or(c_int::MAX);
        // SAFETY: the state is as large and aligned as LZ4 wants it, and is initialised by the
        // call; it reads `len` bytes of the pages and writes at most `room` bytes of the target.
        let len = unsafe {
            LZ4_compress_fast_extState(
                self.state.as_mut_ptr().cast(),
                pages.as_ptr().cast(),
                target.as_mut_ptr().cast(),
                len,
                room,
                self.acceleration,
            )
        };
        usize::try_from(len).ok().filter(|&len| len > 0)
    }
}

/// Whether `blob` was a block that fills exactly `pages`. If not, these are unspecified, but
/// hold no bytes other than their own old ones and the blob's.
pub(super) fn decode(blob: &[u8], pages: &mut [u8]) -> bool {
    let (Ok(len), Ok(room)) = (c_int::try_from(blob.len()), c_int::try_from(pages.len())) else {
        return false;
    };
    // SAFETY: reads at most `len` bytes of the blob and writes at most `room` of the pages,
    // whatever the blob says; offsets before the pages' start are refused by it.
    let written =
        unsafe { lz4_sys::LZ4_decompress_safe(blob.as_ptr().cast(), pages.as_mut_ptr().cast(), len, room) };
    written == room
}
