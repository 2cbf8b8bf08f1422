//! The `Hypervisor` port: guests that can be held, read, released, resumed and created.

use async_trait::async_trait;

use crate::tape::{GuestReader, GuestWriter, TapeError, TapeFormat};

/// A guest as a hypervisor lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInfo {
    /// The name that the other calls take.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether it runs now.
    pub running: bool,
}

/// Where guests run.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// The guests there are.
    async fn list(&self) -> Result<Vec<GuestInfo>, HypervisorError>;

    /// Holds `guest` (it does not run from here on) and opens its tape.
    async fn begin_save(&self, guest: &str) -> Result<Box<dyn HeldGuest>, HypervisorError>;

    /// Begins a new guest of that name from a tape of `format`; it runs only after
    /// [`NewGuest::start`].
    async fn begin_restore(
        &self,
        guest: &str,
        format: TapeFormat,
    ) -> Result<Box<dyn NewGuest>, HypervisorError>;
}

/// A guest held still while its image is made. Dropping it without an end leaves it held;
/// implementations make that recoverable.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait HeldGuest: Send {
    /// Its tape.
    fn reader(&mut self) -> &mut dyn GuestReader;

    /// Its image is durable and verified: the guest may be destroyed.
    async fn release(self: Box<Self>) -> Result<(), HypervisorError>;

    /// Nothing happened: the guest runs on.
    async fn resume(self: Box<Self>) -> Result<(), HypervisorError>;
}

/// A guest being created.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NewGuest: Send {
    /// Takes its tape.
    fn writer(&mut self) -> &mut dyn GuestWriter;

    /// Every byte was checked and written: let it run.
    async fn start(self: Box<Self>) -> Result<(), HypervisorError>;

    /// Something failed: leave no half-made guest.
    async fn discard(self: Box<Self>) -> Result<(), HypervisorError>;
}

/// What a hypervisor cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// No guest of that name.
    #[error("there is no guest {0:?}")]
    NotFound(String),
    /// A guest of that name exists.
    #[error("a guest {0:?} exists already")]
    AlreadyExists(String),
    /// The guest or the toolstack refused.
    #[error("cannot {action} guest {guest:?}: {problem}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On which guest.
        guest: String,
        /// What was said.
        problem: String,
    },
    /// The hypervisor cannot be used at all: its tool is missing, or this is no such host.
    #[error("{0}")]
    Unavailable(String),
    /// The tape's own trouble.
    #[error(transparent)]
    Tape(#[from] TapeError),
}
