//! What hosts do without ComIO: the toolstack's stream into a file on the mounted server, as it
//! is or through a compressor with one thread (`xl save guest /dev/stdout | lz4 > file`).
//!
//! The kernel's NFS client writes behind and reads ahead; the file is complete when it is
//! closed, which waits for the server.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::engine::EngineError;
use comio_core::storage::{CreateOptions, Storage};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Mutex as AsyncMutex;

use super::coder::{CodedGuest, contents_id};
use super::cost::{HypervisorCosts, PipeCosts};
use super::machine::Cores;
use crate::herd::Mover;

/// Chunks of 4 MiB between the first stage and the last.
const CHUNKS_UNDER_WAY: usize = 8;
/// What the page cache may hold of a file that is written.
const WRITE_BEHIND_BYTES: usize = 256 << 20;
/// A page that a per-page coder makes this small is a zero page, or as good as one.
pub(super) const ZERO_CODE_BYTES: u16 = 48;

/// A guest's stream, in chunks of 4 MiB of its memory.
#[derive(Debug)]
pub(crate) struct Stream {
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    number: u64,
    pages: usize,
    zeros: usize,
    offset: u64,
    len: usize,
}

impl Stream {
    /// The stream of `guest`, compressed as `pipe` does if there is one; the guest's codes are
    /// those of the per-page coder that is the closest to the tool.
    pub(crate) fn new(guest: &CodedGuest, pipe: Option<&PipeCosts>) -> Self {
        let page_count = guest.memory.page_count();
        let mut offset = 0;
        let chunk = |(number, first): (u64, usize)| {
            let pages = SEGMENT_PAGES.min(page_count - first);
            let lens = (first..first + pages).map(|pfn| guest.codes.codes()[guest.memory.origin(pfn)].len);
            let zeros = lens.clone().filter(|&len| len <= ZERO_CODE_BYTES).count();
            let coded: f64 = lens.map(f64::from).sum();
            let len = pipe.map_or(pages * PAGE_SIZE, |pipe| whole(coded * pipe.size_factor));
            let chunk = Chunk { number, pages, zeros, offset, len };
            offset += len as u64;
            chunk
        };
        let firsts = (0..page_count).step_by(SEGMENT_PAGES);
        Self { chunks: (0..).zip(firsts).map(chunk).collect() }
    }

    fn len(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.offset + chunk.len as u64)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lengths of chunks")]
fn whole(bytes: f64) -> usize {
    bytes.round().max(1.0) as usize
}

/// Moves a guest the stock way.
pub(crate) struct PipeMover {
    /// The guest's name.
    pub(crate) guest: String,
    /// Its number, which names its contents.
    pub(crate) number: usize,
    /// Its stream.
    pub(crate) stream: Stream,
    /// The compressor, if there is one.
    pub(crate) pipe: Option<PipeCosts>,
    /// The cores of its host.
    pub(crate) cores: Arc<Cores>,
    /// What the hypervisor's copying costs them.
    pub(crate) hypervisor: HypervisorCosts,
    /// The mounted server.
    pub(crate) mount: Arc<dyn Storage>,
    /// Whether what came back was what had been written.
    pub(crate) restored: Mutex<Option<bool>>,
}

/// One thread for each stage: the toolstack and the compressor.
#[derive(Default)]
struct Stages {
    toolstack: AsyncMutex<()>,
    compressor: AsyncMutex<()>,
}

impl PipeMover {
    fn file(&self) -> String {
        format!("{}.xl", self.guest)
    }

    async fn compressor(&self, stages: &Stages, chunk: Chunk, page_ns: fn(&PipeCosts) -> f64) {
        if let Some(pipe) = &self.pipe {
            let _turn = stages.compressor.lock().await;
            let nanos = pages(chunk.pages - chunk.zeros) * page_ns(pipe) + pages(chunk.zeros) * pipe.zero_ns;
            self.cores.work(nanos * 1e-9).await;
        }
    }

    async fn toolstack(&self, stages: &Stages, chunk: Chunk, page_ns: f64) {
        let _turn = stages.toolstack.lock().await;
        self.cores.work(pages(chunk.pages) * page_ns * 1e-9).await;
    }

    fn contents(&self, chunk: Chunk) -> Payload {
        Payload::Modelled { len: chunk.len, contents: contents_id(self.number, chunk.number) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "pages of a chunk")]
fn pages(count: usize) -> f64 {
    count as f64
}

#[async_trait]
impl Mover for PipeMover {
    async fn save(&self) -> Result<u64, EngineError> {
        let options =
            CreateOptions { replace: true, held_bytes_max: WRITE_BEHIND_BYTES, unique: self.number as u64 };
        let writer = self.mount.create(&self.file(), options).await?;
        let stages = Stages::default();
        let chunks = stream::iter(self.stream.chunks.iter().copied()).map(|chunk| {
            let (stages, writer) = (&stages, &writer);
            async move {
                self.toolstack(stages, chunk, self.hypervisor.read_ns).await;
                self.compressor(stages, chunk, |pipe| pipe.compress_ns).await;
                writer.write_at(chunk.offset, self.contents(chunk)).await
            }
        });
        chunks.buffered(CHUNKS_UNDER_WAY).try_collect::<()>().await?;
        writer.sync().await?;
        writer.publish().await?;
        Ok(self.stream.len())
    }

    async fn restore(&self) -> Result<(), EngineError> {
        let reader = self.mount.open(&self.file()).await?;
        let stages = Stages::default();
        let chunks = stream::iter(self.stream.chunks.iter().copied()).map(|chunk| {
            let (stages, reader) = (&stages, &reader);
            async move {
                let buffer = Buffer::unpooled(Vec::new());
                let found = reader.read_at(chunk.offset, chunk.len, buffer).await?;
                self.compressor(stages, chunk, |pipe| pipe.decompress_ns).await;
                self.toolstack(stages, chunk, self.hypervisor.write_ns).await;
                Ok::<_, EngineError>(same(&found, &self.contents(chunk)))
            }
        });
        let all = |all, same| futures::future::ready(Ok(all && same));
        let identical = chunks.buffered(CHUNKS_UNDER_WAY).try_fold(true, all).await?;
        *self.restored.lock().unwrap_or_else(PoisonError::into_inner) = Some(identical);
        Ok(())
    }

    async fn remove_image(&self) -> Result<(), EngineError> {
        Ok(self.mount.remove(&self.file()).await?)
    }

    fn identical(&self) -> Option<bool> {
        *self.restored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(one: &Payload, other: &Payload) -> bool {
    match (one, other) {
        (
            Payload::Modelled { len, contents },
            Payload::Modelled { len: other_len, contents: other_contents },
        ) => len == other_len && contents == other_contents,
        _ => false,
    }
}
