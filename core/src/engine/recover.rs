//! Recovering: a new image from the whole segments of a damaged one.
//!
//! Segments identify themselves (magic, image uuid, own offset, hash), so they are found by
//! scanning without directory or footer.

use futures::stream::{self, StreamExt};

use super::commit::{make_durable, publish_or_abandon};
use super::save::{Index, build_tail};
use super::verify::check_segment;
use super::{Engine, EngineError, Phase, Progress, space};
use crate::PAGE_SIZE;
use crate::buffer::{Buffer, Payload};
use crate::format::directory::DirectoryEntry;
use crate::format::footer::Totals;
use crate::format::frame::{FrameItem, items, parse_chunk};
use crate::format::segment::{Header, Kind, MAGIC, MAX_TABLE_END, PageTable, seal};
use crate::format::superblock::Superblock;
use crate::format::{BLOCK, FormatError, ImageUuid};
use crate::segment::{references, tally};
use crate::storage::{ObjectReader, ObjectWriter, Storage};
use crate::tape::TapeFormat;

/// Bytes read at once while scanning.
const WINDOW: usize = 1 << 20;

/// What was recovered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Whole segments, all of whose pages can be extracted from the new image.
    pub segments: u64,
    /// Segments known to be missing; there may have been more after the last that was found.
    pub lost_segments: u64,
    /// Pages in the whole segments.
    pub pages: u64,
    /// Whole frame chunks.
    pub frame_chunks: u64,
    /// Whether nothing is missing, so that the guest can be restored from the new image.
    pub complete: bool,
}

/// Writes what is whole of `damaged` as image `name`. The new image keeps the old one's
/// identity, since it holds the same pages.
///
/// # Errors
/// When nothing can be recognised; the storages', the memory budget's, the worker pool's.
pub async fn recover(
    engine: &Engine,
    damaged: &dyn ObjectReader,
    storage: &dyn Storage,
    name: &str,
    replace: bool,
    progress: &Progress,
) -> Result<RecoverReport, EngineError> {
    progress.enter(Phase::Moving);
    let found = progress.unless_stopped(scan(damaged)).await?;
    if found.parts.is_empty() {
        return Err(EngineError::Incomplete("not one whole segment was found in it".into()));
    }
    let create = engine.create_options(&found.superblock.uuid, replace);
    let needed = found.parts.iter().map(|(_, entry)| entry.len() as u64).sum();
    let writer = progress.unless_stopped(space::create(storage, name, create, needed)).await?;
    let written = progress.unless_stopped(copy(engine, damaged, &found, &*writer, progress)).await;
    match publish_or_abandon(writer, written, progress).await {
        Ok(report) => Ok(report),
        Err(error) => Err(space::explain(error, storage, progress).await),
    }
}

/// Segments and chunks whose header and table are whole.
struct Found {
    superblock: Superblock,
    parts: Vec<(Header, DirectoryEntry)>,
}

async fn scan(reader: &dyn ObjectReader) -> Result<Found, EngineError> {
    let mut window = Window { reader, start: 0, bytes: Buffer::unpooled(Vec::new()) };
    let superblock = match Superblock::parse(window.at(0, BLOCK).await?) {
        Ok(superblock) => Some(superblock),
        Err(error @ FormatError::Unsupported(_)) => return Err(error.into()),
        Err(_) => None,
    };
    let mut uuid = superblock.as_ref().map(|superblock| superblock.uuid);
    let mut parts = Vec::new();
    let mut offset = BLOCK as u64;
    while offset < reader.len() {
        let part = whole_table_at(&mut window, &mut uuid, offset).await?;
        let fits = part.filter(|header| offset + header.len() as u64 <= reader.len());
        offset += fits.map_or(BLOCK, |header| header.len().max(BLOCK)) as u64;
        parts.extend(fits.map(|header| (header, header.directory_entry(offset - header.len() as u64))));
    }
    let Some(uuid) = uuid else {
        return Err(FormatError::NotAnImage("neither a superblock nor a segment was found".into()).into());
    };
    // What the tape was is lost with the superblock; pages can be extracted all the same.
    let superblock = superblock.unwrap_or(Superblock {
        uuid,
        created_unix_s: 0,
        tape_format: TapeFormat::UNKNOWN,
        generator: String::new(),
        ancestors: Vec::new(),
    });
    Ok(Found { superblock, parts })
}

/// The header at `offset` if one stands there and its table is whole. Where the superblock was
/// lost, the first such header says which image this is.
async fn whole_table_at(
    window: &mut Window<'_>,
    uuid: &mut Option<ImageUuid>,
    offset: u64,
) -> Result<Option<Header>, EngineError> {
    let bytes = window.at(offset, MAX_TABLE_END).await?;
    if !bytes.starts_with(&MAGIC) || bytes.len() < BLOCK {
        return Ok(None);
    }
    let own: ImageUuid = bytes[8..24].try_into().unwrap_or_default();
    match Header::parse(bytes, &uuid.unwrap_or(own), offset) {
        Ok(header) => {
            uuid.get_or_insert(own);
            Ok(Some(header))
        }
        Err(error @ FormatError::Unsupported(_)) if uuid.is_some_and(|uuid| uuid == own) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// A stretch of the damaged image in memory.
struct Window<'a> {
    reader: &'a dyn ObjectReader,
    start: u64,
    bytes: Buffer,
}

impl Window<'_> {
    /// Up to `len` bytes at `offset`; fewer at the end.
    async fn at(&mut self, offset: u64, len: usize) -> Result<&[u8], EngineError> {
        let left = usize::try_from(self.reader.len() - offset).unwrap_or(usize::MAX);
        let len = len.min(left);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            let read = WINDOW.min(left);
            let buffer = Buffer::unpooled(vec![0; read]);
            self.bytes = self.reader.read_at(offset, read, buffer).await?.into_bytes()?;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|rest| rest.get(..len)).unwrap_or_default())
    }
}

