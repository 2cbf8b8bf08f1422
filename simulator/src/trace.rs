//! Recorded memory, and the guests made from it.
//!
//! A trace is a ComIO image of a recorded guest's memory: what records a guest is what saves
//! it. Traces are named by workload and moment (`desktop-0`, `desktop-1`, …).
//!
//! # The synthesiser
//!
//! Sixty-four guests that are copies of one recording would be no test: caches and
//! deduplication would see one guest. A [`SyntheticGuest`] is made from *runs* of
//! [`RUN_PAGES`] consecutive pages of one trace, in an order drawn for each guest, so that
//! neighbourhood inside a run stays as recorded and shares of page classes stay the trace's.
//! A share of the runs is *private*: each of their bytes is exchanged for one that is about as
//! frequent in the trace, in a way drawn for the guest and the run (`disguise`). Such a page
//! compresses about as the recorded one does, and is equal to no other guest's page, unless it holds
//! very few different bytes. A guest larger than its trace goes through the trace again, in another
//! order, with every further run private, since one guest does not hold its own memory twice.

use std::sync::Arc;

use comio_core::PAGE_SIZE;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;

use crate::aging::Aging;
use crate::disguise::{Exchange, Frequencies};

/// Pages of a run: 512 KiB, the grain at which the shipped traces were recorded.
pub const RUN_PAGES: usize = 128;

/// Recorded memory, held once for all guests made from it.
#[derive(Clone)]
pub struct Trace {
    name: Arc<str>,
    pages: Arc<[u8]>,
    frequencies: Arc<Frequencies>,
}

impl Trace {
    /// A trace of that memory.
    ///
    /// # Errors
    /// [`BadTrace`] if `memory` is empty or not a whole number of pages.
    pub fn new(name: &str, memory: Vec<u8>) -> Result<Self, BadTrace> {
        if memory.is_empty() || !memory.len().is_multiple_of(PAGE_SIZE) {
            return Err(BadTrace { name: name.to_owned(), bytes: memory.len() });
        }
        let frequencies = Arc::new(Frequencies::of(&memory));
        Ok(Self { name: name.into(), pages: memory.into(), frequencies })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it, page after page.
    pub fn memory(&self) -> &[u8] {
        &self.pages
    }

    /// How many pages it holds.
    pub fn page_count(&self) -> usize {
        self.pages.len() / PAGE_SIZE
    }

    /// Contents of a page.
    pub(crate) fn page(&self, index: usize) -> &[u8] {
        &self.pages[index * PAGE_SIZE..(index + 1) * PAGE_SIZE]
    }

    /// The exchange of bytes that `key` and `guest` determine.
    pub(crate) fn exchange(&self, key: u32, guest: u64) -> Exchange {
        self.frequencies.exchange(key, guest)
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("name", &self.name)
            .field("bytes", &self.pages.len())
            .finish_non_exhaustive()
    }
}

/// A recording that is no memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trace {name:?} holds {bytes} bytes; a trace is at least one page of 4096 bytes, and whole pages")]
pub struct BadTrace {
    name: String,
    bytes: usize,
}

/// A run of a guest: where it comes from and what was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First page in the trace.
    first: u32,
    /// Determines, with the guest, how bytes are exchanged; `None` for a run as recorded.
    key: Option<u32>,
}

/// A guest's memory: a plan over a trace, a few bytes for each run.
#[derive(Debug, Clone)]
pub struct SyntheticGuest {
    trace: Trace,
    runs: Vec<Run>,
    number: u64,
    run_pages: usize,
    page_count: usize,
    aging: Aging,
}

impl SyntheticGuest {
    /// A guest of `page_count` pages; `seed` and `number` determine it, `private` (0 to 1) is
    /// the share of runs that occur in no other guest.
    pub fn new(trace: &Trace, page_count: usize, private: f64, seed: u64, number: u64) -> Self {
        let run_pages = RUN_PAGES.min(trace.page_count());
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        random.set_stream(number);
        let mut firsts: Vec<usize> = (0..trace.page_count() / run_pages).map(|run| run * run_pages).collect();
        let wanted = page_count.div_ceil(run_pages);
        let mut runs = Vec::with_capacity(wanted);
        let mut first_pass = true;
        while runs.len() < wanted {
            firsts.shuffle(&mut random);
            for &first in firsts.iter().take(wanted - runs.len()) {
                let alike = first_pass && !random.random_bool(private);
                let key = if alike { None } else { Some(random.random()) };
                // A trace is in memory: its page numbers fit 32 bits up to 16 TiB.
                let first = u32::try_from(first).unwrap_or(u32::MAX);
                runs.push(Run { first, key });
            }
            first_pass = false;
        }
        let aging = Aging { seed: random.random(), nights: 0, changed: 0.0 };
        Self { trace: trace.clone(), runs, number, run_pages, page_count, aging }
    }

    /// The same guest after `nights`, each of which changes a share (0 to 1) of its pages.
    #[must_use]
    pub fn after(self, nights: u32, changed: f64) -> Self {
        Self { aging: Aging { nights, changed, ..self.aging }, ..self }
    }

