//! The NFS server: threads, cores, memory and a disk.

use std::collections::BTreeMap;
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
}

#[derive(Debug, Default)]
struct File {
    chunks: BTreeMap<u64, Payload>,
    len: u64,
    dirty_bytes: u64,
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
            let mut state = self.state();
            state.dirty_bytes += len as u64;
            state.files.entry(file.to_owned()).or_default().dirty_bytes += len as u64;
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

    /// Notes what `file` holds at `offset`. Takes no time: [`write`](Self::write) does.
    pub fn keep(&self, file: &str, offset: u64, data: Payload) {
        let mut state = self.state();
        let end = offset + data.len() as u64;
        let file = state.files.entry(file.to_owned()).or_default();
        let grown = end.saturating_sub(file.len);
        file.len += grown;
        file.chunks.insert(offset, data);
        state.stored_bytes += grown;
    }

    /// What `file` holds there, if it was written in one piece.
    pub fn look(&self, file: &str, offset: u64, len: usize) -> Option<Payload> {
        let state = self.state();
        let (start, chunk) = state.files.get(file)?.chunks.range(..=offset).next_back()?;
        match chunk {
            Payload::Modelled { len: all, contents } => {
                let whole = *start == offset && *all == len;
                whole.then_some(Payload::Modelled { len, contents: *contents })
            }
            Payload::Bytes(bytes) => {
                let from = usize::try_from(offset - start).ok()?;
                let part = bytes.get(from..from.checked_add(len)?)?;
                Some(Payload::Bytes(Buffer::unpooled(part.to_vec())))
            }
        }
    }

    /// The length of `file`, if there is one.
    pub fn len_of(&self, file: &str) -> Option<u64> {
        self.state().files.get(file).map(|file| file.len)
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) {
        let mut state = self.state();
        if let Some(file) = state.files.remove(from) {
            state.forget(to);
            state.files.insert(to.to_owned(), file);
        }
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

#[expect(clippy::cast_precision_loss, reason = "lengths of transfers")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
