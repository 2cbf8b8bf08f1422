//! Guests for tests: memory made from a seed, saved and checked through the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, EngineError, Image, Progress, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

/// A guest of so many pages, none of which can be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) seed: u64,
    pub(crate) pages: u64,
}

/// The words of page `pfn`: its guest's seed, then noise that only this page has.
fn words(seed: u64, pfn: u64) -> impl Iterator<Item = u64> {
    let mut state = seed ^ pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    });
    std::iter::once(seed).chain(noise).take(PAGE_SIZE / 8)
}

struct Tape {
    guest: Guest,
    next: u64,
}

#[async_trait]
impl GuestReader for Tape {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.guest.pages * PAGE_SIZE as u64)
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let count = (self.guest.pages - self.next).min(SEGMENT_PAGES as u64);
        if count == 0 {
            return Ok(None);
        }
        let mut buffer = pool.take_slot().await?;
        let pfns = self.next..self.next + count;
        let words = pfns.flat_map(|pfn| words(self.guest.seed, pfn));
        for (space, word) in buffer.spare().chunks_exact_mut(8).zip(words) {
            space.copy_from_slice(&word.to_le_bytes());
        }
        let count_here = usize::try_from(count).expect("a batch is small");
        buffer.set_len(count_here * PAGE_SIZE);
        let pfns = Pfns::Run { first: self.next, count: count_here };
        self.next += count;
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(buffer) })))
    }
}

/// Compares what is restored with the guest whose seed it shows.
#[derive(Default)]
struct Check {
    guest: Option<Guest>,
}

#[async_trait]
impl GuestWriter for Check {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        let TapeItem::Batch(batch) = item else { return Ok(()) };
        for (pfn, page) in batch.pfns.iter().zip(batch.pages.bytes()?.chunks_exact(PAGE_SIZE)) {
            let mut found = page.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            let seed = u64::from_le_bytes(page[..8].try_into().unwrap());
            let guest = self.guest.get_or_insert(Guest { seed, pages: 0 });
            assert_eq!((guest.seed, guest.pages), (seed, pfn), "a page of another guest or place");
            assert!(found.by_ref().eq(words(seed, pfn)), "page {pfn} is not what was saved");
            guest.pages += 1;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

/// Room for a few segments, so that a save has to COMMIT on its way.
fn engine() -> Engine {
    Engine::new(Arc::new(Inline), Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid)), 40 << 20)
}

/// Saves the guest under `name`.
pub(crate) async fn save(
    storage: &dyn Storage,
    name: &str,
    guest: Guest,
    replace: bool,
) -> Result<(), EngineError> {
    save_seen(storage, name, guest, replace, &Progress::default()).await
}

/// The same, with progress.
pub(crate) async fn save_seen(
    storage: &dyn Storage,
    name: &str,
    guest: Guest,
    replace: bool,
    progress: &Progress,
) -> Result<(), EngineError> {
    static SAVES: AtomicU64 = AtomicU64::new(1);
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&SAVES.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let options = SaveOptions { uuid, created_unix_s: 1, replace };
    let mut reader = Tape { guest, next: 0 };
    engine::save(&engine(), &mut reader, storage, name, &options, progress).await.map(drop)
}

/// Restores the image and compares every page; gives the guest that was in it.
pub(crate) async fn restore(storage: &dyn Storage, name: &str) -> Guest {
    let image = Image::open(storage.open(name).await.expect("open")).await.expect("a whole image");
    let mut check = Check::default();
    engine::restore(&engine(), &image, &mut check, &Progress::default()).await.expect("restore");
    check.guest.expect("a guest has pages")
}
