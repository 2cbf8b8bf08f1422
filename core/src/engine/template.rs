//! Making and opening templates.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;

use super::replay::Replay;
use super::{Engine, EngineError, Image, Progress, SaveOptions, SaveReport, save};
use crate::buffer::{Buffer, BufferPool, Payload};
use crate::compute::{self, Compute, Work};
use crate::format::frame::{FrameItem, items};
use crate::storage::Storage;
use crate::tape::{Batch, GuestReader, Pfns, TapeError, TapeFormat, TapeItem};
use crate::template::{KEY_LEN, KnownPages, KnownPagesReader, MAGIC, PageHash, Record};
use crate::{PAGE_SIZE, SEGMENT_PAGES};

/// Bytes that a page takes in the set of those that were seen.
const BYTES_A_SEEN_PAGE: usize = 3 * size_of::<PageHash>();

/// Makes a template of all different pages of `images`, under `key`, which must be random and
/// is kept in the template. At most `bytes_max` of memory are used to tell pages apart; what
/// no longer fits is left out.
///
/// # Errors
/// Any of [`EngineError`].
#[expect(clippy::too_many_arguments, reason = "the caller decides each")]
pub async fn make_template(
    engine: &Engine,
    images: &[Image],
    key: [u8; KEY_LEN],
    bytes_max: usize,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    images.iter().try_for_each(Image::check_complete)?;
    let (reading, writing) = engine.halves();
    let mut collector = Collector {
        compute: Arc::clone(&engine.compute),
        key,
        pages_max: bytes_max / BYTES_A_SEEN_PAGE,
        seen: BTreeSet::new(),
        sources: images.iter().map(|image| Replay::new(&reading, image)).collect(),
        current: None,
        records: [&MAGIC[..], &key[..]].concat(),
        next_pfn: 0,
    };
    save(&writing, &mut collector, storage, name, options, progress).await
}

/// The different pages of several tapes, as a tape of their own.
struct Collector<'a> {
    compute: Arc<dyn Compute>,
    key: [u8; KEY_LEN],
    pages_max: usize,
    seen: BTreeSet<PageHash>,
    sources: VecDeque<Replay<'a>>,
    current: Option<Current>,
    /// Frame bytes that follow what was given out.
    records: Vec<u8>,
    next_pfn: u64,
}

/// A batch whose pages are being gone through.
struct Current {
    pages: Buffer,
    records: Vec<Option<Record>>,
    next: usize,
}

impl Collector<'_> {
    /// The next batch of the sources, hashed.
    async fn advance(&mut self) -> Result<bool, EngineError> {
        while let Some(source) = self.sources.front_mut() {
            match source.step().await? {
                None => drop(self.sources.pop_front()),
                Some(TapeItem::Frame(_)) => {}
                Some(TapeItem::Batch(batch)) => {
                    let (key, pages) = (self.key, batch.pages.into_bytes()?);
                    let current = compute::run(&*self.compute, move || {
                        let (arrays, _) = pages.as_chunks::<PAGE_SIZE>();
                        let records = arrays.iter().map(|page| Record::of(&key, page)).collect();
                        (Current { pages, records, next: 0 }, Work::Other)
                    });
                    self.current = Some(current.await?);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Fills `out` with new pages; gives how many there are when it is full or all ends.
    async fn gather(&mut self, out: &mut Buffer) -> Result<usize, EngineError> {
        let mut count = 0;
        while count < SEGMENT_PAGES {
            let Some(current) = &mut self.current else {
                if self.advance().await? {
                    continue;
                }
                break;
            };
            let Some(record) = current.records.get(current.next) else {
                self.current = None;
                continue;
            };
            let from = current.next * PAGE_SIZE;
            current.next += 1;
            if let Some(record) = record
                && self.seen.len() < self.pages_max
                && self.seen.insert(record.hash)
            {
                let to = count * PAGE_SIZE;
                out.spare()[to..to + PAGE_SIZE].copy_from_slice(&current.pages[from..from + PAGE_SIZE]);
                record.write(&mut self.records);
                count += 1;
            }
        }
        out.set_len(count * PAGE_SIZE);
        Ok(count)
    }

    async fn step(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, EngineError> {
        if !self.records.is_empty() {
            return Ok(Some(TapeItem::Frame(std::mem::take(&mut self.records))));
        }
        let mut pages = pool.take_slot().await?;
        let count = self.gather(&mut pages).await?;
        if count == 0 {
            return Ok(None);
        }
        let pfns = Pfns::Run { first: self.next_pfn, count };
        self.next_pfn += count as u64;
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(pages) })))
    }
}

#[async_trait]
impl GuestReader for Collector<'_> {
    fn format(&self) -> TapeFormat {
        TapeFormat::TEMPLATE
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.sources.iter().map(Replay::guest_bytes).sum())
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        self.step(pool).await.map_err(|error| TapeError::Image(Box::new(error)))
    }
}

/// Reads the table of a template's pages, of at most `bytes_max` bytes in memory.
///
/// # Errors
/// [`EngineError::NotATemplate`]; damage; the storage's.
pub async fn open_template(image: &Image, bytes_max: usize) -> Result<KnownPages, EngineError> {
    if image.superblock().tape_format != TapeFormat::TEMPLATE {
        let problem = "the image is not a template; make one of it with: comio template make";
        return Err(EngineError::NotATemplate(problem.into()));
    }
    let unusable =
        |problem: &str| EngineError::NotATemplate(format!("the template cannot be used: {problem}"));
    // What the directory says is bounded by the image's length.
    let pages = image.segments().iter().map(|entry| SEGMENT_PAGES.min(entry.pages as usize)).sum();
    let mut reader = KnownPagesReader::new(pages, bytes_max);
    for entry in image.frames() {
        if reader.is_full() {
            break;
        }
        for item in items(&image.frame_chunk(entry).await?) {
            if let FrameItem::Bytes(bytes) = item? {
                reader.push(bytes).map_err(unusable)?;
            }
        }
    }
    reader.finish().map_err(unusable)
}
