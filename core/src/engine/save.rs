//! Saving: tape → encode on every core → positional writes in any order → commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use xxhash_rust::xxh3::xxh3_64;

use super::commit::{Tail, abandon, make_durable, publish};
use super::{Engine, EngineError, Foundation, Image, Phase, Progress, space};
use crate::PAGE_SIZE;
use crate::buffer::{Buffer, Payload};
use crate::compute::{self, Work};
use crate::format::directory::{self, DirectoryEntry};
use crate::format::footer::{Footer, Totals};
use crate::format::frame::{self, FrameBuilder};
use crate::format::segment::{MAX_SEGMENT_LEN, seal};
use crate::format::superblock::Superblock;
use crate::format::{BLOCK, ImageUuid, blocks_of};
use crate::segment::{Bases, EncodedSegment};
use crate::storage::{ObjectWriter, Storage, StorageError, StorageErrorKind};
use crate::tape::{Batch, GuestReader, TapeItem};

/// What the caller decides of a new image; core draws no random number and reads no clock.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// The image's identity: random.
    pub uuid: ImageUuid,
    /// Now, in seconds since 1970-01-01 UTC.
    pub created_unix_s: u64,
    /// Whether an image of that name is replaced (atomically) or refused.
    pub replace: bool,
}

/// A finished save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveReport {
    /// The image's identity.
    pub uuid: ImageUuid,
    /// Length of the image in bytes.
    pub stored_bytes: u64,
    /// Totals of what is in it.
    pub totals: Totals,
    /// Why some pages were saved as if there were no parent or template, if that happened.
    pub trouble: Option<String>,
}

impl SaveReport {
    /// Bytes of guest memory.
    pub fn guest_bytes(&self) -> u64 {
        self.totals.pages * PAGE_SIZE as u64
    }
}

/// Saves the guest that `reader` gives as image `name`. On success the image is durable,
/// checked and visible; on any error, or when the future is dropped, nothing is visible under
/// `name` that was not before.
///
/// # Errors
/// Any of [`EngineError`].
pub async fn save(
    engine: &Engine,
    reader: &mut dyn GuestReader,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    save_upon(engine, None, reader, storage, name, options, progress).await
}

/// As [`save`], with pages left out that `foundation` has already. Where that cannot be read,
/// pages are saved in full and the report says why.
///
/// # Errors
/// As [`save`].
pub async fn save_upon(
    engine: &Engine,
    foundation: Option<&Foundation>,
    reader: &mut dyn GuestReader,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    let saved = match draft(engine, foundation, reader, storage, name, options, progress).await {
        Ok(draft) => draft.publish(progress).await,
        Err(failed) => Err(failed),
    };
    match saved {
        Ok(report) => Ok(report),
        Err(failed) => Err(failed.clear_away(storage, progress).await),
    }
}

/// An image that is durable and checked, and not yet visible.
pub(super) struct Draft {
    writer: Box<dyn ObjectWriter>,
    report: SaveReport,
}

/// A save that failed, and what it has written, if that is still there.
pub(super) struct Failed {
    error: EngineError,
    writer: Option<Box<dyn ObjectWriter>>,
}

impl Draft {
    /// Makes it visible.
    pub(super) async fn publish(self, progress: &Progress) -> Result<SaveReport, Failed> {
        publish(self.writer, progress).await?;
        Ok(self.report)
    }

    /// It must not become visible, because of `error`.
    pub(super) fn failed(self, error: EngineError) -> Failed {
        Failed { error, writer: Some(self.writer) }
    }
}

impl<E: Into<EngineError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), writer: None }
    }
}

impl Failed {
    /// Removes what was written, which lasts as long as the storage does not answer; gives the error.
    pub(super) async fn clear_away(self, storage: &dyn Storage, progress: &Progress) -> EngineError {
        if let Some(writer) = self.writer {
            abandon(writer, progress).await;
        }
        space::explain(self.error, storage, progress).await
    }
}

