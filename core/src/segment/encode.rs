//! Pages to a segment.

use super::{EncodedSegment, SegmentError};
use crate::buffer::{Buffer, Payload};
use crate::ecbc::{BLOB_ROOM, PageCode, PageEncoder, Tally};
use crate::format::directory::DirectoryEntry;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, content_check};
use crate::format::placement::{Placement, Plan, place, spend_slack};
use crate::format::segment::{HEADER_LEN, TableDraft};
use crate::format::{ImageUuid, blocks_of};
use crate::tape::Pfns;
use crate::{PAGE_SIZE, Page};

/// One worker's encoder and the blobs that wait for their place.
pub(super) struct Scratch {
    encoder: PageEncoder,
    /// Blobs with their checks, one after the other in page order.
    blobs: Vec<u8>,
    /// Pages that have bytes in the segment, in page order.
    placed: Vec<PlacedPage>,
    lens: Vec<u16>,
    entries: Vec<Entry>,
}

struct PlacedPage {
    index: usize,
    check: u32,
    /// `None`: stored as it is.
    coder: Option<u8>,
    /// Bytes of its blob with the check.
    blob_len: usize,
}

impl Scratch {
    pub(super) fn new(encoder: PageEncoder) -> Self {
        Self { encoder, blobs: Vec::new(), placed: Vec::new(), lens: Vec::new(), entries: Vec::new() }
    }

    fn clear(&mut self) {
        self.blobs.clear();
        self.placed.clear();
        self.lens.clear();
        self.entries.clear();
    }

    /// Encodes one page behind the others.
    #[expect(clippy::cast_possible_truncation, reason = "a blob is shorter than a page")]
    fn encode(&mut self, seed: u64, index: usize, page: &Page) {
        let start = self.blobs.len();
        self.blobs.resize(start + BLOB_ROOM, 0);
        let code = self.encoder.encode(page, &mut self.blobs[start..]);
        let (entry, coder, kept) = match code {
            PageCode::Zero => (Some(Entry::Zero), None, 0),
            PageCode::Fill(word) => (Some(Entry::Fill(word)), None, 0),
            PageCode::Stored => (None, None, 0),
            PageCode::Blob { tag, len } => (None, Some(tag.number()), len),
        };
        self.blobs.truncate(start + kept);
        // Entries of placed pages follow when their place is known.
        self.entries.push(entry.unwrap_or(Entry::Absent));
        if entry.is_some() {
            return;
        }
        let blob_len = if coder.is_some() { kept + BLOB_CHECK_LEN } else { 0 };
        if coder.is_some() {
            let check = blob_check(&self.blobs[start..], seed);
            self.blobs.extend_from_slice(&check.to_le_bytes());
        }
        self.lens.push(if coder.is_some() { blob_len } else { PAGE_SIZE } as u16);
        self.placed.push(PlacedPage { index, check: content_check(page), coder, blob_len });
    }
}

/// The check that follows a blob: bound to image and page, so that another page's blob, or
/// another image's, is not taken for it.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what the format keeps")]
pub(super) fn blob_check(blob: &[u8], seed: u64) -> u32 {
    xxhash_rust::xxh3::xxh3_64_with_seed(blob, seed) as u32
}

/// The seed of a page's [`blob_check`].
pub(super) fn blob_seed(uuid: &ImageUuid, pfn: u64) -> u64 {
    let half = uuid.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    half ^ pfn
}

