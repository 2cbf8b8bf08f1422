//! Guests made from shipped traces: distinct, alike as far as they should be, and of the same
//! page classes as the recording.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::compute::{Compute, Inline};
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, Image, Progress};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{GuestWriter, TapeError, TapeItem};
use comio_core::testing::MemoryStorage;
use comio_core::{PAGE_SIZE, ecbc};
use comio_simulator::model::coder::CodeTable;
use comio_simulator::trace::{SyntheticGuest, Trace};
use futures::executor::block_on;
use xxhash_rust::xxh3::xxh3_128;

#[derive(Default)]
struct Memory(Vec<u8>);

#[async_trait]
impl GuestWriter for Memory {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        if let TapeItem::Batch(batch) = item {
            self.0.extend_from_slice(&batch.pages.into_bytes()?);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

fn shipped(name: &str) -> Trace {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scenarios/traces");
    let storage = MemoryStorage::default();
    storage.insert("t", std::fs::read(directory.join(format!("{name}.comio"))).unwrap());
    let compute: Arc<dyn Compute> = Arc::new(Inline);
    let engine = Engine::new(compute, Arc::new(EcbcCoder::new(Method::Raw, Placement::Hybrid)), 64 << 20);
    let mut memory = Memory::default();
    block_on(async {
        let image = Image::open(storage.open("t").await?).await?;
        engine::restore(&engine, &image, &mut memory, &Progress::default()).await
    })
    .unwrap();
    Trace::new(name, memory.0).unwrap()
}

fn contents(guest: &SyntheticGuest) -> Vec<u8> {
    let mut memory = vec![0; guest.page_count() * PAGE_SIZE];
    for (pfn, page) in memory.chunks_mut(PAGE_SIZE).enumerate() {
        guest.read(pfn, page);
    }
    memory
}

fn tally(method: Method, memory: Vec<u8>) -> ecbc::Tally {
    CodeTable::new(&Trace::new("guest", memory).unwrap(), method).tally()
}

#[expect(clippy::cast_precision_loss, reason = "shares")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn page_classes_and_sizes_stay_the_recordings() {
    for name in ["desktop-0", "idle-0", "postgres-0"] {
        let trace = shipped(name);
        // Twice the recording's size: the second time round every run is private.
        for (pages, number) in [(trace.page_count(), 1), (2 * trace.page_count(), 2)] {
            let guest = contents(&SyntheticGuest::new(&trace, pages, 0.6, 7, number));
            // Fixed code tables expect certain bytes in certain company, which an exchange disturbs.
            for (method, ratio_max) in [(Method::Fast, 1.01), (Method::Dense, 1.01), (Method::Balanced, 1.12)]
            {
                let recorded = tally(method, trace.memory().to_vec());
                let made = tally(method, guest.clone());
                for (tag, (&before, &now)) in recorded.pages.iter().zip(&made.pages).enumerate() {
                    let of = |count: u64, pages: usize| share(usize::try_from(count).unwrap(), pages);
                    let moved = (of(now, pages) - of(before, trace.page_count())).abs();
                    assert!(moved < 0.03, "{name}: class {tag} moved by {moved:.4} in a guest of {pages}");
                }
                let bytes = |tally: &ecbc::Tally| usize::try_from(tally.bytes.iter().sum::<u64>()).unwrap();
                let ratio = share(bytes(&made), pages) / share(bytes(&recorded), trace.page_count());
                assert!((0.96..ratio_max).contains(&ratio), "{name}, {method}: {ratio:.4} of the recording");
            }
        }
    }
}

/// Which share of the pages that are not all one byte occurs in another guest of the herd.
fn shared(trace: &Trace, pages: usize, private: f64, guests: u64) -> f64 {
    let mut owners: BTreeMap<u128, BTreeMap<u64, usize>> = BTreeMap::new();
    let mut page = vec![0; PAGE_SIZE];
    for number in 0..guests {
        let guest = SyntheticGuest::new(trace, pages, private, 3, number);
        for pfn in 0..pages {
            guest.read(pfn, &mut page);
            if page.iter().any(|byte| *byte != page[0]) {
                *owners.entry(xxh3_128(&page)).or_default().entry(number).or_default() += 1;
            }
        }
    }
    let count = |owners: &BTreeMap<u64, usize>| owners.values().sum::<usize>();
    let alike = owners.values().filter(|owners| owners.len() > 1).map(count).sum();
    share(alike, owners.values().map(count).sum())
}

#[test]
fn a_herd_shares_what_is_not_private_and_nothing_else() {
    let trace = shipped("desktop-0");
    for private in [0.3, 0.6] {
        let found = shared(&trace, trace.page_count(), private, 16);
        assert!((found - (1.0 - private)).abs() < 0.08, "{found:.3} are shared at {private} private");
    }
    // Of 64 guests that share nothing, none is another's copy in any page that tells something.
    let found = shared(&trace, 2048, 1.0, 64);
    assert!(found < 0.02, "{found:.4} are shared though all is private");
}
