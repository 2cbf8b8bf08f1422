//! What is left of a flat dump: an incomplete image's pages at their places.

use super::restore::fetch;
use super::{Engine, EngineError, Image, Phase, Progress};
use crate::format::FormatError;
use crate::tape::{Batch, GuestWriter, Pfns, TapeFormat, TapeItem};
use crate::{PAGE_SIZE, SEGMENT_PAGES};

/// Gives the pages of an incomplete image of a flat dump to `writer`, with zeros for the
/// missing ones, up to the last page that is there. Gives the number of missing pages.
///
/// # Errors
/// As [`restore`](super::restore()); and for images of anything but flat dumps, which cannot be
/// put together from a part.
pub async fn restore_partial(
    engine: &Engine,
    image: &Image,
    writer: &mut dyn GuestWriter,
    progress: &Progress,
) -> Result<u64, EngineError> {
    if image.superblock().tape_format != TapeFormat::RAW {
        return Err(EngineError::Incomplete(
            "only flat dumps can be unpacked in part; use extract for single pages".into(),
        ));
    }
    progress.set_total(image.footer().totals.pages * PAGE_SIZE as u64);
    progress.enter(Phase::Moving);
    let mut next_pfn = 0;
    let mut missing = 0;
    for (number, entry) in (0u64..).zip(image.segments()).filter(|(_, entry)| !entry.is_lost()) {
        // A flat dump's segments are full, so this also bounds how many zeros are written.
        if entry.first_pfn < next_pfn || entry.first_pfn > number * SEGMENT_PAGES as u64 {
            return Err(FormatError::damaged(entry.offset, "a segment", "its pages are out of place").into());
        }
        missing += entry.first_pfn - next_pfn;
        write_zeros(engine, next_pfn, entry.first_pfn, writer).await?;
        next_pfn = entry.first_pfn + u64::from(entry.pages);
        let (entry, batch) = fetch(engine, image, *entry).await?;
        writer.write(TapeItem::Batch(batch)).await?;
        progress.add(u64::from(entry.pages) * PAGE_SIZE as u64, entry.len() as u64);
    }
    writer.finish().await?;
    progress.enter(Phase::Done);
    Ok(missing)
}

async fn write_zeros(
    engine: &Engine,
    first: u64,
    end: u64,
    writer: &mut dyn GuestWriter,
) -> Result<(), EngineError> {
    let mut first = first;
    while first < end {
        let count = usize::try_from(end - first).map_or(SEGMENT_PAGES, |left| left.min(SEGMENT_PAGES));
        let mut pages = engine.pages.take_slot().await?;
        pages.spare()[..count * PAGE_SIZE].fill(0);
        pages.set_len(count * PAGE_SIZE);
        let batch = Batch { pfns: Pfns::Run { first, count }, pages: crate::buffer::Payload::Bytes(pages) };
        writer.write(TapeItem::Batch(batch)).await?;
        first += count as u64;
    }
    Ok(())
}
