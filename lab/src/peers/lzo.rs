//! LZO1X-1 by the reference implementation, miniLZO.
#![expect(unsafe_code, reason = "the peer is C")]

use std::ffi::{c_int, c_ulong, c_void};

// Links the library; its safe interface allocates for each call.
use minilzo_rs as _;

use crate::coder::UnitCoder;

/// `LZO1X_1_MEM_COMPRESS` on 64-bit machines.
const WORK_MEMORY: usize = 16384 * 8;

unsafe extern "C" {
    fn lzo1x_1_compress(
        source: *const u8,
        source_len: c_ulong,
        target: *mut u8,
        target_len: *mut c_ulong,
        work: *mut c_void,
    ) -> c_int;
    fn lzo1x_decompress_safe(
        source: *const u8,
        source_len: c_ulong,
        target: *mut u8,
        target_len: *mut c_ulong,
        work: *mut c_void,
    ) -> c_int;
}

pub(crate) struct Lzo {
    work: Vec<u64>,
}

impl Lzo {
    pub(crate) fn new() -> Self {
        Self { work: vec![0; WORK_MEMORY / 8] }
    }
}

impl UnitCoder for Lzo {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        assert!(code.len() >= unit.len() + unit.len() / 16 + 64 + 3, "LZO's worst case");
        let mut len = code.len() as c_ulong;
        // SAFETY: the code has room for LZO's worst case, the work memory is as large as it asks.
        let status = unsafe {
            lzo1x_1_compress(
                unit.as_ptr(),
                unit.len() as c_ulong,
                code.as_mut_ptr(),
                &raw mut len,
                self.work.as_mut_ptr().cast(),
            )
        };
        usize::try_from(len).ok().filter(|&len| status == 0 && len < unit.len())
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        let mut len = unit.len() as c_ulong;
        // SAFETY: the safe variant reads no more than the code and writes no more than `len`
        // bytes; it needs no work memory.
        let status = unsafe {
            lzo1x_decompress_safe(
                code.as_ptr(),
                code.len() as c_ulong,
                unit.as_mut_ptr(),
                &raw mut len,
                std::ptr::null_mut(),
            )
        };
        status == 0 && usize::try_from(len) == Ok(unit.len())
    }
}