/// All of a save but to make the image visible, or to remove what a failure leaves.
pub(super) async fn draft(
    engine: &Engine,
    foundation: Option<&Foundation>,
    reader: &mut dyn GuestReader,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<Draft, Failed> {
    let mut create = engine.create_options(&options.uuid, options.replace);
    if foundation.is_some() {
        create.held_bytes_max = create.held_bytes_max.min(engine.held_upon() * MAX_SEGMENT_LEN);
    }
    progress.set_total(reader.size_hint().unwrap_or(0));
    let needed = least_bytes(engine, foundation, reader.size_hint().unwrap_or(0));
    let creating = async {
        if let Some(foundation) = foundation {
            refuse_to_replace_ancestor(foundation, storage, name).await?;
        }
        space::create(storage, name, create, needed).await
    };
    let writer = progress.unless_stopped(creating).await?;
    let saving = Saver::new(engine, foundation, &*writer, options, progress).run(reader);
    match progress.unless_stopped(saving).await {
        Ok(report) => Ok(Draft { writer, report }),
        Err(error) => Err(Failed { error, writer: Some(writer) }),
    }
}

/// Refuses to put an image in the place of one that it rests on.
async fn refuse_to_replace_ancestor(
    foundation: &Foundation,
    storage: &dyn Storage,
    name: &str,
) -> Result<(), EngineError> {
    let Ok(reader) = storage.open(name).await else { return Ok(()) };
    match Image::open(reader).await {
        Ok(image) if foundation.has(&image.superblock().uuid) => {
            let problem = "the new image would rest on it; choose another name";
            Err(StorageError::new(StorageErrorKind::AlreadyExists, "replace", name, problem).into())
        }
        _ => Ok(()),
    }
}

/// What an image takes however well it compresses, and whatever it finds in its foundation.
fn least_bytes(engine: &Engine, foundation: Option<&Foundation>, guest_bytes: u64) -> u64 {
    let segments = match foundation {
        None => engine.coder.stored_bytes_min(guest_bytes),
        Some(_) => 0,
    };
    segments + 4 * BLOCK as u64
}

/// What a finished piece of work gives to the index.
enum Placed {
    Segment { number: usize, entry: DirectoryEntry, totals: Box<Totals> },
    Frame { number: usize, entry: DirectoryEntry },
}

type InFlight<'a> = FuturesUnordered<BoxFuture<'a, Result<Placed, EngineError>>>;

struct Saver<'a> {
    engine: &'a Engine,
    foundation: Option<&'a Foundation>,
    /// How many segments may be under way.
    at_once: usize,
    writer: &'a dyn ObjectWriter,
    options: &'a SaveOptions,
    progress: &'a Progress,
    /// Where the next piece goes; workers take their place here.
    end: Arc<AtomicU64>,
    segments: Vec<DirectoryEntry>,
    frames: Vec<DirectoryEntry>,
    totals: Totals,
}

impl<'a> Saver<'a> {
    fn new(
        engine: &'a Engine,
        foundation: Option<&'a Foundation>,
        writer: &'a dyn ObjectWriter,
        options: &'a SaveOptions,
        progress: &'a Progress,
    ) -> Self {
        let upon = foundation.map(|_| engine.saving_upon_at_once());
        Self {
            engine,
            foundation,
            at_once: upon.unwrap_or_else(|| engine.segments_at_once()),
            writer,
            options,
            progress,
            end: Arc::new(AtomicU64::new(BLOCK as u64)),
            segments: Vec::new(),
            frames: Vec::new(),
            totals: Totals::default(),
        }
    }

    async fn run(mut self, reader: &mut dyn GuestReader) -> Result<SaveReport, EngineError> {
        self.progress.enter(Phase::Moving);
        let superblock = Superblock {
            uuid: self.options.uuid,
            created_unix_s: self.options.created_unix_s,
            tape_format: reader.format(),
            generator: concat!("comio ", env!("CARGO_PKG_VERSION")).to_owned(),
            ancestors: self.foundation.map(Foundation::ancestors).unwrap_or_default(),
        }
        .to_bytes();
        self.writer.write_at(0, Payload::Bytes(Buffer::unpooled(superblock.clone()))).await?;
        self.move_tape(reader).await?;
        let tail = self.tail(superblock);
        let stored_bytes = tail.directory_offset + (tail.directory.len() + tail.footer.len()) as u64;
        make_durable(self.engine, self.writer, tail, self.progress).await?;
        let trouble = self.foundation.and_then(Foundation::trouble);
        Ok(SaveReport { uuid: self.options.uuid, stored_bytes, totals: self.totals, trouble })
    }

    /// Reads the tape to its end; reading, encoding and writing overlap.
    async fn move_tape(&mut self, reader: &mut dyn GuestReader) -> Result<(), EngineError> {
        let mut in_flight = InFlight::new();
        let mut frame = FrameBuilder::default();
        let pool = self.engine.pages.clone();
        loop {
            while in_flight.len() >= self.at_once {
                self.take_next(&mut in_flight).await?;
            }
            let item = {
                let mut next = reader.next(&pool).fuse();
                loop {
                    futures::select_biased! {
                        item = next => break item?,
                        placed = in_flight.select_next_some() => self.index(placed?),
                    }
                }
            };
            match item {
                Some(TapeItem::Frame(bytes)) => {
                    for chunk in frame.push(&bytes) {
                        in_flight.push(self.frame_chunk(chunk, false)?);
                    }
                }
                Some(TapeItem::Batch(batch)) => {
                    if let Some(chunk) = frame.push_segment() {
                        in_flight.push(self.frame_chunk(chunk, false)?);
                    }
                    in_flight.push(self.segment(batch)?);
                }
                None => break,
            }
        }
        in_flight.push(self.frame_chunk(frame.finish(), true)?);
        while !in_flight.is_empty() {
            self.take_next(&mut in_flight).await?;
        }
        Ok(())
    }

    async fn take_next(&mut self, in_flight: &mut InFlight<'a>) -> Result<(), EngineError> {
        if let Some(placed) = in_flight.next().await {
            self.index(placed?);
        }
        Ok(())
    }

