//! A segment to pages.

use super::bases::LastUnit;
use super::encode::{blob_check, blob_seed};
use super::{Bases, PageProblem, SegmentError, Tally, unit};
use crate::buffer::{Buffer, Payload};
use crate::ecbc::PageDecoder;
use crate::format::directory::DirectoryEntry;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, content_check};
use crate::format::reference::Reference;
use crate::format::segment::PageTable;
use crate::format::{FormatError, ImageUuid};
use crate::tape::Batch;
use crate::{PAGE_SIZE, Page};

/// Decodes the whole segment `bytes` that `entry` describes; what its pages rest on is in
/// `bases`.
pub(super) fn segment(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
    bytes: &[u8],
    bases: &Bases,
    mut pages: Buffer,
) -> Result<(Batch, Tally), SegmentError> {
    let table = parse_table(bytes, uuid, entry)?;
    let mut tally = Tally::default();
    let (page_arrays, _) = pages.spare().as_chunks_mut::<PAGE_SIZE>();
    if bytes.len() < table.header.len() || page_arrays.len() < table.len() {
        return Err(FormatError::damaged(entry.offset, "a segment", "it is cut off").into());
    }
    for (index, (pfn, page)) in table.pfns.iter().zip(page_arrays).enumerate() {
        let page_entry = table.entry(index);
        let blob = blob_of(&table, bytes, index);
        let decoded = bases.decode_upon(decoder, uuid, pfn, page_entry, blob, index, page);
        decoded.map_err(|problem| page_damage(&table, index, pfn, problem))?;
        tally.add(page_entry.tag(), unit::own_bytes(page_entry, blob));
    }
    pages.set_len(table.len() * PAGE_SIZE);
    Ok((Batch { pfns: table.pfns, pages: Payload::Bytes(pages) }, tally))
}

fn blob_of<'a>(table: &PageTable, bytes: &'a [u8], index: usize) -> &'a [u8] {
    let extent = table.entry(index).extent();
    extent.map_or(&[][..], |(at, len)| &bytes[table.header.table_end + at..][..len])
}

fn page_damage(table: &PageTable, index: usize, pfn: u64, problem: impl Into<PageProblem>) -> FormatError {
    let in_segment = table.entry(index).extent().map_or(0, |(at, _)| (table.header.table_end + at) as u64);
    problem.into().at(table.offset + in_segment, pfn)
}

/// What the pages of a whole segment are.
pub(crate) fn tally(table: &PageTable, bytes: &[u8]) -> Tally {
    let mut tally = Tally::default();
    for (index, entry) in table.entries().enumerate() {
        tally.add(entry.tag(), unit::own_bytes(entry, blob_of(table, bytes, index)));
    }
    tally
}

/// What each page of a segment rests on, by index, with its pfn.
///
/// # Errors
/// Damage.
pub(crate) fn references(
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
    bytes: &[u8],
) -> Result<Vec<(usize, u64, Reference)>, FormatError> {
    let table = parse_table(bytes, uuid, entry)?;
    if bytes.len() < table.header.len() {
        return Err(FormatError::damaged(entry.offset, "a segment", "it is cut off"));
    }
    let mut found = Vec::new();
    for (index, pfn) in table.pfns.iter().enumerate() {
        let page_entry = table.entry(index);
        let reference = if let Entry::Difference { .. } = page_entry {
            let blob = blob_of(&table, bytes, index);
            let read = difference_reference(uuid, pfn, blob);
            Some(read.map_err(|problem| page_damage(&table, index, pfn, problem))?)
        } else {
            Reference::of_entry(page_entry)
        };
        found.extend(reference.map(|reference| (index, pfn, reference)));
    }
    Ok(found)
}

/// Checks a segment without the ancestors that pages of it rest on: of those only the stored
/// bytes are checked. Gives its table.
pub(super) fn check_alone(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
    bytes: &[u8],
) -> Result<PageTable, FormatError> {
    references(uuid, entry, bytes)?;
    let table = parse_table(bytes, uuid, entry)?;
    let mut page = [0; PAGE_SIZE];
    for (index, pfn) in table.pfns.iter().enumerate() {
        let page_entry = table.entry(index);
        if matches!(page_entry, Entry::Same { .. } | Entry::Elsewhere { .. } | Entry::Difference { .. }) {
            continue;
        }
        let blob = blob_of(&table, bytes, index);
        decode_page(decoder, uuid, pfn, page_entry, blob, None, &mut page)
            .map_err(|problem| page_damage(&table, index, pfn, problem))?;
    }
    Ok(table)
}

/// Checks the stored bytes of a segment and of all that its pages rest on, without decoding.
pub(super) fn check_segment(
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
    bytes: &[u8],
    bases: &Bases,
) -> Result<(), FormatError> {
    let table = parse_table(bytes, uuid, entry)?;
    if bytes.len() < table.header.len() {
        return Err(FormatError::damaged(entry.offset, "a segment", "it is cut off"));
    }
    let (mut last_unit, mut bases_last_unit) = (None, LastUnit::default());
    for (index, pfn) in table.pfns.iter().enumerate() {
        let page_entry = table.entry(index);
        if let Entry::Unit { at, .. } = page_entry
            && last_unit.replace(at) == Some(at)
        {
            continue;
        }
        check_stored(uuid, pfn, page_entry, blob_of(&table, bytes, index))
            .map_err(PageProblem::Own)
            .and_then(|()| bases.check_stored(index, page_entry, &mut bases_last_unit))
            .map_err(|problem| page_damage(&table, index, pfn, problem))?;
    }
    Ok(())
}

