//! What a stream compressor is measured on.

use comio_core::PAGE_SIZE;

use super::coder::CodeTable;
use super::pipe::ZERO_CODE_BYTES;
use crate::scenario::Method;
use crate::trace::Trace;

/// The pages of traces that are not zero, and what the nearest per-page coder makes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSample {
    /// The pages, one after the other.
    pub memory: Vec<u8>,
    /// Their size by that coder.
    pub coded_bytes: u64,
}

impl StreamSample {
    /// For the tool of `method`.
    pub fn new(traces: &[Trace], method: Method) -> Self {
        let mut sample = Self { memory: Vec::new(), coded_bytes: 0 };
        for trace in traces {
            let table = CodeTable::new(trace, method.nearest_coder());
            let pages = table.codes().iter().zip(trace.memory().chunks_exact(PAGE_SIZE));
            for (code, page) in pages.filter(|(code, _)| code.len > ZERO_CODE_BYTES) {
                sample.memory.extend_from_slice(page);
                sample.coded_bytes += u64::from(code.len);
            }
        }
        sample
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn zero_pages_are_left_out() {
        let mut memory = vec![0; 3 * PAGE_SIZE];
        for (byte, number) in memory[PAGE_SIZE..2 * PAGE_SIZE].iter_mut().zip(0u32..) {
            *byte = number.wrapping_mul(2_654_435_761).to_le_bytes()[3];
        }
        let trace = Trace::new("t", memory.clone()).unwrap();
        let sample = StreamSample::new(&[trace.clone(), trace], Method::PipeLz4);
        assert_eq!(sample.memory, memory[PAGE_SIZE..2 * PAGE_SIZE].repeat(2));
        assert!((1000..=2 * 4200).contains(&sample.coded_bytes), "{}", sample.coded_bytes);
    }
}
