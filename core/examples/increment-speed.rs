//! Saving upon a parent against saving plainly, in CPU time of one thread with everything in
//! memory, so that compression is the bottleneck.
//!
//! `cargo run --release -p comio-core --features testing --example increment-speed -- DUMP`
//!
//! Fails if at any level a save with a tenth of the pages changed is less than 1.5 times as fast as a plain
//! one, or one with all of them changed takes more than 1.15 times as long.

use std::collections::VecDeque;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, Foundation, Image, Progress, Relative, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::tape::{Batch, GuestReader, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::testing::MemoryStorage;
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};
use futures::executor::block_on;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;

struct Dump<'a>(VecDeque<(usize, &'a [u8])>);

impl<'a> Dump<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.chunks(SEGMENT_PAGES * PAGE_SIZE).enumerate().collect())
    }
}

#[async_trait]
impl GuestReader for Dump<'_> {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let Some((number, pages)) = self.0.pop_front() else { return Ok(None) };
        let mut buffer = pool.take_slot().await?;
        buffer.spare()[..pages.len()].copy_from_slice(pages);
        buffer.set_len(pages.len());
        let pfns = Pfns::Run { first: (number * SEGMENT_PAGES) as u64, count: pages.len() / PAGE_SIZE };
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(buffer) })))
    }
}

/// Saves `bytes` and gives the CPU time and the image's length.
fn save(
    method: Method,
    storage: &MemoryStorage,
    name: &str,
    bytes: &[u8],
    foundation: Option<&Foundation>,
) -> Result<(Duration, u64), Box<dyn Error>> {
    let engine = Engine::new(
        Arc::new(Inline),
        Arc::new(EcbcCoder::new(method, Placement::Hybrid).with_digests([7; 16])),
        0,
    );
    let options = SaveOptions { uuid: [name.len().to_le_bytes()[0]; 16], created_unix_s: 0, replace: true };
    let mut dump = Dump::new(bytes);
    let progress = Progress::default();
    let before = cpu_time();
    let report =
        block_on(engine::save_upon(&engine, foundation, &mut dump, storage, name, &options, &progress))?;
    Ok((cpu_time().saturating_sub(before), report.stored_bytes))
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// How a guest changed.
#[derive(Clone, Copy)]
struct Change {
    /// One in so many of its pages that are not one word all over.
    one_in: usize,
    /// Of each, so many percent of the 64-byte blocks, and a byte of the first; 100: it is exchanged.
    percent: usize,
}

const CHANGES: [Change; 9] = [
    Change { one_in: 10, percent: 100 },
    Change { one_in: 10, percent: 0 },
    Change { one_in: 10, percent: 30 },
    Change { one_in: 1, percent: 100 },
    Change { one_in: 1, percent: 0 },
    Change { one_in: 1, percent: 10 },
    Change { one_in: 1, percent: 20 },
    Change { one_in: 1, percent: 50 },
    Change { one_in: 1, percent: 80 },
];

impl Change {
    /// The guest after it: what is new in a page is that of the page half the guest away.
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
        let mut new = bytes.to_vec();
        let mut state = 1u32;
        for (i, page) in new.as_chunks_mut::<PAGE_SIZE>().0.iter_mut().enumerate() {
            let other = &pages[(i + pages.len() / 2) % pages.len()];
            if !i.is_multiple_of(self.one_in) || page.iter().all(|&byte| byte == page[0]) {
                continue;
            }
            if self.percent == 100 {
                *page = *other;
                continue;
            }
            for (to, from) in page.as_chunks_mut::<64>().0.iter_mut().zip(other.as_chunks::<64>().0) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if (state >> 16) as usize % 100 < self.percent {
                    *to = *from;
                }
            }
            page[8] ^= 0x55;
        }
        new
    }

    /// How many times as fast as a plain save one upon the parent must be.
    fn least(self) -> f64 {
        if self.one_in == 1 { 1.0 / 1.15 } else { 1.5 }
    }
}

/// How many times as fast as a plain save one of the changed guest upon the first is, and both lengths.
fn compare(method: Method, bytes: &[u8], new: &[u8]) -> Result<(f64, u64, u64), Box<dyn Error>> {
    let storage = MemoryStorage::new();
    save(method, &storage, "0", bytes, None)?;
    let mut speeds = Vec::new();
    let mut lens = (0, 0);
    for _ in 0..ROUNDS {
        let image = block_on(async { Image::open_with_ancestors(&storage, "0", &[]).await })?;
        let foundation = Foundation::new(Some(Relative { name: "0".into(), image }), None)?;
        let (plain, plain_len) = save(method, &storage, "plain", new, None)?;
        let (upon, len) = save(method, &storage, "increment", new, Some(&foundation))?;
        speeds.push(plain.as_secs_f64() / upon.as_secs_f64());
        lens = (len, plain_len);
    }
    speeds.sort_by(f64::total_cmp);
    Ok((speeds[ROUNDS / 2], lens.0, lens.1))
}

fn main() -> Result<(), Box<dyn Error>> {
    let dump = std::env::args().nth(1).ok_or("usage: increment-speed DUMP [LEVEL...]")?;
    let mut bytes = std::fs::read(&dump)?;
    bytes.truncate(bytes.len() / PAGE_SIZE * PAGE_SIZE);
    let named: Vec<Method> = std::env::args().skip(2).map(|name| name.parse()).collect::<Result<_, _>>()?;
    let methods = if named.is_empty() { Method::LEVELS.to_vec() } else { named };
    let mut missed = false;
    for method in methods {
        for change in CHANGES {
            let (speed, len, plain_len) = compare(method, &bytes, &change.of(&bytes))?;
            let Change { one_in, percent } = change;
            writeln!(
                std::io::stdout(),
                "{method} 1/{one_in} changed, {percent} % of each: {speed:.2} times as fast as plain, {len} of \
                 {plain_len} bytes"
            )?;
            missed |= speed < change.least();
        }
    }
    if missed { Err("slower than accepted".into()) } else { Ok(()) }
}
