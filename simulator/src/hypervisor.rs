//! A hypervisor whose guests replay recorded memory.
//!
//! It holds no whole guest: pages are made from the trace when the engine reads them, and
//! what a restore writes is compared, page by page, with what the guest had, and forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, BufferPool, Payload};
use comio_core::compute::{self, Compute, Work};
use comio_core::hypervisor::{GuestInfo, HeldGuest, Hypervisor, HypervisorError, NewGuest};
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use crate::trace::SyntheticGuest;

/// Guests made from traces.
#[derive(Clone)]
pub struct TraceHypervisor {
    shared: Arc<Shared>,
}

struct Shared {
    compute: Arc<dyn Compute>,
    guests: Mutex<BTreeMap<String, Guest>>,
}

struct Guest {
    memory: Arc<SyntheticGuest>,
    state: GuestState,
}

/// Where in its life a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// It runs.
    Running,
    /// It is held while its image is made.
    Held,
    /// It was saved and is gone.
    Saved,
    /// It is being created again.
    Restoring,
    /// It runs again; whether every page is what it was.
    Restored {
        /// Every page was written once, with its old contents.
        identical: bool,
    },
}

impl TraceHypervisor {
    /// A hypervisor of these guests, all running. Pages are copied and compared on `compute`,
    /// as a real hypervisor's copying takes a core's time.
    pub fn new(
        compute: Arc<dyn Compute>,
        guests: impl IntoIterator<Item = (String, SyntheticGuest)>,
    ) -> Self {
        let running = |memory| Guest { memory: Arc::new(memory), state: GuestState::Running };
        let guests = guests.into_iter().map(|(name, memory)| (name, running(memory))).collect();
        Self { shared: Arc::new(Shared { compute, guests: Mutex::new(guests) }) }
    }

    /// The state of a guest, if there is one of that name.
    pub fn state(&self, guest: &str) -> Option<GuestState> {
        self.shared.with(|guests| guests.get(guest).map(|guest| guest.state))
    }
}

