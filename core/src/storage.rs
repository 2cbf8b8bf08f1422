//! The `Storage` port: where images are kept.
//!
//! One commit protocol for every storage (see `engine::commit`): data is written under a
//! temporary name that no listing shows, made durable, the footer written last and made
//! durable, read back and compared, and only then published under its name. Storages supply
//! the steps; they do not decide the order.

use async_trait::async_trait;

use crate::buffer::{Buffer, Payload};

/// An object as a storage lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name in the storage.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// How an object is to be created.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Whether a published object of that name is replaced, atomically, or refused.
    pub replace: bool,
    /// The most bytes of written buffers that the writer may hold back, for sending again
    /// what a server forgot. At this point it must make them durable and let them go.
    pub held_bytes_max: usize,
    /// Distinguishes this writer's temporary name from others'; unique for each call.
    pub unique: u64,
}

/// A directory of objects.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Storage: Send + Sync {
    /// Where it is, for people (`/srv/images`, `nfs://server/export`).
    fn location(&self) -> String;

    /// Begins an object; nothing is visible under `name` before [`ObjectWriter::publish`].
    async fn create(&self, name: &str, options: CreateOptions)
    -> Result<Box<dyn ObjectWriter>, StorageError>;

    /// Opens a published object.
    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError>;

    /// Published objects, by name. Temporary ones are not among them.
    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError>;

    /// Removes a published object.
    async fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// What crashed writers left behind, by temporary name; these can be given to
    /// [`remove`](Self::remove).
    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError>;

    /// Bytes that can still be written, if the storage knows.
    async fn free_bytes(&self) -> Result<Option<u64>, StorageError>;
}

/// An object being written. `write_at` calls may overlap in time, never in range.
///
/// Dropping a writer without an end leaves at most a leftover, never a visible object.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ObjectWriter: Send + Sync {
    /// Writes at `offset`. The buffer goes back to its pool as soon as the storage no longer
    /// needs it, at the latest in [`sync`](Self::sync).
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError>;

    /// Returns once all that was written is durable.
    async fn sync(&self) -> Result<(), StorageError>;

    /// Reads back into `buffer` (up to its capacity) from what was written.
    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError>;

    /// Makes the object visible under its name, durably. All was synced before.
    async fn publish(self: Box<Self>) -> Result<(), StorageError>;

    /// Removes what was written.
    async fn abandon(self: Box<Self>) -> Result<(), StorageError>;
}

/// A published object.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ObjectReader: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool;

    /// Reads exactly `len` bytes at `offset` into `buffer`, whose capacity is at least `len`.
    /// An end before that is [`StorageErrorKind::UnexpectedEnd`].
    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError>;
}

/// What went wrong, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// No such object, directory or export.
    NotFound,
    /// The name is in use and replacing was not allowed.
    AlreadyExists,
    /// The storage is full, or the user's quota is.
    NoSpace,
    /// Not allowed for this user, this host or this port.
    Permission,
    /// The storage is read-only.
    ReadOnly,
    /// The object was removed or replaced under our hands.
    Stale,
    /// Nobody answers.
    Unreachable,
    /// The name or URL is not one this storage can use.
    InvalidName,
    /// The object is shorter than it must be.
    UnexpectedEnd,
    /// The peer broke the protocol.
    Protocol,
    /// What was read back is not what was written.
    Corrupt,
    /// Anything else.
    Other,
}

/// A storage that failed: what was tried, on what, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {target}: {problem}")]
pub struct StorageError {
    /// The meaning.
    pub kind: StorageErrorKind,
    /// What was tried ("write", "open", …).
    pub action: &'static str,
    /// Object and place.
    pub target: String,
    /// What is wrong and what to do about it, in words.
    pub problem: String,
    /// The cause below, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StorageError {
    /// An error without a cause below it.
    pub fn new(
        kind: StorageErrorKind,
        action: &'static str,
        target: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self { kind, action, target: target.into(), problem: problem.into(), source: None }
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<crate::buffer::NotBytes> for StorageError {
    fn from(error: crate::buffer::NotBytes) -> Self {
        Self::new(StorageErrorKind::Other, "use", "a payload", error.to_string())
    }
}
