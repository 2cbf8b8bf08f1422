//! Time for a recording, and the way to end it: a signal, or its plan.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comio_backends::record::{Clock, Pace};
use comio_core::engine::Progress;
use tokio::sync::Notify;

/// A wall clock whose sleep ends early when the recording is to stop.
#[derive(Clone)]
pub(super) struct Stopping {
    started: Instant,
    stop: Arc<AtomicBool>,
    wake: Arc<Notify>,
    /// Of the step that is being written.
    progress: Arc<Mutex<Arc<Progress>>>,
}

impl Stopping {
    #[expect(clippy::disallowed_methods, reason = "this is the recording's clock")]
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), stop: Arc::default(), wake: Arc::default(), progress: Arc::default() }
    }

    /// A step begins to be written: its progress.
    pub(super) fn begin_step(&self) -> Arc<Progress> {
        let progress: Arc<Progress> = Arc::default();
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&progress);
        if self.is_stopping() {
            progress.stop();
        }
        progress
    }

    /// Set once the recording is to stop.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub(super) fn clock(&self) -> Clock {
        let started = self.started;
        Box::new(move || started.elapsed())
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Ends the recording; the step under way is given up.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify_one();
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).stop();
    }
}

#[async_trait]
impl Pace for Stopping {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sleep_until(&self, moment: Duration) -> bool {
        let wait = moment.saturating_sub(self.now());
        if !wait.is_zero() && !self.is_stopping() {
            #[expect(clippy::disallowed_methods, reason = "this is the recording's clock")]
            let _ = tokio::time::timeout(wait, self.wake.notified()).await;
        }
        !self.is_stopping()
    }
}
