//! Ancestors' pages, many at once: read in few large requests in parallel, and handed on as
//! they are stored, to be decoded where they are needed.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::lineage::Lineage;
use super::locate::{Finder, Located, Wanted, translate};
use super::{BASE_SLOTS, EngineError};
use crate::PAGE_SIZE;
use crate::buffer::{BudgetTooSmall, Buffer, BufferPool, Reservation};
use crate::format::FormatError;
use crate::format::ancestor::ANCESTORS_MAX;
use crate::format::entry::{Entry, GRANULE};
use crate::segment::{Base, Bases, BlobAt, StoredPage, difference_reference};

/// Reads under way at once for one batch.
const READS_AT_ONCE: usize = 16;
/// What reading a page may take, gaps and what it rests on in turn included, in bytes; units may
/// take more.
const BYTES_A_PAGE: usize = 2 * PAGE_SIZE;

/// What reading cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) reads: u64,
    pub(super) bytes: u64,
    pub(super) max_bytes: u64,
}

/// Memory for what a [`Plan`] reads.
pub(super) struct Room {
    /// For the longest stretch.
    pub(super) slot: Option<Buffer>,
    /// For the others.
    pub(super) reservation: Reservation,
}

/// Located pages, and the reads that bring them.
pub(super) struct Plan {
    located: Vec<Located>,
    stretches: Vec<Stretch>,
    bytes: usize,
}

impl Plan {
    /// As many reads as the storages think best, within [`BYTES_A_PAGE`] on average.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`] for an ancestor that is not at hand.
    pub(super) fn of(lineage: &Lineage, located: Vec<Located>) -> Result<Self, EngineError> {
        let differences = located.iter().filter(|located| is_difference(located)).count();
        let closest = stretches(lineage, &located, 0)?;
        let bytes_max = (located.len() * BYTES_A_PAGE).max(total(&closest) + differences * BYTES_A_PAGE);
        // Each difference rests on a page that is known when the difference was read.
        let stretches = match located.len() {
            0 | 1 => closest,
            _ => stretches(lineage, &located, bytes_max - differences * PAGE_SIZE)?,
        };
        let bytes = bytes_max.min(total(&stretches) + differences * BYTES_A_PAGE);
        Ok(Self { located, stretches, bytes })
    }

    /// Whether there is no page in it.
    pub(super) fn is_empty(&self) -> bool {
        self.located.is_empty()
    }

    /// Bytes that it will read at most.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory for the reading and for `more` bytes, whole or not at all, so that segments in
    /// flight cannot wait for each other's parts of it.
    pub(super) async fn room(&self, pool: &BufferPool, more: usize) -> Result<Room, BudgetTooSmall> {
        let slot = pool.slot_bytes();
        let largest = self.stretches.iter().map(|stretch| stretch.len).max().unwrap_or(0);
        let beside = self.bytes - largest + more;
        // Memory that was used before is worth its size: new memory costs as much as reading.
        if largest > slot / 8 && largest <= slot && slot + beside <= BASE_SLOTS * slot {
            let (slot, reservation) = pool.take_slot_and_reserve(beside).await?;
            return Ok(Room { slot: Some(slot), reservation });
        }
        Ok(Room { slot: None, reservation: pool.reserve(self.bytes + more).await? })
    }

    /// Adds the pages, and what differences among them rest on, to `bases`.
    pub(super) async fn read(
        mut self,
        lineage: &Lineage,
        slot: Option<Buffer>,
        bases: &mut Bases,
        cost: &mut Cost,
    ) -> Result<(), EngineError> {
        name_images(lineage, &self.located, bases)?;
        let room = self.bytes - total(&self.stretches);
        if let Some(largest) = self.stretches.iter_mut().max_by_key(|stretch| stretch.len) {
            largest.memory = slot;
        }
        let pages = read_blobs(lineage, &self.located, self.stretches, &mut bases.buffers, cost).await?;
        let under = locate_under(lineage, &self.located, &pages, bases).await?;
        let mut under_pages = Vec::new();
        if !under.is_empty() {
            name_images(lineage, &under, bases)?;
            let stretches = stretches(lineage, &under, room)?;
            under_pages = read_blobs(lineage, &under, stretches, &mut bases.buffers, cost).await?;
        }
        for (located, page) in self.located.iter().zip(pages) {
            if bases.pages.len() <= located.index {
                bases.pages.resize(located.index + 1, None);
            }
            let (reference, likeness) = (located.reference, located.likeness);
            bases.pages[located.index] = Some(Base { reference, likeness, page: Some(page), under: None });
        }
        for (located, page) in under.iter().zip(under_pages) {
            if let Some(Some(base)) = bases.pages.get_mut(located.index) {
                base.under = Some((located.reference, page));
            }
        }
        Ok(())
    }
}

/// Notes what errors are to call the images that hold these pages.
fn name_images(lineage: &Lineage, located: &[Located], bases: &mut Bases) -> Result<(), EngineError> {
    let mut seen = [false; ANCESTORS_MAX];
    for located in located {
        let number = located.reference.ancestor;
        let Some(seen) = seen.get_mut(usize::from(number)).filter(|seen| !**seen) else { continue };
        *seen = true;
        lineage.member(number)?;
        let ancestor = &lineage.members[usize::from(number)].ancestor;
        if bases.names.iter().all(|known| known.uuid != ancestor.uuid) {
            bases.names.push(ancestor.clone());
        }
    }
    Ok(())
}

