//! Recording a running guest: its memory at several moments, each of them consistent.
//!
//! The recorder keeps the guest's memory as of the last step in a file of its own, the
//! *shadow*. For the next step it copies what changed since; the shadow is then what is saved,
//! while the guest runs on. The guest stands still only for the last, small part of the
//! copying:
//!
//! ```text
//! dirty pages ─▶ copy (runs) ─▶ dirty pages ─▶ copy (runs) ─▶ pause ─▶ dirty pages ─▶ copy ─▶ unpause
//! ```
//!
//! Where nobody can tell which pages are dirty, the guest is paused, and all of its memory
//! copied and compared with the shadow (which was made while it ran, for the first step).
//!
//! Whatever happens, a [`Recorder`] that ends (by an error, by being dropped, by a panic) lets
//! the guest run and switches tracking off.

mod recorder;
mod run;
mod shadow;
#[cfg(test)]
mod test;

use comio_core::compute::ComputeError;
use comio_core::hypervisor::HypervisorError;
use comio_core::page_set::PageSet;

pub use recorder::{Clock, Recorder, Step};
pub use run::{Pace, Plan, StepSink, run};

/// How changed pages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// The hypervisor notes which pages are written to.
    Dirty,
    /// All pages are compared with those of the step before, while the guest is paused.
    Compare,
}

/// A guest that runs and is looked at. Calls may block, and are made on a thread of their own.
#[cfg_attr(test, mockall::automock)]
pub trait LiveGuest: Send {
    /// How many pages it has: pfns from 0 on. Does not change.
    fn page_count(&self) -> u64;

    /// Begins to note which pages are written to, if the hypervisor can.
    ///
    /// # Errors
    /// Any of [`HypervisorError`]; then nothing is noted.
    fn begin(&mut self) -> Result<Tracking, HypervisorError>;

    /// The pages written to since the last call, or since [`begin`](Self::begin).
    ///
    /// # Errors
    /// Any of [`HypervisorError`].
    fn take_dirty(&mut self) -> Result<PageSet, HypervisorError>;

    /// Makes the guest stand still.
    ///
    /// # Errors
    /// Any of [`HypervisorError`]; the guest runs then.
    fn pause(&mut self) -> Result<(), HypervisorError>;

    /// Lets it run again, unless somebody else has paused it as well.
    ///
    /// # Errors
    /// Any of [`HypervisorError`]; the guest may stand still then.
    fn unpause(&mut self) -> Result<(), HypervisorError>;

    /// Copies the pages `pfns` into `pages`, 4096 bytes each; zeros where the guest has none.
    ///
    /// # Errors
    /// Any of [`HypervisorError`].
    fn copy(&mut self, pfns: &[u64], pages: &mut [u8]) -> Result<(), HypervisorError>;

    /// Whether it is still there, as the guest that it was: pages of one that is being taken
    /// down come as zeros.
    ///
    /// # Errors
    /// [`HypervisorError`] if not.
    fn check(&mut self) -> Result<(), HypervisorError>;

    /// Nothing is noted any more.
    ///
    /// # Errors
    /// Any of [`HypervisorError`].
    fn end(&mut self) -> Result<(), HypervisorError>;
}

/// Why a recording ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The guest, or the hypervisor.
    #[error(transparent)]
    Guest(#[from] HypervisorError),
    /// The guest may still be paused.
    #[error("the guest may still be paused, unpause it: {unpause}{}", earlier(.failure.as_deref()))]
    StillPaused {
        /// Why it could not be unpaused.
        unpause: HypervisorError,
        /// What had failed before, if anything.
        failure: Option<Box<RecordError>>,
    },
    /// The file that holds the guest's memory.
    #[error("cannot keep the guest's memory in a temporary file")]
    Shadow(#[source] std::io::Error),
    /// A step could not be written.
    #[error("cannot write step {step}")]
    Sink {
        /// Which.
        step: u32,
        /// Why not.
        #[source]
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user wanted no more.
    #[error("stopped")]
    Stopped,
    /// The thread is gone.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

fn earlier(failure: Option<&RecordError>) -> String {
    failure.map(|failure| format!(" (after: {failure})")).unwrap_or_default()
}
