//! An image as a tape again: what was saved, read back piece by piece.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::restore::ReadAhead;
use super::{Engine, EngineError, Foundation, Image, Phase, Progress, SaveOptions, SaveReport, save_upon};
use crate::PAGE_SIZE;
use crate::buffer::BufferPool;
use crate::format::FormatError;
use crate::format::directory::DirectoryEntry;
use crate::format::frame::{FrameItem, items};
use crate::storage::Storage;
use crate::tape::{GuestReader, TapeError, TapeFormat, TapeItem};

/// Reads the tape out of an image, through its ancestors.
///
/// Pages come from the engine that the replay was given, which must not be the one that saves
/// what is read: each would wait for the other's buffers.
pub(super) struct Replay<'a> {
    image: &'a Image,
    batches: ReadAhead<'a>,
    chunks: std::slice::Iter<'a, DirectoryEntry>,
    waiting: VecDeque<Step>,
}

enum Step {
    Bytes(Vec<u8>),
    Segment,
}

impl<'a> Replay<'a> {
    pub(super) fn new(engine: &'a Engine, image: &'a Image) -> Self {
        Self {
            image,
            batches: ReadAhead::new(engine, image),
            chunks: image.frames().iter(),
            waiting: VecDeque::new(),
        }
    }

    /// Bytes of guest memory in it.
    pub(super) fn guest_bytes(&self) -> u64 {
        self.image.footer().totals.pages * PAGE_SIZE as u64
    }

    /// The next item.
    pub(super) async fn step(&mut self) -> Result<Option<TapeItem>, EngineError> {
        loop {
            match self.waiting.pop_front() {
                Some(Step::Bytes(bytes)) => return Ok(Some(TapeItem::Frame(bytes))),
                Some(Step::Segment) => return Ok(Some(TapeItem::Batch(self.batches.next().await?.1))),
                None => {}
            }
            let Some(entry) = self.chunks.next() else { break };
            let raw = self.batches.while_waiting_for(self.image.frame_chunk(entry)).await?;
            for item in items(&raw) {
                self.waiting.push_back(match item? {
                    FrameItem::Bytes(bytes) => Step::Bytes(bytes.to_vec()),
                    FrameItem::Segment => Step::Segment,
                });
            }
        }
        if self.batches.is_exhausted() {
            return Ok(None);
        }
        let problem = "it ends before all pages were placed";
        Err(FormatError::damaged(0, "the frame stream", problem).into())
    }
}

#[async_trait]
impl GuestReader for Replay<'_> {
    fn format(&self) -> TapeFormat {
        self.image.superblock().tape_format
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.guest_bytes())
    }

    async fn next(&mut self, _pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        self.step().await.map_err(|error| TapeError::Image(Box::new(error)))
    }
}

/// Saves what `image` holds, ancestors' pages included, as an image of its own.
///
/// # Errors
/// Any of [`EngineError`]; nothing is visible under `name` then that was not before.
pub async fn flatten(
    engine: &Engine,
    image: &Image,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    repack(engine, None, image, storage, name, options, progress).await
}

/// As [`flatten`], with pages left out that `foundation` has already.
///
/// # Errors
/// As [`flatten`].
pub async fn repack(
    engine: &Engine,
    foundation: Option<&Foundation>,
    image: &Image,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    progress.enter(Phase::Moving);
    image.check_complete()?;
    let (reading, writing) = engine.halves();
    let mut replay = Replay::new(&reading, image);
    save_upon(&writing, foundation, &mut replay, storage, name, options, progress).await
}
