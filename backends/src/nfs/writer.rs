//! A file being written: parallel UNSTABLE writes, COMMIT, and writing again what a server
//! has forgotten.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::storage::{CreateOptions, ObjectWriter, StorageError, StorageErrorKind};
use futures::future::{join_all, try_join_all};
use nfs3_types::nfs3::nfs_fh3;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use super::calls::CommitTrouble;
use super::directory::Directory;
use super::errors::Trouble;
use super::held::{Held, Part, Room, Written};
use super::reader::read_file;
use super::server::Backoff;

/// The unit in which held bytes are counted.
const GRAIN: usize = 4096;
/// After so many rounds in which the server has forgotten everything, it is not one to trust.
const FORGETFUL_ROUNDS_MAX: u32 = 10;

/// See [`ObjectWriter`]; made by [`NfsStorage`](super::NfsStorage).
pub(super) struct NfsWriter {
    directory: Arc<Directory>,
    file: nfs_fh3,
    name: String,
    temporary: String,
    options: CreateOptions,
    /// Parts that this image has under way or waiting at the server's gate: every image has
    /// the same number of places in that queue, so none starves another.
    window: Semaphore,
    /// The same for what is read back.
    reads: Semaphore,
    /// What may still be held.
    room: Arc<Semaphore>,
    room_grains: usize,
    held: Mutex<Held>,
    /// Where the last byte that was given to write ends.
    end: AtomicU64,
    /// A part was taken by the server, so that there is something to commit, or room was freed.
    changed: Arc<Notify>,
    /// One COMMIT at a time.
    committing: AsyncMutex<()>,
    /// A COMMIT failed. A server that has told an error once may tell success the next time
    /// without having kept the data: nothing written here can be trusted any more.
    failed: AtomicBool,
}

impl NfsWriter {
    pub(super) fn new(
        directory: Arc<Directory>,
        file: nfs_fh3,
        name: &str,
        temporary: String,
        options: CreateOptions,
    ) -> Self {
        let room_grains = (options.held_bytes_max / GRAIN).clamp(1, u32::MAX as usize >> 1);
        Self {
            window: Semaphore::new(directory.server.transfers_max()),
            reads: directory.server.read_window(),
            directory,
            file,
            name: name.to_owned(),
            temporary,
            options,
            room: Arc::new(Semaphore::new(room_grains)),
            room_grains,
            held: Mutex::default(),
            end: AtomicU64::new(0),
            changed: Arc::new(Notify::new()),
            committing: AsyncMutex::new(()),
            failed: AtomicBool::new(false),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the buffer may be held, committing what is held if there is no room.
    async fn admit(&self, buffer: Buffer) -> Result<Part, StorageError> {
        let grains = buffer.capacity().div_ceil(GRAIN).clamp(1, self.room_grains);
        let grains = u32::try_from(grains).expect("the room was clamped to u32");
        let room = loop {
            let changed = self.changed.notified();
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(grains) {
                break Room { permit: Some(permit), freed: Arc::clone(&self.changed) };
            }
            if self.held().is_empty() {
                // All of it is under way: the first that is taken can be committed.
                changed.await;
            } else {
                self.commit().await?;
            }
        };
        let range = 0..buffer.len();
        Ok(Part { buffer: Arc::new(buffer), range, room: Arc::new(room) })
    }

    /// Writes a part, however often the server takes only some of it. Gives what is to be
    /// committed.
    async fn write_part(&self, mut offset: u64, part: Part) -> Result<Vec<u64>, StorageError> {
        let mut ids = Vec::with_capacity(1);
        let mut done = 0;
        while done < part.len() {
            let piece = part.piece(done, self.directory.write_bytes);
            // The window is never closed.
            let _place = self.window.acquire().await;
            let written = match self.directory.server.write(&self.file, offset, &piece).await {
                Ok(written) => written,
                Err(trouble) => return Err(self.error(trouble, "write").await),
            };
            if !written.stable {
                let part = piece.piece(0, written.len);
                let (verifier, connection) = (written.verifier, written.connection);
                ids.push(self.held().add(Written { offset, part, verifier, connection }));
            }
            self.changed.notify_waiters();
            done += written.len;
            offset += written.len as u64;
        }
        Ok(ids)
    }

    async fn write_parts(&self, offset: u64, part: &Part) -> Result<(), StorageError> {
        let starts = (0..part.len()).step_by(self.directory.write_bytes);
        let writes = starts.map(|start| {
            self.write_part(offset + start as u64, part.piece(start, self.directory.write_bytes))
        });
        try_join_all(writes).await.map(drop)
    }

    /// The error; one about space with how much is needed.
    async fn error(&self, trouble: Trouble, action: &'static str) -> StorageError {
        let error = self.directory.error(trouble, action, &self.name);
        self.directory.with_free_space(error, self.end.load(Ordering::Relaxed)).await
    }

    /// Makes durable what is held now.
    async fn commit(&self) -> Result<(), StorageError> {
        let _alone = self.committing.lock().await;
        self.commit_alone().await
    }

    async fn commit_alone(&self) -> Result<(), StorageError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(StorageError::new(
                StorageErrorKind::Corrupt,
                "commit",
                self.directory.target(&self.name),
                "an earlier COMMIT failed: what the server has of it cannot be trusted",
            ));
        }
        let mut ids = self.held().ids();
        let mut backoff = Backoff::default();
        let (mut forgetful_rounds, mut delayed_since) = (0, None);
        while !ids.is_empty() {
            let before = ids.len();
            let (forgotten, later) = self.commit_round(&ids).await?;
            forgetful_rounds = if forgotten.len() == before { forgetful_rounds + 1 } else { 0 };
            if forgetful_rounds == FORGETFUL_ROUNDS_MAX {
                return Err(self.forgetful());
            }
            if !forgotten.is_empty() {
                tracing::info!(parts = forgotten.len(), "writing again what the server has forgotten");
            }
            ids = self.write_again(forgotten).await?;
            if !later.is_empty() {
                self.directory.server.status.put_off();
                let checked = self.directory.server.check_delay(&mut delayed_since);
                checked.map_err(|error| self.directory.error(error.into(), "commit", &self.name))?;
                backoff.wait().await;
                ids.extend(later);
            }
        }
        Ok(())
    }

