//! Restoring: read-ahead → check → decode on every core → tape in order.

use std::collections::VecDeque;

use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{FuturesOrdered, StreamExt};

use super::beforehand::{Kept, Ready};
use super::gather::{Cost, Plan, Room};
use super::locate::{Wanted, locate};
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
    restore_checked(engine, image, Kept::default(), writer, progress).await
}

/// As [`restore`], where some segments were read already.
pub(super) async fn restore_checked(
    engine: &Engine,
    image: &Image,
    kept: Kept,
    writer: &mut dyn GuestWriter,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    progress.unless_stopped(restore_all(engine, image, kept, writer, progress)).await
}

async fn restore_all(
    engine: &Engine,
    image: &Image,
    kept: Kept,
    writer: &mut dyn GuestWriter,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    image.check_complete()?;
    progress.set_total(image.footer().totals.pages * PAGE_SIZE as u64);
    progress.enter(Phase::Moving);
    let mut batches = ReadAhead::after(engine, image, kept);
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
    /// Segments that were read already.
    kept: Kept,
    waiting: std::iter::Enumerate<std::slice::Iter<'a, DirectoryEntry>>,
    in_flight: FuturesOrdered<BoxFuture<'a, Fetched>>,
    ready: VecDeque<Fetched>,
}

impl<'a> ReadAhead<'a> {
    pub(super) fn new(engine: &'a Engine, image: &'a Image) -> Self {
        Self::after(engine, image, Kept::default())
    }

    /// With some segments in memory.
    fn after(engine: &'a Engine, image: &'a Image, kept: Kept) -> Self {
        Self {
            engine,
            image,
            waiting: image.segments().iter().enumerate(),
            kept,
            in_flight: FuturesOrdered::new(),
            ready: VecDeque::new(),
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.waiting.len() == 0 && self.in_flight.is_empty() && self.ready.is_empty()
    }

    fn fill(&mut self) {
        while let Some((number, entry)) = self.waiting.clone().next() {
            let kept = self.kept.has(number);
            // Those that are kept wait for no memory but their pages'.
            let at_once =
                if kept { self.engine.segments_at_once() } else { self.image.segments_at_once(self.engine) };
            if self.in_flight.len() + self.ready.len() >= at_once {
                break;
            }
            self.waiting.next();
            let fetched = match self.kept.take(number) {
                Some(Ready::Decoded(batch)) => ready(Ok((*entry, batch))).boxed(),
                Some(Ready::Stored(stored)) => decoded(self.engine, self.image, stored).boxed(),
                None => fetch(self.engine, self.image, *entry).boxed(),
            };
            self.in_flight.push_back(fetched);
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

/// A segment as it is stored, with what its pages rest on: all that decoding needs.
pub(super) struct Stored {
    pub(super) entry: DirectoryEntry,
    pub(super) bytes: Payload,
    pub(super) bases: Bases,
}

/// Reads and decodes one segment, with what its pages rest on.
pub(super) async fn fetch(engine: &Engine, image: &Image, entry: DirectoryEntry) -> Fetched {
    decoded(engine, image, read(engine, image, entry).await?).await
}

pub(super) async fn decoded(engine: &Engine, image: &Image, stored: Stored) -> Fetched {
    let entry = stored.entry;
    let (batch, _) = decode(engine, image, stored).await?;
    Ok((entry, batch?))
}

/// Reads one segment and what its pages rest on.
pub(super) async fn read(
    engine: &Engine,
    image: &Image,
    entry: DirectoryEntry,
) -> Result<Stored, EngineError> {
    // A segment that rests on others is small, and leaves its slot to what it rests on.
    let rests = !image.superblock().ancestors.is_empty();
    let capacity = if rests { entry.len() } else { engine.encoded.slot_bytes() };
    let buffer = engine.encoded.take(capacity).await?;
    let bytes = image.reader().read_at(entry.offset, entry.len(), buffer).await?;
    let bases = if rests { bases_of(engine, image, &entry, &bytes).await? } else { Bases::default() };
    Ok(Stored { entry, bytes, bases })
}

/// Decodes a segment; gives its bytes back as well.
pub(super) async fn decode(
    engine: &Engine,
    image: &Image,
    stored: Stored,
) -> Result<(Result<Batch, EngineError>, Payload), EngineError> {
    let pages = engine.pages.take_slot().await?;
    let coder = std::sync::Arc::clone(&engine.coder);
    let uuid = image.superblock().uuid;
    let decoded = compute::run(&*engine.compute, move || {
        let Stored { entry, bytes, bases } = stored;
        let decoded = coder.decode_upon(&uuid, &entry, &bytes, &bases, pages);
        let work = decoded.as_ref().map_or(Work::Other, |(_, tally)| Work::Decode(*tally));
        ((decoded.map(|(batch, _)| batch).map_err(EngineError::from), bytes), work)
    });
    Ok(decoded.await?)
}

/// What the pages of a segment rest on.
async fn bases_of(
    engine: &Engine,
    image: &Image,
    entry: &DirectoryEntry,
    bytes: &Payload,
) -> Result<Bases, EngineError> {
    let found = references(&image.superblock().uuid, entry, bytes.bytes()?)?;
    if found.is_empty() {
        return Ok(Bases::default());
    }
    let wanted: Vec<Wanted> =
        found.into_iter().map(|(index, pfn, reference)| Wanted { index, pfn, reference }).collect();
    let plan = Plan::of(image.lineage(), locate(image.lineage(), &wanted).await?)?;
    let Room { slot, reservation } = plan.room(&engine.encoded, 0).await?;
    let mut bases = Bases { reservation: Some(reservation), ..Bases::default() };
    plan.read(image.lineage(), slot, &mut bases, &mut Cost::default()).await?;
    Ok(bases)
}
