//! What does not depend on the guest: memory that is all zero, and memory that cannot shrink.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageEncoder};

use crate::coder::UnitCoder;
use crate::measure::{cpu_time, mb_per_s, median};
use crate::peers::Zstd;

const ZEROS: usize = 1 << 30;
const NOISE: usize = 16 << 20;

/// The limits, as text for people.
pub(crate) fn text(rounds: usize) -> String {
    let mut text = "## Memory that is all zero, and noise\n\n".to_owned();
    zeros(rounds, &mut text);
    noise(rounds, &mut text);
    text
}

/// Classifying zeros against reading them.
fn zeros(rounds: usize, text: &mut String) {
    // Written, so that every page is really there.
    let mut memory = vec![1u8; ZEROS];
    memory.fill(0);
    let mut encoder = PageEncoder::new(Method::Balanced);
    let mut blob = vec![0; BLOB_ROOM];
    let (mut reading, mut classifying) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = cpu_time();
        for chunk in memory.as_chunks::<PAGE_SIZE>().0 {
            let words = chunk.as_chunks::<8>().0.iter();
            black_box(words.fold(0, |sum: u64, word| sum | u64::from_le_bytes(*word)));
        }
        let middle = cpu_time();
        for page in memory.as_chunks::<PAGE_SIZE>().0 {
            black_box(encoder.encode(page, &mut blob));
        }
        reading.push(middle.saturating_sub(start));
        classifying.push(cpu_time().saturating_sub(middle));
    }
    let (read, classified) =
        (mb_per_s(ZEROS, median(&mut reading)), mb_per_s(ZEROS, median(&mut classifying)));
    let _ = writeln!(
        text,
        "Reading a GiB of zeros: {read:.0} MB/s; classifying it: {classified:.0} MB/s, {:.0} % of that.\n",
        classified / read * 100.0
    );
}

/// Each level on noise against zstd -1.
fn noise(rounds: usize, text: &mut String) {
    let memory = noise_memory();
    let mut zstd = Zstd::new(-1, PAGE_SIZE);
    let mut room = vec![0; 2 * PAGE_SIZE];
    let mut encoders = Method::LEVELS.map(|method| (method, PageEncoder::new(method), Vec::new(), 0));
    let mut peer_times: Vec<Duration> = Vec::new();
    for _ in 0..rounds {
        let start = cpu_time();
        for page in memory.as_chunks::<PAGE_SIZE>().0 {
            if black_box(zstd.compress(page, &mut room)).is_none() {
                room[..PAGE_SIZE].copy_from_slice(page);
            }
        }
        peer_times.push(cpu_time().saturating_sub(start));
        for (_, encoder, times, bytes) in &mut encoders {
            let start = cpu_time();
            *bytes = 0;
            for page in memory.as_chunks::<PAGE_SIZE>().0 {
                *bytes += match black_box(encoder.encode(page, &mut room)) {
                    PageCode::Zero | PageCode::Fill(_) => 0,
                    PageCode::Blob { len, .. } => len,
                    PageCode::Stored => {
                        room[..PAGE_SIZE].copy_from_slice(page);
                        PAGE_SIZE
                    }
                };
            }
            times.push(cpu_time().saturating_sub(start));
        }
    }
    let peer = mb_per_s(NOISE, median(&mut peer_times));
    let _ = writeln!(
        text,
        "Noise, {} MiB; an image adds 8 bytes of index to each page (0.2 %):\n\n\
         | level | output / input | MB/s | zstd -1's speed |\n|---|---|---|---|",
        NOISE >> 20
    );
    for (method, _, times, bytes) in &mut encoders {
        let speed = mb_per_s(NOISE, median(times));
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let share = *bytes as f64 / NOISE as f64;
        let _ = writeln!(text, "| {method} | {share:.4} | {speed:.0} | × {:.2} |", speed / peer);
    }
}

/// Numbers that nothing compresses (xorshift).
fn noise_memory() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut memory = vec![0; NOISE];
    for word in memory.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
    }
    memory
}
