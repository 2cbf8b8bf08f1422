//! C LZ4 as its own documentation advises for small inputs: one state, reset fast.
#![expect(unsafe_code, reason = "the peer is C")]

use std::ffi::{c_char, c_int, c_void};

use comio_core::ecbc::{BLOB_MAX, PageCode, Tag};
use comio_core::{PAGE_SIZE, Page};
// Links the library.
use lz4_sys as _;

const PAGE_LEN: c_int = 4096;

unsafe extern "C" {
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_compress_fast_extState(
        state: *mut c_void,
        source: *const c_char,
        target: *mut c_char,
        source_len: c_int,
        target_len: c_int,
        acceleration: c_int,
    ) -> c_int;
    fn LZ4_compress_fast_extState_fastReset(
        state: *mut c_void,
        source: *const c_char,
        target: *mut c_char,
        source_len: c_int,
        target_len: c_int,
        acceleration: c_int,
    ) -> c_int;
}

pub(crate) struct Lz4 {
    state: Vec<u64>,
    acceleration: c_int,
}

impl Lz4 {
    pub(crate) fn new(acceleration: c_int) -> Self {
        // SAFETY: touches no memory.
        let bytes = unsafe { LZ4_sizeofState() };
        let mut state = vec![0u64; usize::try_from(bytes).expect("a size").div_ceil(8)];
        let nothing = [0; 1];
        let mut target = [0; 16];
        // SAFETY: the state has the size and alignment that LZ4 asks for; this call initialises
        // it, and stays within the one byte read and the sixteen that may be written.
        unsafe {
            LZ4_compress_fast_extState(
                state.as_mut_ptr().cast(),
                nothing.as_ptr().cast(),
                target.as_mut_ptr().cast::<u8>().cast(),
                1,
                16,
                1,
            );
        }
        Self { state, acceleration }
    }

    pub(crate) fn encode(&mut self, page: &Page, blob: &mut [u8]) -> PageCode {
        assert!(blob.len() >= PAGE_SIZE);
        // SAFETY: the state was initialised in `new` and is only used here; one page is read and
        // at most a page written, for which there is room.
        let len = unsafe {
            LZ4_compress_fast_extState_fastReset(
                self.state.as_mut_ptr().cast(),
                page.as_ptr().cast(),
                blob.as_mut_ptr().cast(),
                PAGE_LEN,
                PAGE_LEN,
                self.acceleration,
            )
        };
        match usize::try_from(len) {
            Ok(len) if (1..=BLOB_MAX).contains(&len) => PageCode::Blob { tag: Tag::Lz4, len },
            _ => PageCode::Stored,
        }
    }
}
