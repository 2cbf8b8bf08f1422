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
    /// When it was last written, in seconds since 1970 by the storage's clock, if that is known.
    pub modified_unix_s: Option<u64>,
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

    /// Why nothing moves just now ("the NFS server nas1 has not answered for 12 s"), for
    /// progress lines; `None` while the storage works. Cheap, and never waits.
    fn waiting(&self) -> Option<String> {
        None
    }
}

/// What every temporary name ends in.
const TEMPORARY_SUFFIX: &str = ".comio-part";

/// The longest name an object may have, in bytes: its temporary name must fit the 255 bytes
/// that file systems allow.
pub const NAME_BYTES_MAX: usize = 255 - (".".len() + ".0123456789abcdef".len() + TEMPORARY_SUFFIX.len());

/// Under which name an object is written before it is published.
pub fn temporary_name(name: &str, unique: u64) -> String {
    format!(".{name}.{unique:016x}{TEMPORARY_SUFFIX}")
}

/// Whether `name` is one that [`temporary_name`] gives.
pub fn is_temporary_name(name: &str) -> bool {
    let Some((object, unique)) =
        name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY_SUFFIX)?.rsplit_once('.'))
    else {
        return false;
    };
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !object.is_empty() && unique.len() == 16 && unique.bytes().all(lower_hex)
}

/// Refuses names that no object can have in any storage: empty ones, `.` and `..`, those with a
/// slash or a zero byte, temporary names, and those longer than [`NAME_BYTES_MAX`].
///
/// # Errors
/// [`StorageErrorKind::InvalidName`].
pub fn check_name(name: &str, action: &'static str) -> Result<(), StorageError> {
    let problem = if name.is_empty() {
        "the name is empty".to_owned()
    } else if name == "." || name == ".." {
        "that is a directory".to_owned()
    } else if name.contains(['/', '\0']) {
        "a name holds no slash and no zero byte".to_owned()
    } else if is_temporary_name(name) {
        "names like this are kept for images being written".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("the name is {} bytes long, at most {NAME_BYTES_MAX} are allowed", name.len())
    } else {
        return Ok(());
    };
    Err(StorageError::new(StorageErrorKind::InvalidName, action, format!("{name:?}"), problem))
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

    /// Makes the object visible under its name, durably. All was synced before. On failure
    /// what was written is removed, as far as that is possible.
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

    /// What a request costs beside its bytes, in bytes that could be read instead: what lies
    /// between two pages and is no longer is read with them. 0 where bytes are all that counts.
    fn request_bytes(&self) -> usize;

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
    /// It may have been done or not, and that cannot be found out now: an object whose publishing
    /// ends so may be visible.
    InDoubt,
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

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_temporary_name_is_recognised_and_fits_a_file_system() {
        let longest = "n".repeat(NAME_BYTES_MAX);
        assert!(check_name(&longest, "create").is_ok());
        let temporary = temporary_name(&longest, u64::MAX);
        assert_eq!(temporary.len(), 255);
        assert!(is_temporary_name(&temporary));
        assert!(is_temporary_name(&temporary_name("a.b", 0)));
    }

    #[test]
    fn what_only_looks_like_a_temporary_name_is_an_object() {
        for name in [
            ".comio-part",
            "a.comio-part",
            ".a.comio-part",
            ".a.123.comio-part",
            ".a.0123456789ABCDEF.comio-part",
            "a.0123456789abcdef.comio-part",
            "..0123456789abcdef.comio-part",
        ] {
            assert!(!is_temporary_name(name), "{name}");
        }
    }

    #[test]
    fn names_no_storage_can_hold_are_refused() {
        let temporary = temporary_name("a", 7);
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for name in ["", ".", "..", "a/b", "a\0b", &temporary, &long] {
            let error = check_name(name, "create").unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::InvalidName, "{name:?}");
        }
    }
}
