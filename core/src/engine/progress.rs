//! How far an operation is, for whoever shows it, and the way to stop it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use futures::future::{Either, select};
use tokio::sync::Notify;

use super::EngineError;

/// What an operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Moving the guest's memory.
    Moving,
    /// Waiting until all of it is durable.
    Syncing,
    /// Reading back what was written, or what a restore will need.
    Checking,
    /// Making the image visible.
    Publishing,
    /// Removing what was written, after a failure or a stop. A guest was let go before.
    Removing,
    /// Nothing more to do.
    Done,
}

const PHASES: [Phase; 6] =
    [Phase::Moving, Phase::Syncing, Phase::Checking, Phase::Publishing, Phase::Removing, Phase::Done];

/// Counters that the engine moves and anybody may read.
#[derive(Debug, Default)]
pub struct Progress {
    guest_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    guest_bytes_total: AtomicU64,
    phase: AtomicU8,
    left_behind: AtomicBool,
    stopping: AtomicBool,
    stop: Notify,
}

impl Progress {
    /// Bytes of guest memory done.
    pub fn guest_bytes(&self) -> u64 {
        self.guest_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written to or read from the storage.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of guest memory there are, 0 while unknown.
    pub fn guest_bytes_total(&self) -> u64 {
        self.guest_bytes_total.load(Ordering::Relaxed)
    }

    /// Whether what was written could not be removed after a failure: a leftover stays in the storage.
    pub fn has_left_something(&self) -> bool {
        self.left_behind.load(Ordering::Relaxed)
    }

    pub(super) fn leave_something(&self) {
        self.left_behind.store(true, Ordering::Relaxed);
    }

    /// What is being done.
    pub fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        PHASES.get(phase).copied().unwrap_or(Phase::Done)
    }

    /// Ends the operation: it removes what it has written, lets the guest run on, and gives
    /// [`EngineError::Stopped`]. Without effect once the image is being published.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.notify_waiters();
    }

    /// Whether somebody has called [`stop`](Self::stop).
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until somebody calls [`stop`](Self::stop).
    pub async fn stopped(&self) {
        let stopped = self.stop.notified();
        if !self.is_stopping() {
            stopped.await;
        }
    }

    /// Runs `operation` to its end, or until [`stop`](Self::stop).
    pub(super) async fn unless_stopped<T>(
        &self,
        operation: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let operation = std::pin::pin!(operation);
        if self.is_stopping() {
            return Err(EngineError::Stopped);
        }
        match select(operation, std::pin::pin!(self.stopped())).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(EngineError::Stopped),
        }
    }

    pub(super) fn set_total(&self, guest_bytes: u64) {
        self.guest_bytes_total.store(guest_bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, guest_bytes: u64, stored_bytes: u64) {
        self.guest_bytes.fetch_add(guest_bytes, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored_bytes, Ordering::Relaxed);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}
