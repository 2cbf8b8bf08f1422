//! Restoring: read-ahead → check → decode on every core → tape in order.

use std::collections::VecDeque;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, StreamExt};

use super::gather::{Wanted, bytes_needed, gather};
use super::{Engine, EngineError, Image, Phase, Progress};
use crate::PAGE_SIZE;
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::format::FormatError;
use crate::format::directory::DirectoryEntry;
use crate::format::frame::{FrameItem, items};
use crate::segment::{Bases, references};
use crate::tape::{Batch, GuestWriter, TapeItem};

/// A finished restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Bytes of guest memory.
    pub guest_bytes: u64,
    /// Bytes read from the storage.
    pub stored_bytes: u64,
}

/// Gives the whole tape of `image` to `writer`, each page checked before it is handed over.
///
/// # Errors
/// Any of [`EngineError`]; the writer has then taken a part of the tape and must be discarded.
pub async fn restore(
    engine: &Engine,
    image: &Image,
    writer: &mut dyn GuestWriter,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    progress.unless_stopped(restore_all(engine, image, writer, progress)).await
}

async fn restore_all(
    engine: &Engine,
    image: &Image,
    writer: &mut dyn GuestWriter,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    image.check_complete()?;
    progress.set_total(image.footer().totals.pages * PAGE_SIZE as u64);
    progress.enter(Phase::Moving);
    let mut batches = ReadAhead::new(engine, image);
    let mut report = RestoreReport::default();
    for entry in image.frames() {
        let raw = batches.while_waiting_for(image.frame_chunk(entry)).await?;
        report.stored_bytes += entry.len() as u64;
        progress.add(0, entry.len() as u64);
        for item in items(&raw) {
            let item = match item? {
                FrameItem::Bytes(bytes) => TapeItem::Frame(bytes.to_vec()),
                FrameItem::Segment => {
                    let (entry, batch) = batches.next().await?;
                    let guest_bytes = u64::from(entry.pages) * PAGE_SIZE as u64;
                    report.guest_bytes += guest_bytes;
                    report.stored_bytes += entry.len() as u64;
                    progress.add(guest_bytes, entry.len() as u64);
                    TapeItem::Batch(batch)
                }
            };
            batches.while_waiting_for(async { Ok(writer.write(item).await?) }).await?;
        }
    }
    if !batches.is_exhausted() {
        let problem = "it ends before all pages were placed";
        return Err(FormatError::damaged(0, "the frame stream", problem).into());
    }
    writer.finish().await?;
    progress.enter(Phase::Done);
    Ok(report)
}

type Fetched = Result<(DirectoryEntry, Batch), EngineError>;

/// Segments read and decoded ahead of the tape, in order, as many at once as memory allows.
pub(super) struct ReadAhead<'a> {
    engine: &'a Engine,
    image: &'a Image,
    waiting: std::slice::Iter<'a, DirectoryEntry>,
    in_flight: FuturesOrdered<BoxFuture<'a, Fetched>>,
    ready: VecDeque<Fetched>,
}

impl<'a> ReadAhead<'a> {
    pub(super) fn new(engine: &'a Engine, image: &'a Image) -> Self {
        Self {
            engine,
            image,
            waiting: image.segments().iter(),
            in_flight: FuturesOrdered::new(),
            ready: VecDeque::new(),
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.waiting.len() == 0 && self.in_flight.is_empty() && self.ready.is_empty()
    }

    fn fill(&mut self) {
        while self.in_flight.len() + self.ready.len() < self.image.segments_at_once(self.engine) {
            let Some(entry) = self.waiting.next() else { break };
            self.in_flight.push_back(fetch(self.engine, self.image, *entry).boxed());
        }
    }

    pub(super) async fn next(&mut self) -> Fetched {
        self.fill();
        if let Some(ready) = self.ready.pop_front() {
            return ready;
        }
        self.in_flight.next().await.unwrap_or_else(|| {
            let problem = "it places more segments than there are";
            Err(FormatError::damaged(0, "the frame stream", problem).into())
        })
    }

    /// Drives the reading ahead until `other` is done.
    pub(super) async fn while_waiting_for<T>(
        &mut self,
        other: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        self.fill();
        let mut other = std::pin::pin!(other.fuse());
        loop {
            futures::select_biased! {
                result = other => return result,
                fetched = self.in_flight.select_next_some() => self.ready.push_back(fetched),
            }
        }
    }
}

/// Reads and decodes one segment, with what its pages rest on.
pub(super) async fn fetch(engine: &Engine, image: &Image, entry: DirectoryEntry) -> Fetched {
    let buffer = engine.encoded.take_slot().await?;
    let bytes = image.reader().read_at(entry.offset, entry.len(), buffer).await?;
    let (decoded, _) = decode(engine, image, entry, bytes).await?;
    Ok((entry, decoded?))
}

/// Decodes a segment that was read; gives its bytes back as well.
pub(super) async fn decode(
    engine: &Engine,
    image: &Image,
    entry: DirectoryEntry,
    bytes: Payload,
) -> Result<(Result<Batch, EngineError>, Payload), EngineError> {
    let bases = match bases_of(engine, image, &entry, &bytes).await {
        Ok(bases) => bases,
        Err(error) => return Ok((Err(error), bytes)),
    };
    let pages = engine.pages.take_slot().await?;
    let coder = std::sync::Arc::clone(&engine.coder);
    let uuid = image.superblock().uuid;
    let decoded = compute::run(&*engine.compute, move || {
        let decoded = coder.decode_upon(&uuid, &entry, &bytes, &bases, pages);
        let work = decoded.as_ref().map_or(Work::Other, |(_, tally)| Work::Decode(*tally));
        ((decoded.map(|(batch, _)| batch).map_err(EngineError::from), bytes), work)
    });
    Ok(decoded.await?)
}

/// What the pages of a segment rest on. Its memory comes from the encoded pool, whole or not
/// at all, so that segments in flight cannot wait for each other's parts of it.
async fn bases_of(
    engine: &Engine,
    image: &Image,
    entry: &DirectoryEntry,
    bytes: &Payload,
) -> Result<Bases, EngineError> {
    if image.superblock().ancestors.is_empty() {
        return Ok(Bases::default());
    }
    let found = references(&image.superblock().uuid, entry, bytes.bytes()?)?;
    // Each may turn out to be a difference that rests on a further page.
    let reservation = engine.encoded.reserve(bytes_needed(2 * found.len())).await?;
    let wanted: Vec<Wanted> =
        found.into_iter().map(|(index, pfn, reference)| Wanted { index, pfn, reference }).collect();
    Ok(gather(image.lineage(), &wanted, Some(reservation)).await?.0)
}
