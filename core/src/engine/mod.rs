//! The engine: guests to images and back, on every core it is given, in bounded memory.
//!
//! One asynchronous task drives it all; it spawns nothing. CPU work goes through the
//! [`Compute`] port, page bytes live in two [`BufferPool`]s that split the memory budget:
//! one for pages, one for encoded segments. Each step holds at most one buffer of the first
//! while it waits for one of the second, so the two cannot wait for each other.

mod beforehand;
mod commit;
mod consumed;
mod copy;
mod error;
mod extract;
mod foundation;
mod gather;
mod guest;
mod image;
mod lineage;
mod locate;
mod page_index;
mod partial;
mod progress;
mod recover;
mod replay;
mod restore;
mod save;
mod space;
mod template;
mod verify;

use std::fmt;
use std::sync::Arc;

pub use consumed::{
    Consumed, ConsumedBy, consume, consumed, is_mark, mark_in_doubt, orphaned_marks, unconsume,
};
pub use copy::copy;
pub use error::EngineError;
pub use extract::{ExtractReport, LostPage, extract};
pub use foundation::{Foundation, Relative};
pub use guest::{Restoring, restore_guest, restore_guest_once, save_guest, save_guest_upon};
pub use image::{Image, OpenReads};
pub use lineage::{AncestorProblem, descendants, uuid_of};
pub use partial::restore_partial;
pub use progress::{Phase, Progress};
pub use recover::{RecoverReport, recover};
pub use replay::{flatten, repack};
pub use restore::{RestoreReport, restore};
pub use save::{SaveOptions, SaveReport, save, save_upon};
pub use template::{make_template, open_template};
pub use verify::{Damage, VerifyReport, verify, verify_deep};

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

/// The most that a segment's pages can rest on, in slots: a page each, and for each that is
/// a difference another one.
const BASE_SLOTS: usize = 2;

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

    /// Two engines that share the memory of this one, for reading and writing at once.
    fn halves(&self) -> (Self, Self) {
        let half = |pool: &BufferPool| {
            BufferPool::new((pool.slots() / 2).max(SLOTS_MIN) * pool.slot_bytes(), pool.slot_bytes())
        };
        let part = || Self {
            compute: Arc::clone(&self.compute),
            coder: Arc::clone(&self.coder),
            pages: half(&self.pages),
            encoded: half(&self.encoded),
        };
        (part(), part())
    }

    /// How many segments may be under way at once: one slot stays for who reads or writes
    /// the tape.
    fn segments_at_once(&self) -> usize {
        (self.pages.slots() - 1).min(self.encoded.slots())
    }

    /// As [`segments_at_once`](Self::segments_at_once), where pages rest on ancestors': each
    /// holds a slot while it waits for up to two more.
    fn upon_at_once(&self) -> usize {
        self.segments_at_once().min(self.encoded.slots().saturating_sub(BASE_SLOTS)).max(1)
    }

    /// How many segments of a save may be under way at once that rest on ancestors: each holds
    /// a slot, one of them two more, and the storage may hold what [`held_upon`](Self::held_upon) says.
    fn saving_upon_at_once(&self) -> usize {
        self.segments_at_once().min(self.encoded.slots().saturating_sub(BASE_SLOTS).div_ceil(2)).max(1)
    }

    /// Slots that the storage may hold back in such a save.
    fn held_upon(&self) -> usize {
        self.encoded.slots().saturating_sub(BASE_SLOTS + self.saving_upon_at_once())
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