/// Encodes `pages` as segment `number` of image `uuid` into `out`.
pub(super) fn segment(
    scratch: &mut Scratch,
    placement: Placement,
    uuid: &ImageUuid,
    number: u32,
    pfns: &Pfns,
    pages: &[u8],
    mut out: Buffer,
) -> Result<EncodedSegment, SegmentError> {
    let count = pfns.count();
    if pages.len() != count * PAGE_SIZE || count > crate::SEGMENT_PAGES {
        return Err(SegmentError::WrongBatch { pages: count, bytes: pages.len() });
    }
    scratch.clear();
    let (page_arrays, _) = pages.as_chunks::<PAGE_SIZE>();
    for ((index, pfn), page) in pfns.iter().enumerate().zip(page_arrays) {
        scratch.encode(blob_seed(uuid, pfn), index, page);
    }
    let zeros = scratch.entries.iter().filter(|&&entry| entry == Entry::Zero).count();
    let Layout { entry, lens, table_end, plan } =
        layout(placement, pfns, zeros, std::mem::take(&mut scratch.lens));
    scratch.lens = lens;
    let total = entry.len();
    let bytes = &mut out.spare()[..total];
    bytes[table_end..].fill(0);
    let tally = fill_in(scratch, &plan, table_end, page_arrays, bytes);
    let strict = placement == Placement::Strict;
    let draft = TableDraft { uuid, number, pfns, strict, defaults: zeros };
    draft.write(&scratch.entries, plan.end, bytes);
    out.set_len(total);
    Ok(EncodedSegment { payload: Payload::Bytes(out.shrink()), entry, tally })
}

/// How a segment is laid out: all of its arithmetic, for real and modelled coders alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// What the directory says of it; offset and check are 0.
    pub entry: DirectoryEntry,
    /// Bytes each placed page takes: as asked, or 4096 where storing it as it is costs nothing.
    pub lens: Vec<u16>,
    table_end: usize,
    plan: Plan,
}

/// Lays out a segment of `pfns` with `zeros` zero pages, whose other pages that are not fill
/// pages take `lens` bytes each, checks included, in page order.
///
/// # Panics
/// If a length is 0 or exceeds 4096.
#[expect(clippy::cast_possible_truncation, reason = "at most 1024 pages, 1029 blocks")]
pub fn layout(placement: Placement, pfns: &Pfns, zeros: usize, mut lens: Vec<u16>) -> Layout {
    let strict = placement == Placement::Strict;
    let draft = TableDraft { uuid: &[0; 16], number: 0, pfns, strict, defaults: zeros };
    let table_end = draft.table_end();
    if !strict {
        spend_slack(&mut lens, table_end);
    }
    let plan = place(&lens, table_end, placement);
    let blocks = blocks_of(plan.end);
    let entry = DirectoryEntry {
        offset: 0,
        first_pfn: pfns.iter().next().unwrap_or(0),
        pages: pfns.count() as u32,
        blocks: blocks as u16,
        table_words: ((table_end - HEADER_LEN) / 8) as u16,
        listed: draft.lists_pfns(),
        check: 0,
    };
    Layout { entry, lens, table_end, plan }
}

/// Copies the blobs to their places and completes the entries.
#[expect(clippy::cast_possible_truncation, reason = "offsets within a segment of little over 4 MiB")]
fn fill_in(scratch: &mut Scratch, plan: &Plan, table_end: usize, pages: &[Page], bytes: &mut [u8]) -> Tally {
    let mut blobs = scratch.blobs.as_slice();
    for ((page, &at), &len) in scratch.placed.iter().zip(&plan.at).zip(&scratch.lens) {
        let check = page.check;
        let place = &mut bytes[at as usize..][..usize::from(len)];
        let at = at - table_end as u32;
        let (blob, rest) = blobs.split_at(page.blob_len);
        blobs = rest;
        let coder = page.coder.filter(|_| usize::from(len) < PAGE_SIZE);
        scratch.entries[page.index] = if let Some(tag) = coder {
            place.copy_from_slice(blob);
            Entry::Blob { tag, len, at, check }
        } else {
            place.copy_from_slice(&pages[page.index]);
            Entry::Stored { at, check }
        };
    }
    let mut tally = Tally::default();
    for entry in &scratch.entries {
        tally.add(entry.tag(), entry.extent().map_or(0, |(_, len)| len));
    }
    tally
}
