//! C LZ4 as its own documentation advises for small inputs: one state, reset fast.
#![expect(unsafe_code, reason = "the peer is C")]

use std::ffi::{c_char, c_int, c_void};

// Links the library.
use lz4_sys as _;

use super::c_len;
use crate::coder::UnitCoder;

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
}

impl UnitCoder for Lz4 {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        // SAFETY: the state was initialised in `new` and is only used here; the unit is read and
        // at most its length written, for which the code has room.
        let len = unsafe {
            LZ4_compress_fast_extState_fastReset(
                self.state.as_mut_ptr().cast(),
                unit.as_ptr().cast(),
                code[..unit.len()].as_mut_ptr().cast(),
                c_len(unit),
                c_len(unit),
                self.acceleration,
            )
        };
        usize::try_from(len).ok().filter(|&len| len > 0)
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        let (from, to) = (code.as_ptr().cast(), unit.as_mut_ptr().cast());
        // SAFETY: reads no more than the code and writes no more than the unit, whatever the code says.
        let len = unsafe { lz4_sys::LZ4_decompress_safe(from, to, c_len(code), c_len(unit)) };
        usize::try_from(len) == Ok(unit.len())
    }
}