impl std::fmt::Debug for TraceHypervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let guests = self.shared.with(|guests| guests.len());
        f.debug_struct("TraceHypervisor").field("guests", &guests).finish_non_exhaustive()
    }
}

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Guest>) -> T) -> T {
        look(&mut self.guests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves `guest` from one state to another and gives its memory.
    fn change(
        &self,
        name: &str,
        action: &'static str,
        allowed: impl FnOnce(GuestState) -> bool,
        to: GuestState,
    ) -> Result<Arc<SyntheticGuest>, HypervisorError> {
        self.with(|guests| {
            let guest = guests.get_mut(name).ok_or_else(|| HypervisorError::NotFound(name.to_owned()))?;
            if !allowed(guest.state) {
                return Err(HypervisorError::Refused {
                    action,
                    guest: name.to_owned(),
                    problem: format!("it is {:?}", guest.state),
                });
            }
            guest.state = to;
            Ok(Arc::clone(&guest.memory))
        })
    }
}

fn runs(state: GuestState) -> bool {
    matches!(state, GuestState::Running | GuestState::Restored { .. })
}

#[async_trait]
impl Hypervisor for TraceHypervisor {
    async fn list(&self) -> Result<Vec<GuestInfo>, HypervisorError> {
        Ok(self.shared.with(|guests| {
            let alive = |guest: &Guest| !matches!(guest.state, GuestState::Saved | GuestState::Restoring);
            let info = |(name, guest): (&String, &Guest)| GuestInfo {
                name: name.clone(),
                memory_bytes: (guest.memory.page_count() * PAGE_SIZE) as u64,
                running: runs(guest.state),
            };
            guests.iter().filter(|(_, guest)| alive(guest)).map(info).collect()
        }))
    }

    async fn begin_save(&self, guest: &str) -> Result<Box<dyn HeldGuest>, HypervisorError> {
        let memory = self.shared.change(guest, "save", runs, GuestState::Held)?;
        Ok(Box::new(Held {
            reader: TraceReader { memory, compute: Arc::clone(&self.shared.compute), next: 0 },
            name: guest.to_owned(),
            shared: Arc::clone(&self.shared),
        }))
    }

    async fn begin_restore(
        &self,
        guest: &str,
        format: TapeFormat,
    ) -> Result<Box<dyn NewGuest>, HypervisorError> {
        if format != TapeFormat::RAW {
            return Err(HypervisorError::Refused {
                action: "restore",
                guest: guest.to_owned(),
                problem: format!("replayed guests are plain memory, not tape format {}", format.0),
            });
        }
        let saved = |state| state == GuestState::Saved;
        let memory = self.shared.change(guest, "restore", saved, GuestState::Restoring)?;
        Ok(Box::new(Comparing {
            writer: ComparingWriter {
                memory,
                compute: Arc::clone(&self.shared.compute),
                next: 0,
                identical: true,
                finished: false,
            },
            name: guest.to_owned(),
            shared: Arc::clone(&self.shared),
        }))
    }
}

struct Held {
    reader: TraceReader,
    name: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl HeldGuest for Held {
    fn reader(&mut self) -> &mut dyn GuestReader {
        &mut self.reader
    }

    async fn release(self: Box<Self>) -> Result<(), HypervisorError> {
        let held = |state| state == GuestState::Held;
        self.shared.change(&self.name, "release", held, GuestState::Saved).map(|_| ())
    }

    async fn resume(self: Box<Self>) -> Result<(), HypervisorError> {
        let held = |state| state == GuestState::Held;
        self.shared.change(&self.name, "resume", held, GuestState::Running).map(|_| ())
    }
}

struct TraceReader {
    memory: Arc<SyntheticGuest>,
    compute: Arc<dyn Compute>,
    next: usize,
}

#[async_trait]
impl GuestReader for TraceReader {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        Some((self.memory.page_count() * PAGE_SIZE) as u64)
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let first = self.next;
        let count = SEGMENT_PAGES.min(self.memory.page_count() - first);
        if count == 0 {
            return Ok(None);
        }
        let buffer = pool.take_slot().await?;
        let memory = Arc::clone(&self.memory);
        let pages =
            compute::run(&*self.compute, move || (read_pages(&memory, first, count, buffer), Work::Other))
                .await?;
        self.next = first + count;
        let pfns = Pfns::Run { first: first as u64, count };
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(pages) })))
    }
}

fn read_pages(memory: &SyntheticGuest, first: usize, count: usize, mut buffer: Buffer) -> Buffer {
    let pages = buffer.spare()[..count * PAGE_SIZE].chunks_exact_mut(PAGE_SIZE);
    for (pfn, page) in (first..).zip(pages) {
        memory.read(pfn, page);
    }
    buffer.set_len(count * PAGE_SIZE);
    buffer
}

struct Comparing {
    writer: ComparingWriter,
    name: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl NewGuest for Comparing {
    fn writer(&mut self) -> &mut dyn GuestWriter {
        &mut self.writer
    }

    async fn start(self: Box<Self>) -> Result<(), HypervisorError> {
        let restoring = |state| state == GuestState::Restoring;
        let whole = self.writer.finished && self.writer.next == self.writer.memory.page_count();
        let restored = GuestState::Restored { identical: whole && self.writer.identical };
        self.shared.change(&self.name, "start", restoring, restored).map(|_| ())
    }

    async fn discard(self: Box<Self>) -> Result<(), HypervisorError> {
        let restoring = |state| state == GuestState::Restoring;
        self.shared.change(&self.name, "discard", restoring, GuestState::Saved).map(|_| ())
    }
}

/// Compares what comes back with what the guest had. The tape must come back in its order, so
/// a page out of place counts as a difference.
struct ComparingWriter {
    memory: Arc<SyntheticGuest>,
    compute: Arc<dyn Compute>,
    next: usize,
    identical: bool,
    finished: bool,
}

#[async_trait]
impl GuestWriter for ComparingWriter {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        let Batch { pfns, pages } = match item {
            TapeItem::Batch(batch) => batch,
            TapeItem::Frame(frame) => {
                // Replayed guests have no frame: any byte of one is a difference.
                self.identical &= frame.is_empty();
                return Ok(());
            }
        };
        let (first, count) = (self.next, pfns.count());
        let in_order = pfns.iter().zip(first as u64..).all(|(pfn, expected)| pfn == expected);
        let bytes = pages.into_bytes()?;
        if bytes.len() != count * PAGE_SIZE {
            let problem = format!("{} bytes for {count} pages", bytes.len());
            return Err(TapeError::Inconsistent(problem));
        }
        let memory = Arc::clone(&self.memory);
        let same = compute::run(&*self.compute, move || {
            let mut pages = (first..).zip(bytes.chunks_exact(PAGE_SIZE));
            (pages.all(|(pfn, page)| memory.matches(pfn, page)), Work::Other)
        })
        .await?;
        self.identical &= in_order && same;
        self.next = first + count;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        self.finished = true;
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use comio_core::compute::Inline;
    use futures::executor::block_on;

