//! A storage in memory that forgets what was not synced, as a disk does when the power fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::buffer::{Buffer, Payload};
use crate::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
    check_name, is_temporary_name, temporary_name,
};

/// Objects in memory. Clones are the same storage.
///
/// What is published is what was synced: a writer that publishes without syncing publishes
/// an object without its last bytes, so that the mistake shows.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    shared: Arc<Mutex<Shared>>,
    bytes_read: Arc<AtomicU64>,
}

#[derive(Default)]
struct Shared {
    published: BTreeMap<String, Arc<Vec<u8>>>,
    /// By temporary name.
    written: BTreeMap<String, Written>,
    /// All that objects may hold together; `None` for no limit.
    capacity_bytes: Option<u64>,
}

#[derive(Default)]
struct Written {
    live: Vec<u8>,
    durable: Vec<u8>,
}

impl MemoryStorage {
    /// An empty storage without limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty storage that is full once its objects have `capacity_bytes`.
    pub fn with_capacity(capacity_bytes: u64) -> Self {
        let storage = Self::default();
        storage.lock().capacity_bytes = Some(capacity_bytes);
        storage
    }

    /// The bytes of a published object.
    pub fn contents(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.lock().published.get(name).cloned()
    }

    /// Bytes read from published objects so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Puts an object there as if it had been published.
    pub fn insert(&self, name: &str, contents: Vec<u8>) {
        self.lock().published.insert(name.to_owned(), Arc::new(contents));
    }

