//! Saving upon a parent against saving plainly, in CPU time of one thread with everything in
//! memory, so that compression is the bottleneck.
//!
//! `cargo run --release -p comio-core --features testing --example increment-speed -- DUMP`
//!
//! Fails if a save with a tenth of the pages changed is less than 1.5 times as fast as a plain
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

/// Every `one_in`th page exchanged for the one half the guest away.
fn changed(bytes: &[u8], one_in: usize) -> Vec<u8> {
    let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
    let half = pages.len() / 2;
    let page = |i: usize| if i.is_multiple_of(one_in) { &pages[(i + half) % pages.len()] } else { &pages[i] };
    (0..pages.len()).flat_map(page).copied().collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let dump = std::env::args().nth(1).ok_or("usage: increment-speed DUMP")?;
    let mut bytes = std::fs::read(&dump)?;
    bytes.truncate(bytes.len() / PAGE_SIZE * PAGE_SIZE);
    let mut missed = false;
    for method in [Method::Fast, Method::Balanced, Method::Dense] {
        for (one_in, least) in [(10, 1.5), (1, 1.0 / 1.15)] {
            let new = changed(&bytes, one_in);
            let mut speeds = Vec::new();
            let mut lens = (0, 0);
            for _ in 0..ROUNDS {
                let storage = MemoryStorage::new();
                save(method, &storage, "0", &bytes, None)?;
                let image = block_on(async { Image::open_with_ancestors(&storage, "0", &[]).await })?;
                let foundation = Foundation::new(Some(Relative { name: "0".into(), image }), None)?;
                let (plain, plain_len) = save(method, &storage, "plain", &new, None)?;
                let (upon, len) = save(method, &storage, "increment", &new, Some(&foundation))?;
                speeds.push(plain.as_secs_f64() / upon.as_secs_f64());
                lens = (len, plain_len);
            }
            speeds.sort_by(f64::total_cmp);
            let median = speeds[ROUNDS / 2];
            writeln!(
                std::io::stdout(),
                "{method} 1/{one_in} changed: {median:.2} times as fast as plain, {} of {} bytes",
                lens.0,
                lens.1
            )?;
            missed |= median < least;
        }
    }
    if missed { Err("slower than accepted".into()) } else { Ok(()) }
}