    use super::*;
    use crate::trace::test::numbered_trace;

    const PAGES: usize = 1500;

    fn hypervisor() -> TraceHypervisor {
        let guest = SyntheticGuest::new(&numbered_trace(512), PAGES, 0.5, 1, 1);
        TraceHypervisor::new(Arc::new(Inline), [("g".to_owned(), guest)])
    }

    /// Saves guest "g" into memory, lets `spoil` change the tape, and restores it.
    fn round_trip(spoil: impl FnOnce(&mut Vec<TapeItem>)) -> (TraceHypervisor, GuestState) {
        let hypervisor = hypervisor();
        block_on(async {
            let pool = BufferPool::new(16 << 20, SEGMENT_PAGES * PAGE_SIZE);
            let mut held = hypervisor.begin_save("g").await.unwrap();
            let mut items = Vec::new();
            while let Some(item) = held.reader().next(&pool).await.unwrap() {
                items.push(item);
            }
            held.release().await.unwrap();
            spoil(&mut items);
            let mut new = hypervisor.begin_restore("g", TapeFormat::RAW).await.unwrap();
            for item in items {
                new.writer().write(item).await.unwrap();
            }
            new.writer().finish().await.unwrap();
            new.start().await.unwrap();
        });
        let state = hypervisor.state("g").unwrap();
        (hypervisor, state)
    }

    #[test]
    fn an_unchanged_tape_is_identical() {
        let (_, state) = round_trip(|items| assert_eq!(items.len(), 2));
        assert_eq!(state, GuestState::Restored { identical: true });
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let (_, state) = round_trip(|items| {
            let TapeItem::Batch(Batch { pages: Payload::Bytes(buffer), .. }) = &mut items[1] else {
                panic!("not a batch of bytes")
            };
            buffer[5000] ^= 1;
        });
        assert_eq!(state, GuestState::Restored { identical: false });
    }

    #[test]
    fn a_missing_batch_is_seen() {
        let (_, state) = round_trip(|items| drop(items.pop()));
        assert_eq!(state, GuestState::Restored { identical: false });
    }

    #[test]
    fn batches_out_of_order_are_seen() {
        let (_, state) = round_trip(|items| items.swap(0, 1));
        assert_eq!(state, GuestState::Restored { identical: false });
    }

    #[test]
    fn a_held_guest_can_be_resumed_and_not_saved_twice() {
        let hypervisor = hypervisor();
        let held = block_on(hypervisor.begin_save("g")).unwrap();
        assert!(matches!(block_on(hypervisor.begin_save("g")).err(), Some(HypervisorError::Refused { .. })));
        block_on(held.resume()).unwrap();
        assert_eq!(hypervisor.state("g"), Some(GuestState::Running));
        assert!(block_on(hypervisor.list()).unwrap()[0].running);
    }

    #[test]
    fn other_guests_and_formats_are_refused() {
        let hypervisor = hypervisor();
        let missing = block_on(hypervisor.begin_save("h")).err();
        assert!(matches!(missing, Some(HypervisorError::NotFound(_))));
        let wrong = block_on(hypervisor.begin_restore("g", TapeFormat::XEN_XL)).err();
        assert!(matches!(wrong, Some(HypervisorError::Refused { .. })));
    }
}
