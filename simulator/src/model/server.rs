//! The NFS server: threads, cores, memory and a disk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use comio_core::buffer::{Buffer, Payload};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::clock::{Clock, Nanos};
use super::cost::TransferCosts;
use super::fluid::{Class, Fluid, Link};
use super::machine::Cores;
use super::usage::Usage;

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct ServerParts {
    /// Calls that it works on at once.
    pub threads: usize,
    /// Its cores.
    pub cores: Arc<Cores>,
    /// What calls cost them.
    pub costs: TransferCosts,
    /// Its disk, in bytes per second; `None` keeps everything in memory.
    pub disk_bytes_per_s: Option<f64>,
    /// Its memory for files: written data beyond it must go to the disk at once, and files
    /// that together exceed it are read from the disk.
    pub cache_bytes: u64,
    /// What a COMMIT takes besides the disk's work.
    pub commit_ns: Nanos,
    /// Everything is read from the disk at first.
    pub cold: bool,
}

/// The server.
#[derive(Debug)]
pub struct ModelServer {
    clock: Clock,
    parts: ServerParts,
    threads: Semaphore,
    disk: Option<Disk>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Disk {
    fluid: Arc<Fluid>,
    link: Link,
    class: Class,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    stored_bytes: u64,
    /// Written and not on the disk.
    dirty_bytes: u64,
    /// Counts restarts.
    life: u64,
    /// Counts files.
    created: u64,
}

#[derive(Debug, Default)]
struct File {
    id: u64,
    /// What was written last at each place; none overlap.
    chunks: BTreeMap<u64, Payload>,
    len: u64,
    dirty_bytes: u64,
}

/// Why there is nothing to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The file was removed or replaced.
    Gone,
    /// It ends before, or part of a modelled payload was asked for.
    End,
}

impl ModelServer {
    /// A server that has just started.
    pub fn new(clock: &Clock, parts: ServerParts) -> Self {
        let disk = parts.disk_bytes_per_s.map(|bytes_per_s| {
            let fluid = Fluid::new(clock);
            let link = fluid.link(bytes_per_s);
            let class = fluid.class(&[link], f64::INFINITY, 1.0);
            Disk { fluid, link, class }
        });
        let threads = Semaphore::new(parts.threads);
        Self { clock: clock.clone(), parts, threads, disk, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread for one call, which holds it until its answer, on the disk too.
    async fn thread(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.threads.acquire().await.ok()
    }

    async fn to_disk(&self, bytes: u64) {
        if let Some(disk) = &self.disk {
            disk.fluid.flow(disk.class, as_f64(bytes)).await;
        }
    }

    /// A call about names or attributes.
    pub async fn call(&self) {
        let _thread = self.thread().await;
        self.parts.cores.work(self.parts.costs.call_s()).await;
    }

    /// Takes `len` bytes for `file`. Gives the server's life, as a verifier does.
    pub async fn write(&self, file: &str, len: usize) -> u64 {
        let _thread = self.thread().await;
        self.parts.cores.work(self.parts.costs.write_s(len)).await;
        if self.disk.is_none() {
            return self.state().life;
        }
        let full = self.state().dirty_bytes + len as u64 > self.parts.cache_bytes;
        if full {
            self.to_disk(len as u64).await;
        } else {
            self.state().soil(file, len as u64);
        }
        self.state().life
    }

    /// Makes what `file` was given durable. Gives the server's life.
    pub async fn commit(&self, file: &str) -> u64 {
        let _thread = self.thread().await;
        self.parts.cores.work(self.parts.costs.call_s()).await;
        let dirty = self.state().clean(file);
        self.to_disk(dirty).await;
        self.clock.sleep(self.parts.commit_ns).await;
        self.state().life
    }

    /// Reads `len` bytes of any file.
    pub async fn read(&self, len: usize) {
        let _thread = self.thread().await;
        if self.parts.cold || self.state().stored_bytes > self.parts.cache_bytes {
            self.to_disk(len as u64).await;
        }
        self.parts.cores.work(self.parts.costs.read_s(len)).await;
    }

    /// Loses what is not on the disk, and begins a new life.
    pub fn restart(&self) {
        let mut state = self.state();
        state.life += 1;
        state.dirty_bytes = 0;
        for file in state.files.values_mut() {
            file.dirty_bytes = 0;
        }
    }

    /// Makes an empty file; gives its number.
    pub fn create(&self, file: &str) -> u64 {
        let mut state = self.state();
        state.created += 1;
        let id = state.created;
        state.files.insert(file.to_owned(), File { id, ..File::default() });
        id
    }

    /// Notes what `file` holds at `offset`. Takes no time: [`write`](Self::write) does.
    pub fn keep(&self, file: &str, offset: u64, data: Payload) {
        let mut state = self.state();
        let Some(file) = state.files.get_mut(file) else { return };
        let grown = file.keep(offset, data);
        state.stored_bytes += grown;
    }

    /// What the file of that name and number holds there.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn look(&self, file: &str, id: u64, offset: u64, len: usize) -> Result<Payload, Unreadable> {
        let state = self.state();
        let file = state.files.get(file).filter(|file| file.id == id).ok_or(Unreadable::Gone)?;
        file.look(offset, len).ok_or(Unreadable::End)
    }

    /// The number and length of `file`, if there is one.
    pub fn find(&self, file: &str) -> Option<(u64, u64)> {
        self.state().files.get(file).map(|file| (file.id, file.len))
    }

    /// Gives a file another name, in place of one that has it; `false` if there is none.
    pub fn rename(&self, from: &str, to: &str) -> bool {
        let mut state = self.state();
        let Some(file) = state.files.remove(from) else { return false };
        state.forget(to);
        state.files.insert(to.to_owned(), file);
        true
    }

    /// Removes a file; `false` if there is none.
    pub fn remove(&self, file: &str) -> bool {
        self.state().forget(file)
    }

    /// Names and lengths of all files.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.state().files.iter().map(|(name, file)| (name.clone(), file.len)).collect()
    }

