//! Memory as a byte budget.
//!
//! A [`BufferPool`] is the only source of the buffers that carry page contents and encoded
//! segments. It hands out at most its budget; whoever wants more waits. So memory does not
//! grow with the guest, whatever is slow: the hypervisor, the cores or the storage.
//!
//! Buffers are reused without being cleared (clearing would cost a write of every byte).
//! What a buffer *exposes* is what was written to it: [`Buffer::set_len`] is called by the
//! writer once the bytes up to there are its own.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which the budget is counted, in bytes.
const GRAIN: usize = 4096;

/// Shared, bounded source of [`Buffer`]s.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    budget_bytes: usize,
    slot_bytes: usize,
    grains: Arc<Semaphore>,
    waiting: AtomicUsize,
    free_slots: Mutex<Vec<Box<[u8]>>>,
}

impl BufferPool {
    /// A pool that hands out at most `budget_bytes` at a time. Buffers of exactly
    /// `slot_bytes` are kept for reuse; others are allocated when taken and freed when dropped.
    pub fn new(budget_bytes: usize, slot_bytes: usize) -> Self {
        let grains = (budget_bytes / GRAIN).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                budget_bytes: grains * GRAIN,
                slot_bytes,
                grains: Arc::new(Semaphore::new(grains)),
                waiting: AtomicUsize::new(0),
                free_slots: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Waits until the budget has room, then gives a buffer of `capacity` bytes and length 0.
    ///
    /// # Errors
    /// [`BudgetTooSmall`] when `capacity` exceeds the whole budget: waiting would never end.
    pub async fn take(&self, capacity: usize) -> Result<Buffer, BudgetTooSmall> {
        let permit = self.permit(capacity).await?;
        let memory = if capacity == self.shared.slot_bytes { self.shared.free_slots().pop() } else { None };
        let memory = memory.unwrap_or_else(|| {
            self.shared.trim(0);
            vec![0; capacity].into_boxed_slice()
        });
        Ok(Buffer { memory, len: 0, home: Some(Home { pool: Arc::clone(&self.shared), permit }) })
    }

    /// A buffer of the pool's usual size.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn take_slot(&self) -> Result<Buffer, BudgetTooSmall> {
        self.take(self.shared.slot_bytes).await
    }

    /// Waits until the budget has room for `bytes`, for memory that is allocated elsewhere and
    /// freed before the reservation is dropped.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, BudgetTooSmall> {
        let permit = self.permit(bytes).await?;
        self.shared.trim(0);
        Ok(Reservation { permit })
    }

    /// Waits for a share of the budget.
    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BudgetTooSmall> {
        let grains = bytes.div_ceil(GRAIN);
        let too_small = BudgetTooSmall { wanted_bytes: bytes, budget_bytes: self.shared.budget_bytes };
        let wanted = u32::try_from(grains).ok().filter(|_| grains * GRAIN <= self.shared.budget_bytes);
        let Some(wanted) = wanted else { return Err(too_small) };
        let _waiting = Waiting::begin(&self.shared.waiting);
        // The semaphore is never closed, so the only error cannot happen.
        Arc::clone(&self.shared.grains).acquire_many_owned(wanted).await.map_err(|_| too_small)
    }

    /// Whether somebody waits for room in the budget: who keeps buffers only to save work later
    /// should give some back.
    pub fn is_wanted(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// A slot and a reservation of `bytes` beside it, both or none: who takes them one after the
    /// other may wait for somebody who does the same.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn take_slot_and_reserve(&self, bytes: usize) -> Result<(Buffer, Reservation), BudgetTooSmall> {
        let slot_bytes = self.shared.slot_bytes;
        let mut reservation = self.reserve(slot_bytes.next_multiple_of(GRAIN) + bytes).await?;
        let memory = self.shared.free_slots().pop();
        let memory = memory.unwrap_or_else(|| vec![0; slot_bytes].into_boxed_slice());
        let too_small = BudgetTooSmall { wanted_bytes: slot_bytes, budget_bytes: self.shared.budget_bytes };
        let permit = reservation.permit.split(slot_bytes.div_ceil(GRAIN)).ok_or(too_small)?;
        Ok((
            Buffer { memory, len: 0, home: Some(Home { pool: Arc::clone(&self.shared), permit }) },
            reservation,
        ))
    }

    /// How many slots the whole budget holds.
    pub fn slots(&self) -> usize {
        self.shared.budget_bytes / self.shared.slot_bytes.max(GRAIN).next_multiple_of(GRAIN)
    }

    /// Bytes of a usual buffer.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes
    }

    /// The budget, in bytes.
    pub fn budget_bytes(&self) -> usize {
        self.shared.budget_bytes
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("budget_bytes", &self.shared.budget_bytes)
            .field("slot_bytes", &self.shared.slot_bytes)
            .field("free_bytes", &(self.shared.grains.available_permits() * GRAIN))
            .finish()
    }
}

