//! Reading a file: a range is split among the connections and lands in one buffer.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::storage::{ObjectReader, StorageError, StorageErrorKind};
use futures::future::try_join_all;
use nfs3_types::nfs3::nfs_fh3;
use tokio::sync::Semaphore;

use super::directory::Directory;
use super::records::Target;
use super::server::places;
use super::xdr::Malformed;

/// Requests are under way at once, so that one costs its share of the CPUs and of the link; so
/// many bytes take as long on a link of 1 Gbit/s.
const REQUEST_BYTES: usize = 2 << 10;

/// See [`ObjectReader`]; made by [`NfsStorage`](super::NfsStorage).
pub(super) struct NfsReader {
    pub(super) directory: Arc<Directory>,
    pub(super) file: nfs_fh3,
    pub(super) name: String,
    pub(super) len: u64,
    /// This image's places in the server's queue.
    pub(super) window: Semaphore,
}

#[async_trait]
impl ObjectReader for NfsReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn request_bytes(&self) -> usize {
        REQUEST_BYTES
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        read_file(&self.directory, &self.window, &self.file, &self.name, offset, len, buffer).await
    }
}

/// Reads exactly `len` bytes at `offset`.
pub(super) async fn read_file(
    directory: &Directory,
    window: &Semaphore,
    file: &nfs_fh3,
    name: &str,
    offset: u64,
    len: usize,
    buffer: Buffer,
) -> Result<Payload, StorageError> {
    assert!(buffer.capacity() >= len, "the caller's buffer holds what it asks for");
    let buffer = Arc::new(Mutex::new(Some(buffer)));
    let reads = (0..len).step_by(directory.read_bytes).map(|start| {
        let range = start..len.min(start + directory.read_bytes);
        let target = Target { buffer: Arc::clone(&buffer), range };
        read_part(directory, window, file, name, offset, target)
    });
    try_join_all(reads).await?;
    let buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut buffer = buffer.expect("only this function takes the buffer");
    buffer.set_len(len);
    Ok(Payload::Bytes(buffer))
}

/// Reads a part, however often the server gives only some of it.
async fn read_part(
    directory: &Directory,
    window: &Semaphore,
    file: &nfs_fh3,
    name: &str,
    offset: u64,
    mut target: Target,
) -> Result<(), StorageError> {
    while !target.range.is_empty() {
        let at = offset + target.range.start as u64;
        // The window is never closed.
        let _places = window.acquire_many(places(target.len())).await;
        let read = directory.server.read(file, at, &target).await;
        let (len, eof) = read.map_err(|trouble| directory.error(trouble, "read", name))?;
        target.range.start += len;
        if eof && !target.range.is_empty() {
            return Err(StorageError::new(
                StorageErrorKind::UnexpectedEnd,
                "read",
                directory.target(name),
                format!("it ends at byte {}, before the bytes that were asked for", at + len as u64),
            ));
        }
        if len == 0 && !eof {
            let trouble = Malformed("a READ of nothing before the end of the file").into();
            return Err(directory.error(trouble, "read", name));
        }
    }
    Ok(())
}
