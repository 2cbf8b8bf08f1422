//! A hypervisor whose guests replay recorded memory.
//!
//! It holds no whole guest: contents are made when the engine reads them, and what a restore
//! writes is compared with what the guest had, and forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::hypervisor::{GuestInfo, HeldGuest, Hypervisor, HypervisorError, NewGuest};
use comio_core::tape::{GuestReader, GuestWriter, TapeFormat};

/// A guest's memory, as often as it is wanted.
pub trait Replay: Send + Sync {
    /// How many pages.
    fn page_count(&self) -> usize;

    /// Its tape from the beginning.
    fn reader(&self) -> Box<dyn GuestReader>;

    /// Takes a tape and compares.
    fn writer(&self) -> Box<dyn ComparingWriter>;
}

/// A writer that keeps nothing but a verdict.
pub trait ComparingWriter: GuestWriter {
    /// Whether a whole tape came, the same as the guest's.
    fn identical(&self) -> bool;

    /// Itself, as the engine knows it.
    fn as_writer(&mut self) -> &mut dyn GuestWriter;
}

/// Guests that replay.
#[derive(Clone)]
pub struct ReplayHypervisor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    guests: Mutex<BTreeMap<String, Guest>>,
}

struct Guest {
    memory: Arc<dyn Replay>,
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

impl ReplayHypervisor {
    /// A hypervisor of these guests, all running.
    pub fn new(guests: impl IntoIterator<Item = (String, Arc<dyn Replay>)>) -> Self {
        let running = |memory| Guest { memory, state: GuestState::Running };
        let guests = guests.into_iter().map(|(name, memory)| (name, running(memory))).collect();
        Self { shared: Arc::new(Shared { guests: Mutex::new(guests) }) }
    }

    /// The state of a guest, if there is one of that name.
    pub fn state(&self, guest: &str) -> Option<GuestState> {
        self.shared.with(|guests| guests.get(guest).map(|guest| guest.state))
    }
}

impl std::fmt::Debug for ReplayHypervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let guests = self.shared.with(|guests| guests.len());
        f.debug_struct("ReplayHypervisor").field("guests", &guests).finish_non_exhaustive()
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
    ) -> Result<Arc<dyn Replay>, HypervisorError> {
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
impl Hypervisor for ReplayHypervisor {
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
            reader: memory.reader(),
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
            writer: memory.writer(),
            name: guest.to_owned(),
            shared: Arc::clone(&self.shared),
        }))
    }
}

struct Held {
    reader: Box<dyn GuestReader>,
    name: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl HeldGuest for Held {
    fn reader(&mut self) -> &mut dyn GuestReader {
        &mut *self.reader
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

struct Comparing {
    writer: Box<dyn ComparingWriter>,
    name: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl NewGuest for Comparing {
    fn writer(&mut self) -> &mut dyn GuestWriter {
        self.writer.as_writer()
    }

    async fn start(self: Box<Self>) -> Result<(), HypervisorError> {
        let restoring = |state| state == GuestState::Restoring;
        let restored = GuestState::Restored { identical: self.writer.identical() };
        self.shared.change(&self.name, "start", restoring, restored).map(|_| ())
    }

    async fn discard(self: Box<Self>) -> Result<(), HypervisorError> {
        let restoring = |state| state == GuestState::Restoring;
        self.shared.change(&self.name, "discard", restoring, GuestState::Saved).map(|_| ())
    }
}

#[cfg(test)]
mod test {
    use comio_core::SEGMENT_PAGES;
    use comio_core::buffer::{BufferPool, Payload};
    use comio_core::compute::{Compute, Inline};
    use comio_core::tape::{Batch, TapeItem};
    use futures::executor::block_on;

    use super::*;
    use crate::replay::ReplayedGuest;
    use crate::trace::SyntheticGuest;
    use crate::trace::test::numbered_trace;

    const PAGES: usize = 1500;

    fn hypervisor() -> ReplayHypervisor {
        let guest = SyntheticGuest::new(&numbered_trace(512), PAGES, 0.5, 1, 1);
        let compute: Arc<dyn Compute> = Arc::new(Inline);
        let guest: Arc<dyn Replay> = Arc::new(ReplayedGuest::new(guest, &compute));
        ReplayHypervisor::new([("g".to_owned(), guest)])
    }

    /// Saves guest "g" into memory, lets `spoil` change the tape, and restores it.
    fn round_trip(spoil: impl FnOnce(&mut Vec<TapeItem>)) -> (ReplayHypervisor, GuestState) {
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
