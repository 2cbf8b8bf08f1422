//! Single pages straight out of an image: one storage read each, two for a page that is a
//! difference to an ancestor's; no neighbour decoded.

use futures::stream::{self, StreamExt};

use super::gather::{Cost, Plan};
use super::locate::{Wanted, locate};
use super::{EngineError, Image};
use crate::buffer::Buffer;
use crate::ecbc::PageDecoder;
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::reference::Reference;
use crate::segment::{Bases, PageProblem, difference_reference, pages_decoded};
use crate::{PAGE_SIZE, Page};

/// Pages under way at once: enough to hide a LAN's latency.
const PAGES_AT_ONCE: usize = 32;

/// What an extraction cost. Loading the index is counted apart from reading pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractReport {
    /// Pages given out.
    pub pages: u64,
    /// Pages that could not be given.
    pub lost_pages: u64,
    /// Storage reads for pages, their ancestors' included.
    pub storage_reads: u64,
    /// Bytes of these reads.
    pub bytes_read: u64,
    /// The largest of them, in bytes.
    pub max_read_bytes: u64,
    /// The most of them for one page.
    pub max_reads_a_page: u64,
    /// Pages that were decoded: of a unit all.
    pub pages_decoded: u64,
    /// Storage reads for superblocks, footers, directories and page tables.
    pub index_reads: u64,
    /// Bytes of these reads.
    pub index_bytes: u64,
}

/// A page that cannot be given.
#[derive(Debug)]
pub struct LostPage {
    /// Which.
    pub pfn: u64,
    /// Why: damage, in the image or in an ancestor, or [`EngineError::Ancestor`] if it is kept in one
    /// that is missing.
    pub error: EngineError,
}

impl From<LostPage> for EngineError {
    fn from(page: LostPage) -> Self {
        page.error
    }
}

/// Gives the contents of each of `pfns`, in that order, to `sink`; of pages that are damaged or kept in
/// an image that is missing, that. One page's damage does not keep others from being read.
///
/// # Errors
/// [`EngineError::NoSuchPage`]; the storage's, unless it is the page's stored bytes that are missing;
/// the sink's.
pub async fn extract(
    image: &Image,
    pfns: impl IntoIterator<Item = u64>,
    mut sink: impl FnMut(Result<&Page, LostPage>) -> Result<(), EngineError>,
) -> Result<ExtractReport, EngineError> {
    let before = image.index_cost();
    let opened = image.open_reads();
    let mut report = ExtractReport::default();
    let reads = pfns
        .into_iter()
        .map(|pfn| async move { fetch(image, pfn).await.map_err(|error| LostPage { pfn, error }) });
    let mut stored = stream::iter(reads).buffered(PAGES_AT_ONCE);
    let mut decoder = PageDecoder::new();
    let mut page = [0; PAGE_SIZE];
    while let Some(found) = stored.next().await {
        let found = match found {
            Ok(found) => found,
            Err(LostPage { error, .. }) if !is_the_pages_own(&error) => return Err(error),
            Err(lost) => {
                report.lost_pages += 1;
                sink(Err(lost))?;
                continue;
            }
        };
        report.count(&found);
        if let Err(problem) = found.decode(&mut decoder, image, &mut page) {
            report.pages -= 1;
            report.lost_pages += 1;
            let error = problem.at(found.at, found.pfn).into();
            sink(Err(LostPage { pfn: found.pfn, error }))?;
        } else {
            sink(Ok(&page))?;
        }
    }
    let after = image.index_cost();
    report.index_reads = opened.reads + after.reads - before.reads;
    report.index_bytes = opened.bytes + after.bytes - before.bytes;
    Ok(report)
}

impl ExtractReport {
    fn count(&mut self, found: &Found) {
        let own = found.blob.len() as u64;
        let reads = u64::from(own > 0) + found.base_cost.reads;
        self.pages += 1;
        self.storage_reads += reads;
        self.bytes_read += own + found.base_cost.bytes;
        self.max_read_bytes = self.max_read_bytes.max(own).max(found.base_cost.max_bytes);
        self.max_reads_a_page = self.max_reads_a_page.max(reads);
        self.pages_decoded += pages_decoded(found.entry, &found.blob) as u64;
    }
}

/// Whether an error is of one page, or of some, and says nothing of others.
fn is_the_pages_own(error: &EngineError) -> bool {
    error.is_damage() || matches!(error, EngineError::Ancestor { .. })
}

/// A page's stored bytes.
struct Found {
    pfn: u64,
    entry: Entry,
    /// Byte offset in the image.
    at: u64,
    blob: Buffer,
    bases: Bases,
    base_cost: Cost,
}

impl Found {
    fn decode(&self, decoder: &mut PageDecoder, image: &Image, page: &mut Page) -> Result<(), PageProblem> {
        let uuid = &image.superblock().uuid;
        self.bases.decode_upon(decoder, uuid, self.pfn, self.entry, &self.blob, 0, page)
    }
}

/// Reads the stored bytes of `pfn`, and those of what it rests on.
async fn fetch(image: &Image, pfn: u64) -> Result<Found, EngineError> {
    let found = image.index().find(image, pfn).await?;
    let (table, index) = found.ok_or(EngineError::NoSuchPage { pfn })?;
    let entry = table.entry(index);
    let (at, blob) = match entry.extent() {
        None => (table.offset, Buffer::unpooled(Vec::new())),
        Some((at, len)) => {
            let at = table.offset + (table.header.table_end + at) as u64;
            let buffer = Buffer::unpooled(vec![0; len]);
            (at, image.reader().read_at(at, len, buffer).await?.into_bytes()?)
        }
    };
    let reference = if let Entry::Difference { .. } = entry {
        let read = difference_reference(&image.superblock().uuid, pfn, &blob);
        Some(read.map_err(|problem| FormatError::damaged(at, format!("page {pfn}"), problem))?)
    } else {
        Reference::of_entry(entry)
    };
    let (mut bases, mut base_cost) = (Bases::default(), Cost::default());
    if let Some(reference) = reference {
        let located = locate(image.lineage(), &[Wanted { index: 0, pfn, reference }]).await?;
        Plan::of(image.lineage(), located)?.read(image.lineage(), None, &mut bases, &mut base_cost).await?;
    }
    Ok(Found { pfn, entry, at, blob, bases, base_cost })
}
