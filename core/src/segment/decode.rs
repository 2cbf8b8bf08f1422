//! A segment to pages.

use super::encode::{blob_check, blob_seed};
use super::{SegmentError, Tally};
use crate::buffer::{Buffer, Payload};
use crate::ecbc::PageDecoder;
use crate::format::directory::DirectoryEntry;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, content_check};
use crate::format::segment::PageTable;
use crate::format::{FormatError, ImageUuid};
use crate::tape::Batch;
use crate::{PAGE_SIZE, Page};

/// Decodes the whole segment `bytes` that `entry` describes.
pub(super) fn segment(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    entry: &DirectoryEntry,
    bytes: &[u8],
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
        let extent = page_entry.extent();
        let blob = extent.map_or(&[][..], |(at, len)| &bytes[table.header.table_end + at..][..len]);
        decode_page(decoder, uuid, pfn, page_entry, blob, page).map_err(|problem| {
            let at = entry.offset + extent.map_or(0, |(at, _)| (table.header.table_end + at) as u64);
            FormatError::damaged(at, format!("page {pfn}"), problem)
        })?;
        tally.add(page_entry.tag(), blob.len());
    }
    pages.set_len(table.len() * PAGE_SIZE);
    Ok((Batch { pfns: table.pfns, pages: Payload::Bytes(pages) }, tally))
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

/// Checks and decodes one page from its blob. On error `page` holds zeros, never another
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
    page: &mut Page,
) -> Result<(), String> {
    let result = decode_checked(decoder, uuid, pfn, entry, blob, page);
    if result.is_err() {
        page.fill(0);
    }
    result
}

fn decode_checked(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    pfn: u64,
    entry: Entry,
    blob: &[u8],
    page: &mut Page,
) -> Result<(), String> {
    let check = match entry {
        Entry::Zero => {
            page.fill(0);
            return Ok(());
        }
        Entry::Fill(word) => {
            let (words, _) = page.as_chunks_mut::<4>();
            words.fill(word.to_le_bytes());
            return Ok(());
        }
        Entry::Absent => return Err("the image has no contents for it".into()),
        Entry::Stored { check, .. } => {
            page.copy_from_slice(blob);
            check
        }
        Entry::Blob { tag, check, .. } => {
            let (blob, stored_check) = blob.split_at(blob.len() - BLOB_CHECK_LEN);
            if blob_check(blob, blob_seed(uuid, pfn)).to_le_bytes() != stored_check {
                return Err("the check of its stored bytes differs".into());
            }
            decoder.decode(tag, blob, page).map_err(|error| error.to_string())?;
            check
        }
    };
    if content_check(&page[..]) == check { Ok(()) } else { Err("the check of its contents differs".into()) }
}

/// Whether every byte of the segment that no page uses is zero, as the format demands.
pub(crate) fn unused_bytes_are_zero(table: &PageTable, bytes: &[u8]) -> bool {
    let mut used: Vec<(usize, usize)> = table.entries().filter_map(Entry::extent).collect();
    used.sort_unstable();
    let mut free_from = 0;
    let blobs = &bytes[table.header.table_end..table.header.len()];
    used.push((blobs.len(), 0));
    used.into_iter().all(|(at, len)| {
        let gap_is_zero = blobs.get(free_from..at).is_none_or(|gap| gap.iter().all(|&byte| byte == 0));
        free_from = free_from.max(at + len);
        gap_is_zero
    })
}
