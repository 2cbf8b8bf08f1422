//! Ancestors' pages, many at once: located in their page tables, read in few large requests
//! in parallel, and handed on as they are stored, to be decoded where they are needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::lineage::Lineage;
use super::{EngineError, Image};
use crate::buffer::{Buffer, Reservation};
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::reference::{Place, Reference};
use crate::format::segment::PageTable;
use crate::segment::{Base, Bases, BlobAt, Likeness, StoredPage, difference_reference};

/// Reads under way at once for one batch.
const READS_AT_ONCE: usize = 16;
const GRAIN: usize = 4096;

/// A page of an ancestor that page `index` of a batch rests on, or may rest on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) index: usize,
    /// The batch's page, for references to the same pfn.
    pub(super) pfn: u64,
    pub(super) reference: Reference,
}

/// What reading cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) reads: u64,
    pub(super) bytes: u64,
    pub(super) max_bytes: u64,
}

/// A wanted page, found in its ancestor's table.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) index: usize,
    /// The ancestor that has it, under the lineage's number.
    pub(super) reference: Reference,
    pub(super) entry: Entry,
    pub(super) likeness: Likeness,
    image: Arc<Image>,
    pfn: u64,
    /// Offset in the ancestor and length, in bytes.
    extent: Option<(u64, usize)>,
}

/// Locates and reads `wanted`; a reference that points at a reference is damage.
pub(super) async fn gather(
    lineage: &Lineage,
    wanted: &[Wanted],
    reservation: Option<Reservation>,
) -> Result<(Bases, Cost), EngineError> {
    let mut located = Vec::with_capacity(wanted.len());
    let mut finder = Finder::new(lineage);
    for wanted in wanted {
        let found = finder.find(*wanted).await?.ok_or_else(|| no_such_page(lineage, *wanted))?;
        located.push(found);
    }
    read(lineage, located, reservation).await
}

fn no_such_page(lineage: &Lineage, wanted: Wanted) -> EngineError {
    let ancestor = lineage.members.get(usize::from(wanted.reference.ancestor));
    let name = ancestor.map(|member| member.ancestor.to_string()).unwrap_or_default();
    let part = format!("page {}", wanted.pfn);
    FormatError::damaged(0, part, format!("it rests on a page that {name} does not have")).into()
}

/// Finds pages in their tables; pages in order are found without searching.
pub(super) struct Finder<'a> {
    lineage: &'a Lineage,
    /// For each ancestor the page found last.
    last: BTreeMap<u8, (Arc<PageTable>, usize)>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(lineage: &'a Lineage) -> Self {
        Self { lineage, last: BTreeMap::new() }
    }

    /// Where the page that `wanted` names stands; `None` if the ancestor has no such page.
    pub(super) async fn find(&mut self, wanted: Wanted) -> Result<Option<Located>, EngineError> {
        let Reference { ancestor, place } = wanted.reference;
        let image = self.lineage.member(ancestor)?;
        let found = match place {
            Place::SamePfn => self.by_pfn(ancestor, image, wanted.pfn).await?,
            Place::At { segment, index } => {
                let table = image.index().table(image, segment as usize).await?;
                Some((table, usize::from(index))).filter(|(table, index)| *index < table.len())
            }
        };
        let Some((table, at)) = found else { return Ok(None) };
        let entry = table.entry(at);
        let in_image = |(at, len)| (table.offset + (table.header.table_end + at) as u64, len);
        Ok(Some(Located {
            index: wanted.index,
            reference: wanted.reference,
            entry,
            likeness: Likeness::Changed,
            image: Arc::clone(image),
            pfn: table.pfn(at).unwrap_or(wanted.pfn),
            extent: entry.extent().map(in_image),
        }))
    }

    /// As [`find`](Self::find); where a reference stands there, the page that it names.
    pub(super) async fn follow(&mut self, wanted: Wanted) -> Result<Option<Located>, EngineError> {
        let Some(found) = self.find(wanted).await? else { return Ok(None) };
        let Some(further) = Reference::of_entry(found.entry) else { return Ok(Some(found)) };
        // The ancestor that holds the page may not have found a place in the lineage.
        let Some(reference) = translate(self.lineage, &found.image, further) else { return Ok(None) };
        self.find(Wanted { reference, ..wanted }).await
    }

    async fn by_pfn(
        &mut self,
        ancestor: u8,
        image: &Image,
        pfn: u64,
    ) -> Result<Option<(Arc<PageTable>, usize)>, EngineError> {
        if let Some((table, at)) = self.last.get_mut(&ancestor)
            && table.pfn(*at + 1) == Some(pfn)
        {
            *at += 1;
            return Ok(Some((Arc::clone(table), *at)));
        }
        let found = image.index().find(image, pfn).await?;
        if let Some(found) = &found {
            self.last.insert(ancestor, found.clone());
        }
        Ok(found)
    }
}

/// A reference made in `image`, in the lineage's numbers.
fn translate(lineage: &Lineage, image: &Image, reference: Reference) -> Option<Reference> {
    let ancestor = image.superblock().ancestors.get(usize::from(reference.ancestor))?;
    Some(Reference { ancestor: lineage.number_of(&ancestor.uuid)?, place: reference.place })
}

