//! From pfn to segment and entry, and the page tables that were loaded for it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::{EngineError, Image};
use crate::SEGMENT_PAGES;
use crate::buffer::Buffer;
use crate::format::directory::DirectoryEntry;
use crate::format::segment::PageTable;
use crate::segment::parse_table;

/// Page tables kept, of about 8 KiB each: enough for random pages of an 8 GiB guest.
const TABLES_MAX: usize = 2048;

/// Where an image's pages are. Tables are loaded when they are first needed.
pub(super) struct PageIndex {
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

impl PageIndex {
    pub(super) fn new(segments: &[DirectoryEntry]) -> Self {
        let mut by_pfn = Vec::new();
        let mut scattered = Vec::new();
        for (number, entry) in segments.iter().enumerate() {
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
        Self { by_pfn, scattered, cache: Mutex::default() }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads of page tables so far, and their bytes.
    pub(super) fn table_reads(&self) -> (u64, u64) {
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

    /// The segment that most likely holds `pfn`.
    pub(super) fn likeliest(&self, pfn: u64) -> Option<usize> {
        self.candidates(pfn).next()
    }

    /// The table that `pfn` is in, and its index there.
    pub(super) async fn find(
        &self,
        image: &Image,
        pfn: u64,
    ) -> Result<Option<(Arc<PageTable>, usize)>, EngineError> {
        for number in self.candidates(pfn) {
            let table = self.table(image, number).await?;
            if let Some(index) = table.index_of(pfn) {
                return Ok(Some((table, index)));
            }
        }
        Ok(None)
    }

    /// The table of segment `number`, loaded at most once while it is kept.
    pub(super) async fn table(&self, image: &Image, number: usize) -> Result<Arc<PageTable>, EngineError> {
        let cell = self.cache().cell(number);
        cell.get_or_try_init(|| self.load_table(image, number)).await.cloned()
    }

    async fn load_table(&self, image: &Image, number: usize) -> Result<Arc<PageTable>, EngineError> {
        let entry = image.segments().get(number).filter(|entry| !entry.is_lost());
        let entry =
            *entry.ok_or_else(|| EngineError::Incomplete(format!("segment {number} is not in it")))?;
        let len = entry.table_end();
        let buffer = Buffer::unpooled(vec![0; len]);
        let bytes = image.reader().read_at(entry.offset, len, buffer).await?.into_bytes()?;
        let table = Arc::new(parse_table(&bytes, &image.superblock().uuid, &entry)?);
        let mut cache = self.cache();
        cache.reads += 1;
        cache.bytes += len as u64;
        Ok(table)
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

impl fmt::Debug for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageIndex").field("segments", &self.by_pfn.len()).finish_non_exhaustive()
    }
}
