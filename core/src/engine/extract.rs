//! Single pages straight out of an image: one storage read each, no neighbour decoded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, StreamExt};
use tokio::sync::OnceCell;

use super::{EngineError, Image};
use crate::buffer::Buffer;
use crate::ecbc::PageDecoder;
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::segment::PageTable;
use crate::segment::{decode_page, parse_table};
use crate::{PAGE_SIZE, Page, SEGMENT_PAGES};

/// Storage reads under way at once: enough to hide a LAN's latency.
const READS_AT_ONCE: usize = 32;
/// Page tables kept, of about 8 KiB each: enough for random pages of an 8 GiB guest.
const TABLES_MAX: usize = 2048;

/// What an extraction cost. Loading the index is counted apart from reading pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractReport {
    /// Pages given out.
    pub pages: u64,
    /// Storage reads for pages.
    pub storage_reads: u64,
    /// Bytes of these reads.
    pub bytes_read: u64,
    /// The largest of them, in bytes.
    pub max_read_bytes: u64,
    /// Pages whose coder ran.
    pub pages_decoded: u64,
    /// Storage reads for superblock, footer, directory and page tables.
    pub index_reads: u64,
    /// Bytes of these reads.
    pub index_bytes: u64,
}

/// Gives the contents of each of `pfns`, in that order, to `sink`.
///
/// # Errors
/// [`EngineError::NoSuchPage`]; damage of the pages concerned; the storage's; the sink's.
pub async fn extract(
    image: &Image,
    pfns: impl IntoIterator<Item = u64>,
    mut sink: impl FnMut(&Page) -> Result<(), EngineError>,
) -> Result<ExtractReport, EngineError> {
    let opened = image.open_reads();
    let mut report =
        ExtractReport { index_reads: opened.reads, index_bytes: opened.bytes, ..ExtractReport::default() };
    let pages = PageIndex::new(image);
    let reads = pfns.into_iter().map(|pfn| pages.fetch(pfn));
    let mut stored = stream::iter(reads).buffered(READS_AT_ONCE);
    let mut decoder = PageDecoder::new();
    let mut page = [0; PAGE_SIZE];
    while let Some(found) = stored.next().await {
        let found = found?;
        let uuid = &image.superblock().uuid;
        decode_page(&mut decoder, uuid, found.pfn, found.entry, &found.blob, &mut page)
            .map_err(|problem| FormatError::damaged(found.at, format!("page {}", found.pfn), problem))?;
        report.count(&found);
        sink(&page)?;
    }
    let (index_reads, index_bytes) = pages.table_reads();
    report.index_reads += index_reads;
    report.index_bytes += index_bytes;
    Ok(report)
}

impl ExtractReport {
    fn count(&mut self, found: &Found) {
        let len = found.blob.len() as u64;
        self.pages += 1;
        self.storage_reads += u64::from(len > 0);
        self.bytes_read += len;
        self.max_read_bytes = self.max_read_bytes.max(len);
        self.pages_decoded += u64::from(matches!(found.entry, Entry::Blob { .. }));
    }
}

/// A page's stored bytes.
struct Found {
    pfn: u64,
    entry: Entry,
    /// Byte offset in the image.
    at: u64,
    blob: Buffer,
}

/// From pfn to segment, and the page tables that were loaded.
struct PageIndex<'a> {
    image: &'a Image,
    /// First pfn and segment number, ascending.
    by_pfn: Vec<(u64, usize)>,
    /// Segments whose pfns are an explicit list: anything may be in them.
    scattered: Vec<usize>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    tables: BTreeMap<usize, Arc<OnceCell<Arc<PageTable>>>>,
    order: VecDeque<usize>,
    reads: u64,
    bytes: u64,
}

impl<'a> PageIndex<'a> {
    fn new(image: &'a Image) -> Self {
        let mut by_pfn = Vec::new();
        let mut scattered = Vec::new();
        for (number, entry) in image.segments().iter().enumerate() {
            if entry.is_lost() {
                continue;
            }
            if entry.listed {
                scattered.push(number);
            } else {
                by_pfn.push((entry.first_pfn, number));
            }
        }
        by_pfn.sort_unstable();
        Self { image, by_pfn, scattered, cache: Mutex::default() }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_reads(&self) -> (u64, u64) {
        let cache = self.cache();
        (cache.reads, cache.bytes)
    }

    /// Segments that may hold `pfn`, the likeliest first.
    fn candidates(&self, pfn: u64) -> impl Iterator<Item = usize> + '_ {
        let end = self.by_pfn.partition_point(|&(first, _)| first <= pfn);
        let near = self.by_pfn[..end].iter().rev();
        let near = near.take_while(move |&&(first, _)| pfn - first < SEGMENT_PAGES as u64);
        near.map(|&(_, number)| number).chain(self.scattered.iter().rev().copied())
    }

    /// Reads the stored bytes of `pfn`: one storage read once its segment's table is loaded.
    async fn fetch(&self, pfn: u64) -> Result<Found, EngineError> {
        for number in self.candidates(pfn) {
            let table = self.table(number).await?;
            if let Some(index) = table.index_of(pfn) {
                return self.read(pfn, &table, index).await;
            }
        }
        Err(EngineError::NoSuchPage { pfn })
    }

    async fn read(&self, pfn: u64, table: &PageTable, index: usize) -> Result<Found, EngineError> {
        let entry = table.entry(index);
        let Some((at, len)) = entry.extent() else {
            return Ok(Found { pfn, entry, at: table.offset, blob: Buffer::unpooled(Vec::new()) });
        };
        let at = table.offset + (table.header.table_end + at) as u64;
        let buffer = Buffer::unpooled(vec![0; len]);
        let blob = self.image.reader().read_at(at, len, buffer).await?.into_bytes()?;
        Ok(Found { pfn, entry, at, blob })
    }

    /// The table of segment `number`, loaded at most once while it is kept.
    async fn table(&self, number: usize) -> Result<Arc<PageTable>, EngineError> {
        let cell = self.cache().cell(number);
        cell.get_or_try_init(|| self.load_table(number)).await.cloned()
    }

    async fn load_table(&self, number: usize) -> Result<Arc<PageTable>, EngineError> {
        let entry = self.image.segments()[number];
        let len = entry.table_end();
        let buffer = Buffer::unpooled(vec![0; len]);
        let bytes = self.image.reader().read_at(entry.offset, len, buffer).await?.into_bytes()?;
        let mut cache = self.cache();
        cache.reads += 1;
        cache.bytes += len as u64;
        Ok(Arc::new(parse_table(&bytes, &self.image.superblock().uuid, &entry)?))
    }
}

impl Cache {
    fn cell(&mut self, number: usize) -> Arc<OnceCell<Arc<PageTable>>> {
        if let Some(cell) = self.tables.get(&number) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(OnceCell::new());
        self.tables.insert(number, Arc::clone(&cell));
        self.order.push_back(number);
        if self.order.len() > TABLES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.tables.remove(&oldest);
        }
        cell
    }
}