/// Bytes that [`read`] may need for so many pages, differences counted twice.
pub(super) fn bytes_needed(pages: usize) -> usize {
    pages * GRAIN
}

/// Reads located pages, and what differences among them rest on.
pub(super) async fn read(
    lineage: &Lineage,
    located: Vec<Located>,
    reservation: Option<Reservation>,
) -> Result<(Bases, Cost), EngineError> {
    let mut bases = Bases { reservation, ..Bases::default() };
    let mut cost = Cost::default();
    add(lineage, located, &mut bases, &mut cost).await?;
    Ok((bases, cost))
}

/// As [`read`], to what was read before.
pub(super) async fn add(
    lineage: &Lineage,
    located: Vec<Located>,
    bases: &mut Bases,
    cost: &mut Cost,
) -> Result<(), EngineError> {
    let pages = read_blobs(&located, &mut bases.buffers, cost).await?;
    let mut under = Vec::new();
    let mut finder = Finder::new(lineage);
    for (located, page) in located.iter().zip(&pages) {
        if let (Entry::Difference { .. }, Some(blob)) = (page.entry, page.blob) {
            let bytes = &bases.buffers[blob.buffer][blob.at..][..blob.len];
            let reference = difference_reference(&page.uuid, page.pfn, bytes).map_err(|problem| {
                let at = located.extent.map_or(0, |(at, _)| at);
                FormatError::damaged(at, format!("page {} of an ancestor", page.pfn), problem)
            })?;
            let Some(reference) = translate(lineage, &located.image, reference) else { continue };
            let wanted = Wanted { index: located.index, pfn: page.pfn, reference };
            under.extend(finder.find(wanted).await?);
        }
    }
    let under_pages = read_blobs(&under, &mut bases.buffers, cost).await?;
    for (located, page) in located.iter().zip(pages) {
        if bases.pages.len() <= located.index {
            bases.pages.resize(located.index + 1, None);
        }
        let base =
            Base { reference: located.reference, likeness: located.likeness, page: Some(page), under: None };
        bases.pages[located.index] = Some(base);
    }
    for (located, page) in under.iter().zip(under_pages) {
        if let Some(Some(base)) = bases.pages.get_mut(located.index) {
            base.under = Some((located.reference, page));
        }
    }
    Ok(())
}

/// One storage read, for one or several pages that lie close together.
struct Stretch {
    image: Arc<Image>,
    at: u64,
    len: usize,
    /// Which of the located pages, and their place in the stretch.
    pages: Vec<(usize, usize)>,
}

async fn read_blobs(
    located: &[Located],
    buffers: &mut Vec<Buffer>,
    cost: &mut Cost,
) -> Result<Vec<StoredPage>, EngineError> {
    let mut pages: Vec<StoredPage> = located
        .iter()
        .map(|located| StoredPage {
            uuid: located.image.superblock().uuid,
            pfn: located.pfn,
            entry: located.entry,
            blob: None,
        })
        .collect();
    let stretches = stretches(located);
    let reads: Vec<BoxFuture<'static, Result<Buffer, EngineError>>> = stretches
        .iter()
        .map(|stretch| read_stretch(Arc::clone(&stretch.image), stretch.at, stretch.len).boxed())
        .collect();
    let read: Vec<Buffer> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    for (stretch, bytes) in stretches.iter().zip(read) {
        cost.reads += 1;
        cost.bytes += bytes.len() as u64;
        cost.max_bytes = cost.max_bytes.max(bytes.len() as u64);
        for &(page, at) in &stretch.pages {
            let len = located[page].extent.map_or(0, |(_, len)| len);
            pages[page].blob = Some(BlobAt { buffer: buffers.len(), at, len });
        }
        buffers.push(bytes);
    }
    Ok(pages)
}

async fn read_stretch(image: Arc<Image>, at: u64, len: usize) -> Result<Buffer, EngineError> {
    // The caller's reservation covers these bytes.
    let buffer = Buffer::unpooled(vec![0; len]);
    Ok(image.reader().read_at(at, len, buffer).await?.into_bytes()?)
}

/// Pages by where they lie, those close together in one stretch: never more 4 KiB units than
/// there are pages in it.
fn stretches(located: &[Located]) -> Vec<Stretch> {
    let mut order: Vec<(u8, u64, usize, usize)> = located
        .iter()
        .enumerate()
        .filter_map(|(page, located)| {
            located.extent.map(|(at, len)| (located.reference.ancestor, at, len, page))
        })
        .collect();
    order.sort_unstable();
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut last_ancestor = None;
    for (ancestor, at, len, page) in order {
        if let Some(stretch) = stretches.last_mut().filter(|_| last_ancestor == Some(ancestor)) {
            let start = usize::try_from(at - stretch.at).unwrap_or(usize::MAX);
            let whole = start.saturating_add(len).max(stretch.len);
            if whole <= (stretch.pages.len() + 1) * GRAIN {
                stretch.len = whole;
                stretch.pages.push((page, start));
                continue;
            }
        }
        last_ancestor = Some(ancestor);
        let image = Arc::clone(&located[page].image);
        stretches.push(Stretch { image, at, len, pages: vec![(page, 0)] });
    }
    stretches
}