    /// One COMMIT over every connection that `ids` were written over. Gives what the server
    /// has forgotten, and what it asks to commit later.
    async fn commit_round(&self, ids: &[u64]) -> Result<(Vec<u64>, Vec<u64>), StorageError> {
        let groups = self.held().by_connection(ids);
        let server = &self.directory.server;
        let commits = groups.iter().map(|(connection, _)| server.commit_over(connection, &self.file));
        let outcomes = join_all(commits).await;
        let (mut forgotten, mut later, mut trouble) = (Vec::new(), Vec::new(), None);
        for ((_, parts), outcome) in groups.into_iter().zip(outcomes) {
            match outcome {
                Ok(verifier) => {
                    for (id, written) in parts {
                        if written == verifier { self.held().release(id) } else { forgotten.push(id) }
                    }
                }
                Err(CommitTrouble::Again) => forgotten.extend(parts.into_iter().map(|(id, _)| id)),
                Err(CommitTrouble::Later) => later.extend(parts.into_iter().map(|(id, _)| id)),
                Err(CommitTrouble::Final(final_trouble)) => trouble = Some(final_trouble),
            }
        }
        match trouble {
            None => Ok((forgotten, later)),
            Some(trouble) => {
                self.failed.store(true, Ordering::Relaxed);
                Err(self.error(trouble, "commit").await)
            }
        }
    }

    async fn write_again(&self, forgotten: Vec<u64>) -> Result<Vec<u64>, StorageError> {
        let writes = forgotten.into_iter().map(|id| self.write_one_again(id));
        Ok(try_join_all(writes).await?.concat())
    }

    async fn write_one_again(&self, id: u64) -> Result<Vec<u64>, StorageError> {
        let written = self.held().get(id);
        let Some(written) = written else { return Ok(Vec::new()) };
        let ids = self.write_part(written.offset, written.part).await?;
        // Only now: whoever is cancelled before still holds it.
        self.held().release(id);
        Ok(ids)
    }

    fn forgetful(&self) -> StorageError {
        StorageError::new(
            StorageErrorKind::Protocol,
            "commit",
            self.directory.target(&self.name),
            "the server forgets what is written before it can be committed, again and again",
        )
    }
}

#[async_trait]
impl ObjectWriter for NfsWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        let buffer = data.into_bytes()?;
        // It will be held for a while: not with much unused memory.
        let buffer = if buffer.len() < buffer.capacity() / 4 * 3 { buffer.shrink() } else { buffer };
        self.end.fetch_max(offset + buffer.len() as u64, Ordering::Relaxed);
        let part = self.admit(buffer).await?;
        self.write_parts(offset, &part).await?;
        drop(part);
        // Begin early, while there is room for others to go on writing.
        let much = self.room.available_permits() < self.room_grains / 2;
        match self.committing.try_lock() {
            Ok(_alone) if much => self.commit_alone().await,
            _ => Ok(()),
        }
    }

    async fn sync(&self) -> Result<(), StorageError> {
        self.commit().await
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        read_file(&self.directory, &self.reads, &self.file, &self.name, offset, len, buffer).await
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let published = self.directory.publish(&self.file, &self.temporary, &self.name, &self.options).await;
        if published.is_err() {
            // The writer is gone with this call: nobody else would clean up. What could not be
            // removed is a leftover.
            let _ = self.directory.clean_up(&self.temporary).await;
        }
        published
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        self.directory.clean_up(&self.temporary).await
    }
}