    /// What its cores and its disk were used for.
    pub fn usage(&self) -> (Usage, Option<Usage>) {
        let disk = self.disk.as_ref().map(|disk| disk.fluid.usage(disk.link));
        (self.parts.cores.usage(), disk)
    }
}

impl State {
    fn soil(&mut self, file: &str, bytes: u64) {
        // What is written to a file that was removed goes nowhere.
        if let Some(file) = self.files.get_mut(file) {
            file.dirty_bytes += bytes;
            self.dirty_bytes += bytes;
        }
    }

    /// Takes the file's dirty bytes.
    fn clean(&mut self, file: &str) -> u64 {
        let dirty = self.files.get_mut(file).map(|file| std::mem::take(&mut file.dirty_bytes));
        let dirty = dirty.unwrap_or_default();
        self.dirty_bytes = self.dirty_bytes.saturating_sub(dirty);
        dirty
    }

    fn forget(&mut self, file: &str) -> bool {
        self.clean(file);
        let removed = self.files.remove(file);
        self.stored_bytes -= removed.as_ref().map_or(0, |file| file.len);
        removed.is_some()
    }
}

impl File {
    /// Puts `data` there, whatever was there before; gives by how much the file grew.
    fn keep(&mut self, offset: u64, data: Payload) -> u64 {
        let end = offset + data.len() as u64;
        self.cut(offset, end);
        let data = match data {
            // The buffer is its pool's.
            Payload::Bytes(bytes) => Payload::Bytes(Buffer::unpooled(bytes.to_vec())),
            modelled @ Payload::Modelled { .. } => modelled,
        };
        if end > offset {
            self.chunks.insert(offset, data);
        }
        let grown = end.saturating_sub(self.len);
        self.len += grown;
        grown
    }

    /// Takes away what is kept from `from` to `to`. Of a modelled payload nothing stays: its parts
    /// mean nothing.
    fn cut(&mut self, from: u64, to: u64) {
        let below = self.chunks.range(..from).next_back().map(|(start, _)| *start);
        let within = self.chunks.range(from..to).map(|(start, _)| *start);
        let touched: Vec<u64> = below.into_iter().chain(within).collect();
        for start in touched {
            let Some(end) = self.chunks.get(&start).map(|chunk| start + chunk.len() as u64) else { continue };
            if end <= from {
                continue;
            }
            let Some(Payload::Bytes(bytes)) = self.chunks.remove(&start) else { continue };
            let part = |range: Range<u64>| bytes.get(index(range.start - start)?..index(range.end - start)?);
            for range in [start..from.max(start), to.min(end)..end] {
                if let Some(part) = part(range.clone()).filter(|part| !part.is_empty()) {
                    self.chunks.insert(range.start, Payload::Bytes(Buffer::unpooled(part.to_vec())));
                }
            }
        }
    }

    fn look(&self, offset: u64, len: usize) -> Option<Payload> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len)?;
        if let Some(Payload::Modelled { len: all, contents }) = self.chunks.get(&offset) {
            return (*all == len).then_some(Payload::Modelled { len, contents: *contents });
        }
        // What was never written is zeros.
        let mut found = vec![0; len];
        let first = self.chunks.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, chunk) in self.chunks.range(first..end) {
            let chunk_end = start + chunk.len() as u64;
            if chunk_end <= offset {
                continue;
            }
            let Payload::Bytes(bytes) = chunk else { return None };
            let (from, to) = (offset.max(*start), end.min(chunk_end));
            let part = &bytes[index(from - start)?..index(to - start)?];
            found[index(from - offset)?..index(to - offset)?].copy_from_slice(part);
        }
        Some(Payload::Bytes(Buffer::unpooled(found)))
    }
}

fn index(bytes: u64) -> Option<usize> {
    usize::try_from(bytes).ok()
}

#[expect(clippy::cast_precision_loss, reason = "lengths of transfers")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
