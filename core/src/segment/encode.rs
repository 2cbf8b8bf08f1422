//! Pages to a segment.

use super::upon::{self, Upon};
use super::{Bases, EncodedSegment, RestsOn, SegmentError};
use crate::buffer::{Buffer, Payload};
use crate::ecbc::{BLOB_ROOM, Method, PageCode, PageEncoder, Tally};
use crate::format::directory::DirectoryEntry;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, content_check, tag};
use crate::format::placement::{Placement, Plan, place, spend_slack};
use crate::format::segment::{HEADER_LEN, TableDraft};
use crate::format::{ImageUuid, blocks_of};
use crate::tape::Pfns;
use crate::{PAGE_SIZE, Page};

/// One worker's encoder and the blobs that wait for their place.
pub(super) struct Scratch {
    encoder: PageEncoder,
    upon: Upon,
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
    pub(super) fn new(method: Method) -> Self {
        Self {
            encoder: PageEncoder::new(method),
            upon: Upon::new(method),
            blobs: Vec::new(),
            placed: Vec::new(),
            lens: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.blobs.clear();
        self.placed.clear();
        self.lens.clear();
        self.entries.clear();
        self.upon.clear();
    }

    /// Encodes one page behind the others, as what it rests on if that is shorter.
    fn encode(&mut self, seed: u64, index: usize, page: &Page, bases: &Bases) {
        let start = self.blobs.len();
        let found =
            bases.get(index).map(|base| (base, self.upon.look(page, index, bases, base, &mut self.blobs)));
        match found {
            Some((_, upon::Found::Entry(entry))) => self.entries.push(entry),
            Some((base, upon::Found::Difference { len, reference })) => {
                if len > upon::SURELY_SHORT && self.alone_is_shorter(start, page) {
                    return self.encode_alone(seed, index, page);
                }
                self.upon.count(reference, base);
                self.push_blob(seed, index, page, start, tag::DIFFERENCE);
            }
            Some((_, upon::Found::Nothing)) | None => self.encode_alone(seed, index, page),
        }
    }

    /// Whether the page alone takes no more than the difference that stands at `start`, which
    /// is taken away then.
    fn alone_is_shorter(&mut self, start: usize, page: &Page) -> bool {
        let len = self.blobs.len();
        self.blobs.resize(len + BLOB_ROOM, 0);
        let code = self.encoder.encode(page, &mut self.blobs[len..]);
        let shorter = match code {
            PageCode::Zero | PageCode::Fill(_) => true,
            PageCode::Stored => false,
            PageCode::Blob { len: alone, .. } => alone <= len - start,
        };
        self.blobs.truncate(if shorter { start } else { len });
        shorter
    }

    fn encode_alone(&mut self, seed: u64, index: usize, page: &Page) {
        let start = self.blobs.len();
        self.blobs.resize(start + BLOB_ROOM, 0);
        let code = self.encoder.encode(page, &mut self.blobs[start..]);
        let kept = if let PageCode::Blob { len, .. } = code { len } else { 0 };
        self.blobs.truncate(start + kept);
        match code {
            PageCode::Zero => self.entries.push(Entry::Zero),
            PageCode::Fill(word) => self.entries.push(Entry::Fill(word)),
            PageCode::Stored => self.push_placed(index, page, PAGE_SIZE, None),
            PageCode::Blob { tag, .. } => self.push_blob(seed, index, page, start, tag.number()),
        }
    }

    /// Completes the blob that stands at `start`.
    fn push_blob(&mut self, seed: u64, index: usize, page: &Page, start: usize, coder: u8) {
        let check = blob_check(&self.blobs[start..], seed);
        self.blobs.extend_from_slice(&check.to_le_bytes());
        self.push_placed(index, page, self.blobs.len() - start, Some(coder));
    }

    /// Notes a page that takes `len` bytes: of its blob, or of its own.
    #[expect(clippy::cast_possible_truncation, reason = "a blob is no longer than a page")]
    fn push_placed(&mut self, index: usize, page: &Page, len: usize, coder: Option<u8>) {
        // Entries of placed pages follow when their place is known.
        self.entries.push(Entry::Absent);
        self.lens.push(len as u16);
        let blob_len = if coder.is_some() { len } else { 0 };
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

/// Which segment is made.
pub(super) struct SegmentJob<'a> {
    pub(super) placement: Placement,
    pub(super) uuid: &'a ImageUuid,
    pub(super) number: u32,
    pub(super) pfns: &'a Pfns,
}

/// Encodes `pages` as the segment of `job` into `out`.
pub(super) fn segment(
    scratch: &mut Scratch,
    job: &SegmentJob<'_>,
    pages: &[u8],
    bases: &Bases,
    mut out: Buffer,
) -> Result<(EncodedSegment, RestsOn), SegmentError> {
    let count = job.pfns.count();
    if pages.len() != count * PAGE_SIZE || count > crate::SEGMENT_PAGES {
        return Err(SegmentError::WrongBatch { pages: count, bytes: pages.len() });
    }
    scratch.clear();
    let (page_arrays, _) = pages.as_chunks::<PAGE_SIZE>();
    for ((index, pfn), page) in job.pfns.iter().enumerate().zip(page_arrays) {
        scratch.encode(blob_seed(job.uuid, pfn), index, page, bases);
    }
    let default = scratch.upon.choose_default(&mut scratch.entries);
    let defaults = scratch.entries.iter().filter(|&&entry| entry == default).count();
    let strict = job.placement == Placement::Strict;
    let draft = TableDraft { uuid: job.uuid, number: job.number, pfns: job.pfns, strict, default, defaults };
    let Layout { entry, lens, table_end, plan } =
        layout_of(&draft, job.placement, std::mem::take(&mut scratch.lens));
    scratch.lens = lens;
    let total = entry.len();
    let bytes = &mut out.spare()[..total];
    bytes[table_end..].fill(0);
    let tally = fill_in(scratch, &plan, table_end, page_arrays, bytes);
    draft.write(&scratch.entries, plan.end, bytes);
    out.set_len(total);
    let segment = EncodedSegment { payload: Payload::Bytes(out.shrink()), entry, tally };
    Ok((segment, scratch.upon.rests_on()))
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
pub fn layout(placement: Placement, pfns: &Pfns, zeros: usize, lens: Vec<u16>) -> Layout {
    let strict = placement == Placement::Strict;
    let uuid = &[0; 16];
    let draft = TableDraft { uuid, number: 0, pfns, strict, default: Entry::Zero, defaults: zeros };
    layout_of(&draft, placement, lens)
}

#[expect(clippy::cast_possible_truncation, reason = "at most 1024 pages, 1029 blocks")]
fn layout_of(draft: &TableDraft<'_>, placement: Placement, mut lens: Vec<u16>) -> Layout {
    let table_end = draft.table_end();
    if !draft.strict {
        spend_slack(&mut lens, table_end);
    }
    let plan = place(&lens, table_end, placement);
    let blocks = blocks_of(plan.end);
    let entry = DirectoryEntry {
        offset: 0,
        first_pfn: draft.pfns.iter().next().unwrap_or(0),
        pages: draft.pfns.count() as u32,
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
        scratch.entries[page.index] = if let Some(coder) = coder {
            place.copy_from_slice(blob);
            if coder == tag::DIFFERENCE {
                Entry::Difference { len, at, check }
            } else {
                Entry::Blob { tag: coder, len, at, check }
            }
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

/// The longest difference worth having, in bytes: with its check it is shorter than a page.
pub(super) const DIFFERENCE_MAX: usize = PAGE_SIZE - BLOB_CHECK_LEN - 1;