    /// How many pages the guest has.
    pub fn page_count(&self) -> usize {
        self.page_count
    }

    /// The trace it is made from.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Which page of the trace page `pfn` was made from on the first night.
    pub fn origin(&self, pfn: usize) -> usize {
        let run = self.runs[pfn / self.run_pages];
        run.first as usize + pfn % self.run_pages
    }

    /// Whether page `pfn` is of a private run.
    ///
    /// # Panics
    /// If `pfn` is beyond the guest.
    pub fn is_private(&self, pfn: usize) -> bool {
        self.runs[pfn / self.run_pages].key.is_some()
    }

    /// Writes the contents of page `pfn` into `page`.
    ///
    /// # Panics
    /// If `pfn` is beyond the guest or `page` is not a page.
    pub fn read(&self, pfn: usize, page: &mut [u8]) {
        assert!(pfn < self.page_count, "page {pfn} of a guest of {}", self.page_count);
        page.copy_from_slice(self.trace.page(self.origin(pfn)));
        if let Some(key) = self.runs[pfn / self.run_pages].key {
            self.trace.exchange(key, self.number).apply(page);
        }
        self.aging.apply(&self.trace, pfn, page);
    }

    /// Whether page `pfn` has exactly the contents `page`.
    pub fn matches(&self, pfn: usize, page: &[u8]) -> bool {
        if pfn >= self.page_count {
            return false;
        }
        if self.aging.nights > 0 {
            let mut own = [0; PAGE_SIZE];
            self.read(pfn, &mut own);
            return page == own;
        }
        let recorded = self.trace.page(self.origin(pfn));
        match self.runs[pfn / self.run_pages].key {
            None => recorded == page,
            Some(key) => self.trace.exchange(key, self.number).gives(recorded, page),
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A trace whose pages are all different and half zero.
    pub(crate) fn numbered_trace(pages: usize) -> Trace {
        let mut memory = vec![0; pages * PAGE_SIZE];
        for (number, page) in (0u64..).zip(memory.chunks_mut(PAGE_SIZE)) {
            for word in page[..PAGE_SIZE / 2].chunks_mut(8) {
                word.copy_from_slice(&(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            }
        }
        Trace::new("numbered", memory).unwrap()
    }

    fn contents(guest: &SyntheticGuest) -> Vec<Vec<u8>> {
        let page = |pfn| {
            let mut page = vec![0; PAGE_SIZE];
            guest.read(pfn, &mut page);
            page
        };
        (0..guest.page_count()).map(page).collect()
    }

    #[test]
    fn the_seed_determines_the_guest() {
        let trace = numbered_trace(1024);
        let guest = |number| contents(&SyntheticGuest::new(&trace, 1024, 0.5, 7, number));
        assert_eq!(guest(3), guest(3));
        assert_ne!(guest(3), guest(4));
    }

    #[test]
    fn guests_share_what_is_not_private() {
        let trace = numbered_trace(8192);
        let pages = |number| -> BTreeSet<_> {
            contents(&SyntheticGuest::new(&trace, 8192, 0.5, 1, number)).into_iter().collect()
        };
        let (first, second) = (pages(1), pages(2));
        let shared = first.intersection(&second).count();
        // A quarter: both guests must have left the run as it is. 64 runs, so wide bounds.
        assert!((1024..3072).contains(&shared), "{shared} of 8192 pages are shared");
    }

    #[test]
    fn a_guest_larger_than_its_trace_repeats_no_page() {
        let trace = numbered_trace(256);
        let guest = SyntheticGuest::new(&trace, 1000, 0.0, 1, 1);
        let distinct: BTreeSet<_> = contents(&guest).into_iter().collect();
        assert_eq!(distinct.len(), 1000);
    }

    #[test]
    fn private_pages_keep_zeros_and_repetitions() {
        let trace = numbered_trace(128);
        let guest = SyntheticGuest::new(&trace, 128, 1.0, 1, 1);
        for page in contents(&guest) {
            assert!(page[PAGE_SIZE / 2..].iter().all(|&byte| byte == 0));
            assert!(page[..PAGE_SIZE / 2].chunks(8).all(|word| word == &page[..8]));
        }
    }

    #[test]
    fn a_trace_of_part_of_a_page_is_refused() {
        assert!(Trace::new("x", vec![0; 100]).is_err());
        assert!(Trace::new("x", Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn matches_tells_the_smallest_difference(
            pfn in 0usize..300, byte in 0usize..PAGE_SIZE, flip in 1u8.., private in 0.0..=1.0f64,
        ) {
            let guest = SyntheticGuest::new(&numbered_trace(200), 300, private, 5, 1);
            let mut page = vec![0; PAGE_SIZE];
            guest.read(pfn, &mut page);
            prop_assert!(guest.matches(pfn, &page));
            page[byte] ^= flip;
            prop_assert!(!guest.matches(pfn, &page));
        }
    }
}