/// Somebody who waits for room; on drop, nobody.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request larger than the whole memory budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a buffer of {wanted_bytes} bytes does not fit the memory budget of {budget_bytes} bytes; give --memory more"
)]
pub struct BudgetTooSmall {
    /// What was asked for, in bytes.
    pub wanted_bytes: usize,
    /// The pool's budget, in bytes.
    pub budget_bytes: usize,
}

/// A share of a [`BufferPool`]'s budget.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// How much it is, in bytes.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * GRAIN
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.permit.num_permits().saturating_sub(bytes.div_ceil(GRAIN));
        drop(self.permit.split(excess));
    }
}

struct Home {
    pool: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

/// Bytes on loan from a [`BufferPool`]; dropping it gives them back.
///
/// It reads as the `len` bytes that were written; [`spare`](Self::spare) is the whole memory,
/// old contents included, for writers only.
pub struct Buffer {
    memory: Box<[u8]>,
    len: usize,
    home: Option<Home>,
}

impl Buffer {
    /// A buffer outside any budget, for small metadata and tests.
    pub fn unpooled(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: bytes.into_boxed_slice(), home: None }
    }

    /// The whole memory, whose contents before writing are unspecified (never expose them).
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Declares the first `len` bytes written.
    ///
    /// # Panics
    /// If `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.memory.len(), "length {len} exceeds the capacity {}", self.memory.len());
        self.len = len;
    }

    /// Bytes of a pool's budget that it takes.
    pub fn budget_bytes(&self) -> usize {
        self.home.as_ref().map_or(0, |home| home.permit.num_permits() * GRAIN)
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// The same bytes in a memory of their own size: the rest of the budget goes back to the
    /// pool. For those who hold a buffer long (NFS, until COMMIT). Costs one copy.
    pub fn shrink(mut self) -> Self {
        let Some(home) = self.home.take() else { return self };
        let Home { pool, mut permit } = home;
        let keep = self.len.div_ceil(GRAIN);
        let excess = permit.num_permits().saturating_sub(keep);
        let memory: Box<[u8]> = self.memory[..self.len].into();
        let old = std::mem::replace(&mut self.memory, memory);
        pool.keep(old, excess);
        drop(permit.split(excess));
        self.home = Some(Home { pool, permit });
        self
    }
}

impl Shared {
    fn free_slots(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.free_slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a slot for reuse; `returning` grains are about to go back to the budget.
    fn keep(&self, memory: Box<[u8]>, returning: usize) {
        if memory.len() == self.slot_bytes {
            self.free_slots().push(memory);
        }
        self.trim(returning);
    }

    /// Frees kept slots until they and the buffers in use are within the budget: kept memory
    /// is memory too.
    fn trim(&self, returning: usize) {
        let room = (self.grains.available_permits() + returning) * GRAIN;
        let mut free = self.free_slots();
        let keep = (room / self.slot_bytes.max(1)).min(free.len());
        free.truncate(keep);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.pool.keep(std::mem::take(&mut self.memory), home.permit.num_permits());
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The contents are a guest's memory: never into a log.
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.memory.len())
            .finish_non_exhaustive()
    }
}

/// What travels between the ports: bytes, or in the testbed's virtual mode only their length
/// and a name for their contents, since terabytes of page bytes must not move there.
///
/// The engine asks for [`len`](Self::len) and nothing else.
#[derive(Debug)]
pub enum Payload {
    /// Real bytes.
    Bytes(Buffer),
    /// Bytes that exist only in the model.
    Modelled {
        /// How many there would be.
        len: usize,
        /// Which contents they would have: chosen and understood by the simulator alone.
        contents: u64,
    },
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(buffer) => buffer.len(),
            Self::Modelled { len, .. } => *len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`NotBytes`] for a modelled payload: a real coder or storage was wired to a simulated one.
    pub fn bytes(&self) -> Result<&Buffer, NotBytes> {
        match self {
            Self::Bytes(buffer) => Ok(buffer),
            Self::Modelled { .. } => Err(NotBytes),
        }
    }

    /// The buffer itself.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn into_bytes(self) -> Result<Buffer, NotBytes> {
        match self {
            Self::Bytes(buffer) => Ok(buffer),
            Self::Modelled { .. } => Err(NotBytes),
        }
    }
}