/// What of a part came through: its directory entry in the new image, and what it holds.
struct Copied {
    header: Header,
    entry: DirectoryEntry,
    totals: Totals,
    segments_placed: usize,
}

async fn copy(
    engine: &Engine,
    damaged: &dyn ObjectReader,
    found: &Found,
    writer: &dyn ObjectWriter,
    progress: &Progress,
) -> Result<RecoverReport, EngineError> {
    let superblock = found.superblock.to_bytes();
    writer.write_at(0, Payload::Bytes(Buffer::unpooled(superblock.clone()))).await?;
    let end = std::sync::atomic::AtomicU64::new(BLOCK as u64);
    let copies = found.parts.iter().map(|(header, entry)| {
        copy_part(engine, damaged, &found.superblock.uuid, *header, *entry, writer, &end)
    });
    let mut copies = stream::iter(copies).buffer_unordered(engine.segments_at_once());
    let mut index = Rebuilt::default();
    while let Some(copied) = copies.next().await {
        if let Some(copied) = copied? {
            let guest_bytes = copied.totals.pages * PAGE_SIZE as u64;
            progress.add(guest_bytes, copied.entry.len() as u64);
            index.add(&copied);
        }
    }
    drop(copies);
    index.count_indirect(found.superblock.ancestors.len());
    let report = index.report();
    let tail = build_tail(
        superblock,
        found.superblock.uuid,
        end.into_inner(),
        &Index {
            segments: &index.segments,
            frames: &index.frames,
            totals: index.totals,
            incomplete: !report.complete,
        },
    );
    make_durable(engine, writer, tail, progress).await?;
    Ok(report)
}

/// Copies one part to the end of the new image if all of it is whole.
async fn copy_part(
    engine: &Engine,
    damaged: &dyn ObjectReader,
    uuid: &ImageUuid,
    header: Header,
    entry: DirectoryEntry,
    writer: &dyn ObjectWriter,
    end: &std::sync::atomic::AtomicU64,
) -> Result<Option<Copied>, EngineError> {
    let buffer = engine.encoded.take_slot().await?;
    let mut bytes = damaged.read_at(entry.offset, entry.len(), buffer).await?.into_bytes()?;
    let mut copied = Copied { header, entry, totals: Totals::default(), segments_placed: 0 };
    if header.kind == Kind::Pages {
        let (checked, back) = check_segment(engine, *uuid, entry, Payload::Bytes(bytes)).await?;
        bytes = back.into_bytes()?;
        match checked {
            Ok(_) => copied.totals = totals_of(&bytes, uuid, &entry)?,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        }
    } else {
        let Ok((_, raw)) = parse_chunk(&bytes, uuid, entry.offset) else { return Ok(None) };
        copied.segments_placed = items(&raw).filter(|item| *item == Ok(FrameItem::Segment)).count();
        copied.totals.frame_bytes = entry.first_pfn;
        copied.totals.frame_stored_bytes = entry.len() as u64;
    }
    let len = entry.len() as u64;
    copied.entry.offset = end.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
    copied.entry.check = seal(&mut bytes, copied.entry.offset);
    writer.write_at(copied.entry.offset, Payload::Bytes(bytes.shrink())).await?;
    Ok(Some(copied))
}

fn totals_of(bytes: &[u8], uuid: &ImageUuid, entry: &DirectoryEntry) -> Result<Totals, FormatError> {
    // Makes sure that the segment is whole.
    let references = references(uuid, entry, bytes)?;
    let mut totals = Totals::default();
    totals.add_segment(entry, &tally(&PageTable::parse(bytes, uuid, entry.offset)?, bytes));
    for (_, _, reference) in references {
        totals.rests_on[usize::from(reference.ancestor & 0xf)] += 1;
    }
    Ok(totals)
}

/// The index of the new image as its parts come in.
#[derive(Default)]
struct Rebuilt {
    segments: Vec<DirectoryEntry>,
    frames: Vec<DirectoryEntry>,
    totals: Totals,
    segments_placed: usize,
    last_frame: Option<u32>,
}

impl Rebuilt {
    fn add(&mut self, copied: &Copied) {
        let list = match copied.header.kind {
            Kind::Pages => &mut self.segments,
            Kind::Frame => &mut self.frames,
        };
        let number = copied.header.number as usize;
        if list.len() <= number {
            list.resize(number + 1, DirectoryEntry::LOST);
        }
        list[number] = copied.entry;
        self.segments_placed += copied.segments_placed;
        if copied.header.last {
            self.last_frame = Some(copied.header.number);
        }
        self.totals += copied.totals;
    }

    /// The same page of an ancestor may be a difference there, which rests on another one: nobody
    /// looks into them here, so all count as needed if any is.
    fn count_indirect(&mut self, ancestors: usize) {
        let rests_on = &mut self.totals.rests_on;
        if rests_on.iter().any(|&pages| pages > 0) {
            rests_on.iter_mut().take(ancestors).for_each(|pages| *pages = (*pages).max(1));
        }
    }

    fn report(&self) -> RecoverReport {
        let whole = |list: &[DirectoryEntry]| list.iter().filter(|entry| !entry.is_lost()).count() as u64;
        let (segments, frame_chunks) = (whole(&self.segments), whole(&self.frames));
        let frame_complete = self.last_frame.is_some_and(|last| u64::from(last) + 1 == frame_chunks);
        RecoverReport {
            segments,
            lost_segments: (self.segments.len().max(self.segments_placed)) as u64 - segments,
            pages: self.totals.pages,
            frame_chunks,
            complete: frame_complete && segments == self.segments_placed as u64,
        }
    }
}