    /// Encodes and writes a batch.
    fn segment(&mut self, batch: Batch) -> Result<BoxFuture<'a, Result<Placed, EngineError>>, EngineError> {
        let number = self.segments.len();
        let tape_number = u32::try_from(number).map_err(|_| EngineError::TooLarge)?;
        self.segments.push(DirectoryEntry::LOST);
        let (engine, writer, end) = (self.engine, self.writer, Arc::clone(&self.end));
        let (uuid, foundation) = (self.options.uuid, self.foundation);
        Ok(async move {
            let out = engine.encoded.take_slot().await?;
            let (batch, bases) = match foundation {
                None => (batch, Bases::default()),
                Some(foundation) => foundation.bases(engine, batch).await?,
            };
            let coder = Arc::clone(&engine.coder);
            let encoded = compute::run(&*engine.compute, move || {
                let encoded = coder.encode_upon(&uuid, tape_number, &batch, &bases, out);
                let encoded = encoded.map(|(mut segment, resting)| {
                    let offset = end.fetch_add(segment.payload.len() as u64, Ordering::Relaxed);
                    coder.seal(&mut segment, offset);
                    (segment, resting)
                });
                let work = encoded.as_ref().map_or(Work::Other, |(segment, _)| Work::Encode(segment.tally));
                (encoded, work)
            });
            let (EncodedSegment { payload, entry, tally }, resting) = encoded.await??;
            if let Some((foundation, trouble)) = foundation.zip(resting.trouble) {
                foundation.note(trouble);
            }
            writer.write_at(entry.offset, payload).await?;
            let mut totals = Totals { rests_on: resting.on, ..Totals::default() };
            totals.add_segment(&entry, &tally);
            Ok(Placed::Segment { number, entry, totals: Box::new(totals) })
        }
        .boxed())
    }

    /// Compresses and writes frame bytes.
    fn frame_chunk(
        &mut self,
        raw: Vec<u8>,
        last: bool,
    ) -> Result<BoxFuture<'a, Result<Placed, EngineError>>, EngineError> {
        let number = self.frames.len();
        let tape_number = u32::try_from(number).map_err(|_| EngineError::TooLarge)?;
        self.frames.push(DirectoryEntry::LOST);
        let (engine, writer, end) = (self.engine, self.writer, Arc::clone(&self.end));
        let uuid = self.options.uuid;
        Ok(async move {
            let (bytes, entry) = compute::run(&*engine.compute, move || {
                let (mut bytes, mut entry) = frame::build_chunk(&uuid, tape_number, &raw, last);
                entry.offset = end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                entry.check = seal(&mut bytes, entry.offset);
                ((bytes, entry), Work::Other)
            })
            .await?;
            writer.write_at(entry.offset, Payload::Bytes(Buffer::unpooled(bytes))).await?;
            Ok(Placed::Frame { number, entry })
        }
        .boxed())
    }

    fn index(&mut self, placed: Placed) {
        match placed {
            Placed::Segment { number, entry, totals } => {
                self.totals += *totals;
                self.segments[number] = entry;
                self.progress.add(totals.pages * PAGE_SIZE as u64, entry.len() as u64);
            }
            Placed::Frame { number, entry } => {
                self.totals.frame_bytes += entry.first_pfn;
                self.totals.frame_stored_bytes += entry.len() as u64;
                self.frames[number] = entry;
                self.progress.add(0, entry.len() as u64);
            }
        }
    }

    fn tail(&self, superblock: Vec<u8>) -> Tail {
        build_tail(
            superblock,
            self.options.uuid,
            self.end.load(Ordering::Relaxed),
            &Index { segments: &self.segments, frames: &self.frames, totals: self.totals, incomplete: false },
        )
    }
}

/// What directory and footer are made from.
pub(super) struct Index<'a> {
    pub(super) segments: &'a [DirectoryEntry],
    pub(super) frames: &'a [DirectoryEntry],
    pub(super) totals: Totals,
    pub(super) incomplete: bool,
}

/// Directory and footer of an image whose segments end at `directory_offset`.
#[expect(clippy::cast_possible_truncation, reason = "the numbers of segments were checked against 32 bits")]
pub(super) fn build_tail(
    superblock: Vec<u8>,
    uuid: ImageUuid,
    directory_offset: u64,
    index: &Index<'_>,
) -> Tail {
    let mut directory = Vec::new();
    for entry in index.segments.iter().chain(index.frames) {
        directory::write_entry(entry, &mut directory);
    }
    directory.resize(blocks_of(directory.len()) * BLOCK, 0);
    let footer = Footer {
        uuid,
        superblock_check: xxh3_64(&superblock),
        directory_offset,
        directory_check: xxh3_64(&directory),
        segments: index.segments.len() as u32,
        frame_chunks: index.frames.len() as u32,
        incomplete: index.incomplete,
        totals: index.totals,
    };
    Tail { superblock, directory, directory_offset, footer: footer.to_bytes() }
}
