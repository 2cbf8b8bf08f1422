//! The engine: guests to images and back, on every core it is given, in bounded memory.
//!
//! One asynchronous task drives it all; it spawns nothing. CPU work goes through the
//! [`Compute`] port, page bytes live in two [`BufferPool`]s that split the memory budget:
//! one for pages, one for encoded segments. Each step holds at most one buffer of the first
//! while it waits for one of the second, so the two cannot wait for each other.

mod commit;
mod copy;
mod error;
mod extract;
mod guest;
mod image;
mod partial;
mod progress;
mod recover;
mod restore;
mod save;
mod verify;

use std::fmt;
use std::sync::Arc;

pub use copy::copy;
pub use error::EngineError;
pub use extract::{ExtractReport, extract};
pub use guest::{restore_guest, save_guest};
pub use image::{Image, OpenReads};
pub use partial::restore_partial;
pub use progress::{Phase, Progress};
pub use recover::{RecoverReport, recover};
pub use restore::{RestoreReport, restore};
pub use save::{SaveOptions, SaveReport, save};
pub use verify::{Damage, VerifyReport, verify};

use crate::buffer::BufferPool;
use crate::compute::Compute;
use crate::format::ImageUuid;
use crate::format::segment::MAX_SEGMENT_LEN;
use crate::segment::SegmentCoder;
use crate::storage::CreateOptions;
use crate::{PAGE_SIZE, SEGMENT_PAGES};

const PAGES_SLOT: usize = SEGMENT_PAGES * PAGE_SIZE;
const SLOT_PAIR: usize = PAGES_SLOT + MAX_SEGMENT_LEN;
/// Fewer than this many segments at once would leave reader, workers and writer waiting for
/// each other.
const SLOTS_MIN: usize = 4;

/// What an engine works with.
#[derive(Clone)]
pub struct Engine {
    compute: Arc<dyn Compute>,
    coder: Arc<dyn SegmentCoder>,
    pages: BufferPool,
    encoded: BufferPool,
}

impl Engine {
    /// The least memory budget, in bytes.
    pub const MEMORY_MIN: usize = SLOTS_MIN * SLOT_PAIR;

    /// An engine whose buffers take `memory_bytes`, at least [`MEMORY_MIN`](Self::MEMORY_MIN).
    pub fn new(compute: Arc<dyn Compute>, coder: Arc<dyn SegmentCoder>, memory_bytes: usize) -> Self {
        let slots = (memory_bytes / SLOT_PAIR).max(SLOTS_MIN);
        let slot_bytes = coder.slot_bytes();
        Self {
            compute,
            coder,
            pages: BufferPool::new(slots * slot_bytes.pages, slot_bytes.pages),
            encoded: BufferPool::new(slots * slot_bytes.segment, slot_bytes.segment),
        }
    }

    /// The same cores and coder with buffers of its own, for another guest at the same time.
    pub fn with_own_buffers(&self) -> Self {
        Self {
            compute: Arc::clone(&self.compute),
            coder: Arc::clone(&self.coder),
            pages: BufferPool::new(self.pages.budget_bytes(), self.pages.slot_bytes()),
            encoded: BufferPool::new(self.encoded.budget_bytes(), self.encoded.slot_bytes()),
        }
    }

    /// How many segments may be under way at once: one slot stays for who reads or writes
    /// the tape.
    fn segments_at_once(&self) -> usize {
        (self.pages.slots() - 1).min(self.encoded.slots())
    }

    /// How an object of this identity is created: the storage may hold back half of the
    /// encoded buffers for sending again.
    fn create_options(&self, uuid: &ImageUuid, replace: bool) -> CreateOptions {
        let (head, _) = uuid.split_at(8);
        CreateOptions {
            replace,
            held_bytes_max: self.encoded.slots() * MAX_SEGMENT_LEN / 2,
            unique: head.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)),
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("workers", &self.compute.workers())
            .field("pages", &self.pages)
            .field("encoded", &self.encoded)
            .finish_non_exhaustive()
    }
}
