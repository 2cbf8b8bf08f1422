//! Verifying: every byte of an image read and checked, every page decoded.

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};

use super::restore::{decode, read};
use super::{Engine, EngineError, Image, Phase, Progress};
use crate::PAGE_SIZE;
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::format::directory::DirectoryEntry;
use crate::format::frame::{FrameItem, items};
use crate::format::segment::PageTable;
use crate::format::{FormatError, ImageUuid};
use crate::segment::unused_bytes_are_zero;

/// How many damages a report lists.
const LISTED_MAX: usize = 100;

/// One damaged part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's number in tape order, or the frame chunk's.
    pub number: usize,
    /// Whether it is a frame chunk.
    pub frame: bool,
    /// What is wrong.
    pub problem: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Pages in whole segments.
    pub pages: u64,
    /// Whole segments.
    pub segments: u64,
    /// Whole frame chunks.
    pub frame_chunks: u64,
    /// Damaged parts in all.
    pub damaged: u64,
    /// The first hundred of them.
    pub damages: Vec<Damage>,
    /// Whether the image says of itself that parts are missing.
    pub incomplete: bool,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0 && !self.incomplete
    }

    fn note(&mut self, number: usize, frame: bool, problem: String) {
        self.damaged += 1;
        if self.damages.len() < LISTED_MAX {
            self.damages.push(Damage { number, frame, problem });
        }
    }
}

/// Reads and checks all of `image`; of pages that rest on ancestors only what is stored here.
/// Damage is reported, not returned as an error.
///
/// # Errors
/// The storage's, the memory budget's, the worker pool's.
pub async fn verify(
    engine: &Engine,
    image: &Image,
    progress: &Progress,
) -> Result<VerifyReport, EngineError> {
    progress.unless_stopped(verify_all(engine, image, Depth::Alone, progress)).await
}

/// As [`verify`], and the contents of pages that rest on ancestors.
///
/// # Errors
/// As [`verify`]; [`EngineError::Ancestor`] when an ancestor is not at hand.
pub async fn verify_deep(
    engine: &Engine,
    image: &Image,
    progress: &Progress,
) -> Result<VerifyReport, EngineError> {
    image.check_ancestors()?;
    progress.unless_stopped(verify_all(engine, image, Depth::Deep, progress)).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Alone,
    Deep,
}

async fn verify_all(
    engine: &Engine,
    image: &Image,
    depth: Depth,
    progress: &Progress,
) -> Result<VerifyReport, EngineError> {
    progress.set_total(image.footer().totals.pages * PAGE_SIZE as u64);
    progress.enter(Phase::Moving);
    let mut report = VerifyReport { incomplete: image.footer().incomplete, ..VerifyReport::default() };
    verify_frame(image, &mut report).await?;
    let mut waiting = image.segments().iter().enumerate();
    let mut running = FuturesUnordered::<BoxFuture<'_, _>>::new();
    loop {
        while running.len() < image.segments_at_once(engine) {
            let Some((number, entry)) = waiting.next() else { break };
            let checking = verify_segment(engine, image, *entry, depth);
            running.push(checking.map(move |checked| (number, entry, checked)).boxed());
        }
        let Some((number, entry, checked)) = running.next().await else { break };
        progress.add(u64::from(entry.pages) * PAGE_SIZE as u64, entry.len() as u64);
        match checked {
            Ok(pages) => {
                report.pages += pages;
                report.segments += 1;
            }
            Err(error) if error.is_damage() => report.note(number, false, error.to_string()),
            Err(error) => return Err(error),
        }
    }
    report.damages.sort_by_key(|damage| (damage.frame, damage.number));
    progress.enter(Phase::Done);
    Ok(report)
}

async fn verify_frame(image: &Image, report: &mut VerifyReport) -> Result<(), EngineError> {
    let mut placed = 0;
    let whole_before = report.damaged;
    for (number, entry) in image.frames().iter().enumerate() {
        let checked = image.frame_chunk(entry).await.and_then(|raw| count_segments(&raw));
        match checked {
            Ok(segments) => {
                placed += segments;
                report.frame_chunks += 1;
            }
            Err(error) if error.is_damage() => report.note(number, true, error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if report.damaged == whole_before && placed != image.segments().len() && !report.incomplete {
        let segments = image.segments().len();
        report.note(0, true, format!("the frame places {placed} segments, the directory has {segments}"));
    }
    Ok(())
}

fn count_segments(raw: &[u8]) -> Result<usize, EngineError> {
    let mut segments = 0;
    for item in items(raw) {
        segments += usize::from(item? == FrameItem::Segment);
    }
    Ok(segments)
}

/// Reads and checks one segment; gives its pages.
async fn verify_segment(
    engine: &Engine,
    image: &Image,
    entry: DirectoryEntry,
    depth: Depth,
) -> Result<u64, EngineError> {
    if entry.is_lost() {
        return Err(EngineError::Incomplete("this segment was lost before the image was recovered".into()));
    }
    let uuid = image.superblock().uuid;
    if depth == Depth::Alone {
        let buffer = engine.encoded.take_slot().await?;
        let bytes = image.reader().read_at(entry.offset, entry.len(), buffer).await?;
        return check_segment(engine, uuid, entry, bytes).await?.0;
    }
    let stored = read(engine, image, entry).await?;
    let (decoded, bytes) = decode(engine, image, stored).await?;
    drop(decoded?);
    check_padding(&uuid, &entry, bytes.bytes()?)
}

/// Checks a segment without its ancestors, and that its padding is zero; gives the number of
/// its pages and the segment back.
pub(super) async fn check_segment(
    engine: &Engine,
    uuid: ImageUuid,
    entry: DirectoryEntry,
    bytes: Payload,
) -> Result<(Result<u64, EngineError>, Payload), EngineError> {
    let pages = engine.pages.take_slot().await?;
    let coder = std::sync::Arc::clone(&engine.coder);
    let checked = compute::run(&*engine.compute, move || {
        let whole = coder.check_alone(&uuid, &entry, &bytes, pages).map_err(EngineError::from);
        let checked = whole.and_then(|()| check_padding(&uuid, &entry, bytes.bytes()?));
        ((checked, bytes), Work::Other)
    });
    Ok(checked.await?)
}

fn check_padding(uuid: &ImageUuid, entry: &DirectoryEntry, bytes: &[u8]) -> Result<u64, EngineError> {
    let table = PageTable::parse(bytes, uuid, entry.offset)?;
    if unused_bytes_are_zero(&table, bytes) {
        return Ok(table.len() as u64);
    }
    let part = format!("segment {}", table.header.number);
    Err(FormatError::damaged(entry.offset, part, "its padding is not zero").into())
}