/// Checks the stored bytes of one page.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_stored(uuid: &ImageUuid, pfn: u64, entry: Entry, blob: &[u8]) -> Result<(), String> {
    match entry {
        Entry::Absent => Err("the image has no contents for it".into()),
        Entry::Stored { check, .. } if blob.len() != PAGE_SIZE || content_check(blob) != check => {
            Err("the check of its contents differs".into())
        }
        Entry::Blob { .. } | Entry::Difference { .. } => checked_blob(uuid, pfn, blob).map(|_| ()),
        Entry::Unit { at, .. } => unit::check(uuid, at, blob),
        _ => Ok(()),
    }
}

/// Which page the stored difference `blob` rests on.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn difference_reference(uuid: &ImageUuid, pfn: u64, blob: &[u8]) -> Result<Reference, String> {
    let blob = checked_blob(uuid, pfn, blob)?;
    let (reference, ..) = Reference::split_from(blob).ok_or("it names no page that it rests on")?;
    Ok(reference)
}

/// A blob without the check that follows it.
fn checked_blob<'a>(uuid: &ImageUuid, pfn: u64, blob: &'a [u8]) -> Result<&'a [u8], String> {
    let len = blob.len().checked_sub(BLOB_CHECK_LEN).ok_or("its stored bytes are missing")?;
    let (blob, stored_check) = blob.split_at(len);
    if blob_check(blob, blob_seed(uuid, pfn)).to_le_bytes() != stored_check {
        return Err("the check of its stored bytes differs".into());
    }
    Ok(blob)
}

/// The table of the segment that the directory describes as `entry`.
pub(crate) fn parse_table(
    bytes: &[u8],
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
) -> Result<PageTable, FormatError> {
    let table = PageTable::parse(bytes, uuid, entry.offset)?;
    if table.header.check != entry.check || table.header.blocks != entry.blocks {
        let problem = "the directory describes another segment";
        return Err(FormatError::damaged(entry.offset, "a segment", problem));
    }
    Ok(table)
}

/// Checks and decodes one page from its blob, and from the contents of the page that it rests
/// on if it rests on one. On error `page` holds zeros, never another
/// page's contents.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn decode_page(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    pfn: u64,
    entry: Entry,
    blob: &[u8],
    base: Option<&Page>,
    page: &mut Page,
) -> Result<(), String> {
    let check = decode_contents(decoder, uuid, pfn, entry, blob, base, page);
    let result = check.and_then(|check| match check {
        Some(check) if check != content_check(&page[..]) => Err("the check of its contents differs".into()),
        _ => Ok(()),
    });
    if result.is_err() {
        page.fill(0);
    }
    result
}

/// Decodes one page; gives the check that its contents must have.
pub(super) fn decode_contents(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    pfn: u64,
    entry: Entry,
    blob: &[u8],
    base: Option<&Page>,
    page: &mut Page,
) -> Result<Option<u32>, String> {
    let needs_base = || "the page that it rests on is missing, or rests on another itself".to_owned();
    let check = match entry {
        Entry::Zero => {
            page.fill(0);
            return Ok(None);
        }
        Entry::Fill(word) => {
            let (words, _) = page.as_chunks_mut::<4>();
            words.fill(word.to_le_bytes());
            return Ok(None);
        }
        Entry::Absent => return Err("the image has no contents for it".into()),
        Entry::Stored { check, .. } => {
            *page = *<&Page>::try_from(blob).map_err(|_| "its stored bytes are missing")?;
            check
        }
        Entry::Blob { tag, check, .. } => {
            let blob = checked_blob(uuid, pfn, blob)?;
            decoder.decode(tag, blob, page).map_err(|error| error.to_string())?;
            check
        }
        Entry::Unit { index, at, check, .. } => {
            unit::decode_page(decoder, uuid, (index, at), blob, page)?;
            check
        }
        Entry::Same { check: None, .. } => {
            *page = *base.ok_or_else(needs_base)?;
            return Ok(None);
        }
        Entry::Same { check: Some(check), .. } | Entry::Elsewhere { check, .. } => {
            *page = *base.ok_or_else(needs_base)?;
            check
        }
        Entry::Difference { check, .. } => {
            let blob = checked_blob(uuid, pfn, blob)?;
            let named = Reference::split_from(blob);
            let (_, coder, blob) = named.ok_or("it names no page that it rests on")?;
            let base = base.ok_or_else(needs_base)?;
            decoder.decode_difference(coder, blob, base, page).map_err(|error| error.to_string())?;
            check
        }
    };
    Ok(Some(check))
}

/// Whether every byte of the segment that no page uses is zero, as the format demands.
pub(crate) fn unused_bytes_are_zero(table: &PageTable, bytes: &[u8]) -> bool {
    let blobs = &bytes[table.header.table_end..table.header.len()];
    let used_by = |entry: Entry| {
        let (at, len) = entry.extent()?;
        // What an entry says of a unit's length is rounded up.
        Some((at, if let Entry::Unit { .. } = entry { unit::stored_len(&blobs[at..][..len]) } else { len }))
    };
    let mut used: Vec<(usize, usize)> = table.entries().filter_map(used_by).collect();
    used.sort_unstable();
    let mut free_from = 0;
    used.push((blobs.len(), 0));
    used.into_iter().all(|(at, len)| {
        let gap_is_zero = blobs.get(free_from..at).is_none_or(|gap| gap.iter().all(|&byte| byte == 0));
        free_from = free_from.max(at + len);
        gap_is_zero
    })
}