/// A modelled payload reached a port that moves real bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a modelled payload reached a port that moves real bytes")]
pub struct NotBytes;

#[cfg(test)]
mod test {
    use futures::FutureExt;
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn take_waits_while_the_budget_is_out() {
        let pool = BufferPool::new(8192, 4096);
        let first = block_on(pool.take_slot()).unwrap();
        let second = block_on(pool.take_slot()).unwrap();
        assert!(pool.take_slot().now_or_never().is_none());
        drop(first);
        assert!(pool.take_slot().now_or_never().is_some());
        drop(second);
    }

    #[test]
    fn a_request_beyond_the_budget_is_an_error_not_a_hang() {
        let pool = BufferPool::new(8192, 4096);
        let error = block_on(pool.take(8193)).unwrap_err();
        assert_eq!(error, BudgetTooSmall { wanted_bytes: 8193, budget_bytes: 8192 });
    }

    #[test]
    fn shrink_gives_the_rest_of_the_budget_back() {
        let pool = BufferPool::new(16384, 16384);
        let mut buffer = block_on(pool.take_slot()).unwrap();
        buffer.spare()[..3].copy_from_slice(b"abc");
        buffer.set_len(3);
        let small = buffer.shrink();
        assert_eq!(&small[..], b"abc");
        assert_eq!(small.capacity(), 3);
        let rest = block_on(pool.take(12288)).unwrap();
        drop((small, rest));
        assert!(pool.take_slot().now_or_never().is_some());
    }

    #[test]
    fn a_reservation_is_part_of_the_budget() {
        let pool = BufferPool::new(8192, 4096);
        let reserved = block_on(pool.reserve(5000)).unwrap();
        assert!(pool.take_slot().now_or_never().is_none());
        drop(reserved);
        assert!(pool.take_slot().now_or_never().is_some());
        assert!(block_on(pool.reserve(8193)).is_err());
    }

    #[test]
    fn a_reservation_gives_back_what_it_does_not_need() {
        let pool = BufferPool::new(8192, 4096);
        let mut reserved = block_on(pool.reserve(8192)).unwrap();
        reserved.shrink_to(4097);
        assert_eq!(reserved.bytes(), 8192);
        reserved.shrink_to(4096);
        assert_eq!(reserved.bytes(), 4096);
        assert!(pool.take_slot().now_or_never().is_some());
    }

    #[test]
    fn the_pool_is_wanted_while_somebody_waits() {
        let pool = BufferPool::new(4096, 4096);
        let taken = block_on(pool.take_slot()).unwrap();
        assert!(!pool.is_wanted());
        let mut second = Box::pin(pool.take_slot());
        assert!((&mut second).now_or_never().is_none());
        assert!(pool.is_wanted());
        drop(second);
        assert!(!pool.is_wanted());
        drop(taken);
    }

    #[test]
    fn a_slot_and_a_reservation_come_together() {
        let pool = BufferPool::new(12288, 8192);
        let (slot, reserved) = block_on(pool.take_slot_and_reserve(4096)).unwrap();
        assert_eq!((slot.capacity(), reserved.bytes()), (8192, 4096));
        assert!(pool.reserve(1).now_or_never().is_none());
        drop(reserved);
        assert!(pool.take_slot().now_or_never().is_none());
        drop(slot);
        assert!(pool.take(12288).now_or_never().is_some());
        assert!(block_on(pool.take_slot_and_reserve(4097)).is_err());
    }

    #[test]
    fn a_reused_buffer_exposes_nothing_of_its_past() {
        let pool = BufferPool::new(4096, 4096);
        let mut secret = block_on(pool.take_slot()).unwrap();
        secret.spare().fill(0xaa);
        secret.set_len(4096);
        drop(secret);
        let reused = block_on(pool.take_slot()).unwrap();
        assert!(reused.is_empty());
    }
}