    /// The power fails: what was written and not synced is lost.
    pub fn lose_unsynced(&self) {
        for written in self.lock().written.values_mut() {
            written.live = written.durable.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn free_bytes(&self) -> Option<u64> {
        let used: usize = self.published.values().map(|bytes| bytes.len()).sum::<usize>()
            + self.written.values().map(|written| written.live.len()).sum::<usize>();
        Some(self.capacity_bytes?.saturating_sub(used as u64))
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("MemoryStorage")
            .field("published", &shared.published.keys())
            .field("written", &shared.written.keys())
            .finish_non_exhaustive()
    }
}

fn error(kind: StorageErrorKind, action: &'static str, name: &str, problem: &str) -> StorageError {
    StorageError::new(kind, action, format!("{name:?} in memory"), problem)
}

fn missing(action: &'static str, name: &str) -> StorageError {
    error(StorageErrorKind::NotFound, action, name, "there is no such object")
}

fn in_use(action: &'static str, name: &str) -> StorageError {
    error(StorageErrorKind::AlreadyExists, action, name, "the name is in use; remove it or replace it")
}

#[async_trait]
impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        check_name(name, "create")?;
        let mut shared = self.lock();
        if !options.replace && shared.published.contains_key(name) {
            return Err(in_use("create", name));
        }
        let temporary = temporary_name(name, options.unique);
        if shared.written.contains_key(&temporary) {
            return Err(in_use("create", &temporary));
        }
        shared.written.insert(temporary.clone(), Written::default());
        Ok(Box::new(MemoryWriter {
            storage: self.clone(),
            name: name.to_owned(),
            temporary,
            replace: options.replace,
        }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        check_name(name, "open")?;
        let contents = self.contents(name).ok_or_else(|| missing("open", name))?;
        Ok(Box::new(MemoryReader {
            name: name.to_owned(),
            contents,
            bytes_read: Arc::clone(&self.bytes_read),
        }))
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        let info = |(name, bytes): (&String, &Arc<Vec<u8>>)| ObjectInfo {
            name: name.clone(),
            len: bytes.len() as u64,
            modified_unix_s: None,
        };
        Ok(self.lock().published.iter().map(info).collect())
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        let mut shared = self.lock();
        let removed = if is_temporary_name(name) {
            shared.written.remove(name).is_some()
        } else {
            check_name(name, "remove")?;
            shared.published.remove(name).is_some()
        };
        if removed { Ok(()) } else { Err(missing("remove", name)) }
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        let info = |(name, written): (&String, &Written)| ObjectInfo {
            name: name.clone(),
            len: written.live.len() as u64,
            modified_unix_s: None,
        };
        Ok(self.lock().written.iter().map(info).collect())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.lock().free_bytes())
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    name: String,
    temporary: String,
    replace: bool,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        let data = data.into_bytes()?;
        let start = usize::try_from(offset)
            .map_err(|_| error(StorageErrorKind::Other, "write", &self.name, "the offset is too large"))?;
        let end = start + data.len();
        let mut shared = self.storage.lock();
        let free_bytes = shared.free_bytes();
        let written = shared.written.get_mut(&self.temporary).ok_or_else(|| self.stale("write"))?;
        let grows_bytes = end.saturating_sub(written.live.len()) as u64;
        if let Some(free_bytes) = free_bytes.filter(|free| *free < grows_bytes) {
            let problem = format!("{grows_bytes} bytes are needed, {free_bytes} are free");
            return Err(error(StorageErrorKind::NoSpace, "write", &self.name, &problem));
        }
        if written.live.len() < end {
            written.live.resize(end, 0);
        }
        written.live[start..end].copy_from_slice(&data);
        Ok(())
    }

    async fn sync(&self) -> Result<(), StorageError> {
        let mut shared = self.storage.lock();
        let written = shared.written.get_mut(&self.temporary).ok_or_else(|| self.stale("sync"))?;
        written.durable = written.live.clone();
        Ok(())
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        let shared = self.storage.lock();
        let written = shared.written.get(&self.temporary).ok_or_else(|| self.stale("read"))?;
        read(&self.name, &written.live, offset, len, buffer)
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let mut shared = self.storage.lock();
        let written = shared.written.remove(&self.temporary).ok_or_else(|| self.stale("publish"))?;
        if !self.replace && shared.published.contains_key(&self.name) {
            return Err(in_use("publish", &self.name));
        }
        shared.published.insert(self.name.clone(), Arc::new(written.durable));
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        self.storage.lock().written.remove(&self.temporary);
        Ok(())
    }
}

impl MemoryWriter {
    fn stale(&self, action: &'static str) -> StorageError {
        error(StorageErrorKind::Stale, action, &self.name, "somebody removed it while it was written")
    }
}

struct MemoryReader {
    name: String,
    contents: Arc<Vec<u8>>,
    bytes_read: Arc<AtomicU64>,
}

#[async_trait]
impl ObjectReader for MemoryReader {
    fn len(&self) -> u64 {
        self.contents.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    fn request_bytes(&self) -> usize {
        64
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        self.bytes_read.fetch_add(len as u64, Ordering::Relaxed);
        read(&self.name, &self.contents, offset, len, buffer)
    }
}

fn read(
    name: &str,
    contents: &[u8],
    offset: u64,
    len: usize,
    mut buffer: Buffer,
) -> Result<Payload, StorageError> {
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(len)?));
    let Some(bytes) = range.and_then(|range| contents.get(range)) else {
        let problem = format!("bytes {offset} + {len} are wanted, it has {}", contents.len());
        return Err(error(StorageErrorKind::UnexpectedEnd, "read", name, &problem));
    };
    buffer.spare()[..len].copy_from_slice(bytes);
    buffer.set_len(len);
    Ok(Payload::Bytes(buffer))
}

#[cfg(test)]
mod test {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn memory_conforms() {
        block_on(super::super::conformance(&MemoryStorage::new()));
    }

    #[test]
    fn what_was_not_synced_is_not_published() {
        let storage = MemoryStorage::new();
        let options = CreateOptions { replace: false, held_bytes_max: 4096, unique: 1 };
        block_on(async {
            let writer = storage.create("a", options).await.unwrap();
            writer.write_at(0, Payload::Bytes(Buffer::unpooled(vec![1]))).await.unwrap();
            writer.sync().await.unwrap();
            writer.write_at(1, Payload::Bytes(Buffer::unpooled(vec![2]))).await.unwrap();
            writer.publish().await.unwrap();
        });
        assert_eq!(*storage.contents("a").unwrap(), [1]);
    }

    #[test]
    fn a_full_storage_says_how_much_was_needed_and_free() {
        let storage = MemoryStorage::with_capacity(10);
        let options = CreateOptions { replace: false, held_bytes_max: 4096, unique: 1 };
        let error = block_on(async {
            let writer = storage.create("a", options).await.unwrap();
            writer.write_at(0, Payload::Bytes(Buffer::unpooled(vec![0; 11]))).await.unwrap_err()
        });
        assert_eq!(error.kind, StorageErrorKind::NoSpace);
        assert!(error.to_string().contains("11 bytes are needed, 10 are free"), "{error}");
    }
}