fn is_difference(located: &Located) -> bool {
    matches!(located.entry, Entry::Difference { .. })
}

/// What the differences among `pages` rest on.
async fn locate_under(
    lineage: &Lineage,
    located: &[Located],
    pages: &[StoredPage],
    bases: &Bases,
) -> Result<Vec<Located>, EngineError> {
    let mut wanted = Vec::new();
    for (located, page) in located.iter().zip(pages).filter(|(located, _)| is_difference(located)) {
        let blob = bases.blob(page);
        let reference = difference_reference(&page.uuid, page.pfn, blob).map_err(|problem| {
            let (part, offset) = (format!("page {}", page.pfn), page.offset);
            let ancestor = lineage.name(located.reference.ancestor);
            FormatError::AncestorDamaged { ancestor, offset, part, problem }
        })?;
        let reference = translate(lineage, located.reference.ancestor, reference)?;
        wanted.extend(reference.map(|reference| Wanted { index: located.index, pfn: page.pfn, reference }));
    }
    let mut finder = Finder::new(lineage);
    finder.load(&wanted).await?;
    let mut under = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let found = finder.find(wanted).await?;
        // No writer makes differences to pages of units, which are longer than what is reserved.
        under.extend(found.filter(|found| !matches!(found.entry, Entry::Unit { .. })));
    }
    Ok(under)
}

/// One storage read, for one or several pages that lie close together.
struct Stretch {
    ancestor: u8,
    at: u64,
    len: usize,
    /// Which of the located pages, and their place in the stretch.
    pages: Vec<(usize, usize)>,
    /// Where it is read to, if not to memory of its own.
    memory: Option<Buffer>,
}

fn total(stretches: &[Stretch]) -> usize {
    stretches.iter().map(|stretch| stretch.len).sum()
}

/// Reads the stretches into `buffers`; gives all located pages as they are stored.
async fn read_blobs(
    lineage: &Lineage,
    located: &[Located],
    stretches: Vec<Stretch>,
    buffers: &mut Vec<Buffer>,
    cost: &mut Cost,
) -> Result<Vec<StoredPage>, EngineError> {
    let mut pages = Vec::with_capacity(located.len());
    for located in located {
        let uuid = lineage.member(located.reference.ancestor)?.superblock().uuid;
        let (pfn, entry, offset) = (located.pfn, located.entry, located.extent.map_or(0, |(at, _)| at));
        pages.push(StoredPage { uuid, pfn, entry, offset, blob: None });
    }
    let reads = stretches.into_iter().map(|mut stretch| async move {
        // The caller's reservation covers memory of its own.
        let buffer = stretch.memory.take().unwrap_or_else(|| Buffer::unpooled(vec![0; stretch.len]));
        let reader = lineage.member(stretch.ancestor)?.reader();
        let bytes = reader.read_at(stretch.at, stretch.len, buffer).await?.into_bytes()?;
        Ok::<_, EngineError>((stretch, bytes))
    });
    let read: Vec<(Stretch, Buffer)> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    for (stretch, bytes) in read {
        cost.reads += 1;
        cost.bytes += bytes.len() as u64;
        cost.max_bytes = cost.max_bytes.max(bytes.len() as u64);
        for (page, at) in stretch.pages {
            let len = located[page].extent.map_or(0, |(_, len)| len);
            pages[page].blob = Some(BlobAt { buffer: buffers.len(), at, len });
        }
        buffers.push(bytes);
    }
    Ok(pages)
}

/// A page's place: ancestor, offset and length in bytes, and which of the located pages it is.
type Place = (u8, u64, usize, usize);

/// Pages by where they lie, those close together in one stretch, within `bytes_max`; that must
/// be enough for pages without gaps.
fn stretches(lineage: &Lineage, located: &[Located], bytes_max: usize) -> Result<Vec<Stretch>, EngineError> {
    let mut order: Vec<Place> = located
        .iter()
        .enumerate()
        .filter_map(|(page, located)| {
            located.extent.map(|(at, len)| (located.reference.ancestor, at, len, page))
        })
        .collect();
    order.sort_unstable();
    let mut gaps = [0; ANCESTORS_MAX];
    for pages in order.chunk_by(|one, next| one.0 == next.0) {
        let ancestor = pages[0].0;
        gaps[usize::from(ancestor)] = lineage.member(ancestor)?.reader().request_bytes();
    }
    let joined_within = |part: usize| joined(&order, &gaps.map(|gap| (gap / part).max(GRANULE - 1)));
    let fits = |stretches: &Vec<Stretch>| total(stretches) <= bytes_max;
    let found = [1, 4].into_iter().map(joined_within).find(fits);
    Ok(found.unwrap_or_else(|| joined(&order, &[GRANULE - 1; ANCESTORS_MAX])))
}

/// Ordered pages in stretches without longer gaps than `gaps` allows for each ancestor.
fn joined(order: &[Place], gaps: &[usize; ANCESTORS_MAX]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for &(ancestor, at, len, page) in order {
        if let Some(stretch) = stretches.last_mut().filter(|stretch| stretch.ancestor == ancestor) {
            let start = usize::try_from(at - stretch.at).unwrap_or(usize::MAX);
            if start <= stretch.len.saturating_add(gaps[usize::from(ancestor)]) {
                stretch.len = stretch.len.max(start + len);
                stretch.pages.push((page, start));
                continue;
            }
        }
        stretches.push(Stretch { ancestor, at, len, pages: vec![(page, 0)], memory: None });
    }
    stretches
}
