//! Pages to a segment.

use super::unit::{self, Waiting};
use super::upon::{self, Seen, Upon};
use super::{Bases, EncodedSegment, Resting, SegmentError};
use crate::buffer::{Buffer, Payload};
use crate::ecbc::{BLOB_ROOM, Method, PageCode, PageEncoder, Tally, uniform};
use crate::format::directory::DirectoryEntry;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, UNIT_GRAIN, content_check, tag};
use crate::format::placement::{Placement, Plan, place, spend_slack};
use crate::format::segment::{Digest, DigestKey, HEADER_LEN, TableDraft};
use crate::format::{ImageUuid, blocks_of};
use crate::tape::Pfns;
use crate::{PAGE_SIZE, Page};

/// One worker's encoder and the blobs that wait for their place.
pub(super) struct Scratch {
    encoder: PageEncoder,
    upon: Upon,
    /// Pages that wait for others, where units are made.
    waiting: Option<Waiting>,
    /// Blobs with their checks, one after the other in page order.
    blobs: Vec<u8>,
    /// Pages and units that have bytes in the segment, in the order of their blobs.
    placed: Vec<Placed>,
    /// Index in the segment and content check of the units' pages, unit after unit.
    members: Vec<(usize, u32)>,
    lens: Vec<u16>,
    entries: Vec<Entry>,
}

struct Placed {
    what: What,
    /// Bytes of its blob with the check; 0 for a page stored as it is.
    blob_len: usize,
}

enum What {
    Page {
        index: usize,
        check: u32,
        /// `None`: stored as it is.
        coder: Option<u8>,
    },
    /// The next so many of the members.
    Unit { pages: usize },
}

impl Scratch {
    pub(super) fn new(method: Method, unit_pages: usize, key: Option<DigestKey>) -> Self {
        Self {
            encoder: PageEncoder::new(method),
            upon: Upon::new(method, key),
            waiting: Waiting::new(method, unit_pages),
            blobs: Vec::new(),
            placed: Vec::new(),
            members: Vec::new(),
            lens: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn clear(&mut self, pages: usize) {
        self.blobs.clear();
        self.placed.clear();
        self.members.clear();
        self.lens.clear();
        self.entries.clear();
        // Entries of placed pages follow when their place is known.
        self.entries.resize(pages, Entry::Absent);
        if let Some(waiting) = &mut self.waiting {
            waiting.clear();
        }
    }

    /// Encodes the pages of `job`, anew if some were encoded.
    fn encode_all(&mut self, job: &SegmentJob<'_>, pages: &[Page], bases: &Bases) {
        self.clear(pages.len());
        for ((index, pfn), page) in job.pfns.iter().enumerate().zip(pages) {
            self.encode(blob_seed(job.uuid, pfn), index, page, bases);
        }
        self.encode_waiting();
    }

    /// Encodes one page behind the others, as what it rests on if that is shorter.
    fn encode(&mut self, seed: u64, index: usize, page: &Page, bases: &Bases) {
        let start = self.blobs.len();
        let base = bases.get(index);
        let word = if base.is_some() || self.encoder.finds_uniform() { uniform(page) } else { None };
        let seen = Seen { index, page, word };
        self.upon.digest(&seen);
        let found = base.map(|base| (base, self.upon.look(&seen, bases, base, &mut self.blobs)));
        match found {
            Some((_, upon::Found::Entry(entry))) => self.entries[index] = entry,
            Some((base, upon::Found::Difference { surely, reference })) => {
                if !surely && self.alone_is_shorter(start, page) {
                    return self.encode_alone(seed, index, page, bases);
                }
                self.upon.count(reference, base);
                self.push_blob(seed, index, bases.check_of(index, page), start, tag::DIFFERENCE);
            }
            None | Some((_, upon::Found::Nothing)) if word.is_some() && self.encoder.finds_uniform() => {
                let code = word.filter(|word| *word != 0).map_or(PageCode::Zero, PageCode::Fill);
                self.push_code(seed, index, 0, start, code);
            }
            Some((base, upon::Found::Nothing)) if !base.is_in_unit() => {
                self.encode_alone(seed, index, page, bases);
            }
            None | Some((_, upon::Found::Nothing)) => self.encode_among_others(seed, index, page, bases),
        }
    }

    /// Encodes one page that rests on nothing: in a unit, if units are made and the page is neither
    /// uniform nor noise.
    fn encode_among_others(&mut self, seed: u64, index: usize, page: &Page, bases: &Bases) {
        let Some(waiting) = &mut self.waiting else { return self.encode_alone(seed, index, page, bases) };
        if let Some(code) = self.encoder.look(page) {
            return self.push_code(seed, index, bases.check_of(index, page), self.blobs.len(), code);
        }
        waiting.add(index, seed, page);
        if waiting.is_full() {
            self.encode_waiting();
        }
    }

    /// Encodes the pages that wait: as a unit, or each alone where that is no longer.
    fn encode_waiting(&mut self) {
        let Some(mut waiting) = self.waiting.take() else { return };
        if let Some(len) = waiting.encode(&mut self.blobs) {
            let before = self.members.len();
            self.members.extend(waiting.pages().map(|(index, _, page)| (index, content_check(page))));
            self.push_placed(What::Unit { pages: self.members.len() - before }, len, len);
        } else {
            for (index, seed, page) in waiting.pages() {
                self.encode_alone(seed, index, page, &Bases::default());
            }
        }
        waiting.clear();
        self.waiting = Some(waiting);
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

    fn encode_alone(&mut self, seed: u64, index: usize, page: &Page, bases: &Bases) {
        let start = self.blobs.len();
        self.blobs.resize(start + BLOB_ROOM, 0);
        let code = self.encoder.encode(page, &mut self.blobs[start..]);
        let kept = if let PageCode::Blob { len, .. } = code { len } else { 0 };
        self.blobs.truncate(start + kept);
        let check =
            if matches!(code, PageCode::Zero | PageCode::Fill(_)) { 0 } else { bases.check_of(index, page) };
        self.push_code(seed, index, check, start, code);
    }

    /// Notes what a page became; its blob, if it has one, stands at `start`. `check` is of its contents.
    fn push_code(&mut self, seed: u64, index: usize, check: u32, start: usize, code: PageCode) {
        match code {
            PageCode::Zero => self.entries[index] = Entry::Zero,
            PageCode::Fill(word) => self.entries[index] = Entry::Fill(word),
            PageCode::Stored => {
                let what = What::Page { index, check, coder: None };
                self.push_placed(what, PAGE_SIZE, 0);
            }
            PageCode::Blob { tag, .. } => self.push_blob(seed, index, check, start, tag.number()),
        }
    }

    /// Completes the blob that stands at `start`.
    fn push_blob(&mut self, seed: u64, index: usize, check: u32, start: usize, coder: u8) {
        let blob_check = blob_check(&self.blobs[start..], seed);
        self.blobs.extend_from_slice(&blob_check.to_le_bytes());
        let len = self.blobs.len() - start;
        self.push_placed(What::Page { index, check, coder: Some(coder) }, len, len);
    }

    /// Notes what takes `len` bytes, `blob_len` of them in a blob.
    #[expect(clippy::cast_possible_truncation, reason = "a unit is less than 64 KiB")]
    fn push_placed(&mut self, what: What, len: usize, blob_len: usize) {
        self.lens.push(len as u16);
        self.placed.push(Placed { what, blob_len });
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
) -> Result<(EncodedSegment, Resting), SegmentError> {
    let count = job.pfns.count();
    if pages.len() != count * PAGE_SIZE || count > crate::SEGMENT_PAGES {
        return Err(SegmentError::WrongBatch { pages: count, bytes: pages.len() });
    }
    let (page_arrays, _) = pages.as_chunks::<PAGE_SIZE>();
    scratch.upon.begin(bases.digest);
    scratch.encode_all(job, page_arrays, bases);
    if !scratch.upon.was_right_to_trust() {
        scratch.upon.begin(None);
        scratch.encode_all(job, page_arrays, bases);
    }
    let default = scratch.upon.choose_default(&mut scratch.entries);
    let defaults = scratch.entries.iter().filter(|&&entry| entry == default).count();
    let strict = job.placement == Placement::Strict;
    let digest = scratch.upon.segment_digest();
    let draft =
        TableDraft { uuid: job.uuid, number: job.number, pfns: job.pfns, strict, default, defaults, digest };
    let placement = if scratch.members.is_empty() { job.placement } else { Placement::Ordered };
    let beyond = if scratch.members.is_empty() { 0 } else { UNIT_GRAIN - 1 };
    let Layout { entry, lens, table_end, plan } =
        layout_of(&draft, placement, std::mem::take(&mut scratch.lens), beyond);
    scratch.lens = lens;
    let total = entry.len();
    let bytes = &mut out.spare()[..total];
    bytes[table_end..].fill(0);
    let tally = fill_in(scratch, job.uuid, &plan, table_end, page_arrays, bytes);
    draft.write(&scratch.entries, plan.end, bytes);
    out.set_len(total);
    let segment = EncodedSegment { payload: Payload::Bytes(out.shrink()), entry, tally };
    Ok((segment, scratch.upon.resting()))
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

/// Lays out a segment whose pages have `lens` bytes, with a digest under `key`: see
/// [`EcbcCoder::layout`](super::EcbcCoder::layout).
pub(super) fn layout(
    placement: Placement,
    key: Option<DigestKey>,
    pfns: &Pfns,
    zeros: usize,
    lens: Vec<u16>,
) -> Layout {
    let strict = placement == Placement::Strict;
    // Its contents are nowhere in a layout.
    let digest = key.map(|key| Digest { key, sum: [0; 16] });
    let draft =
        TableDraft { uuid: &[0; 16], number: 0, pfns, strict, default: Entry::Zero, defaults: zeros, digest };
    layout_of(&draft, placement, lens, 0)
}

/// `beyond`: bytes by which entries may tell the last blob longer than it is.
#[expect(clippy::cast_possible_truncation, reason = "at most 1024 pages, 1029 blocks")]
fn layout_of(draft: &TableDraft<'_>, placement: Placement, mut lens: Vec<u16>, beyond: usize) -> Layout {
    let table_end = draft.table_end();
    if placement == Placement::Hybrid {
        spend_slack(&mut lens, table_end);
    }
    let mut plan = place(&lens, table_end, placement);
    plan.end += beyond;
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
fn fill_in(
    scratch: &mut Scratch,
    uuid: &ImageUuid,
    plan: &Plan,
    table_end: usize,
    pages: &[Page],
    bytes: &mut [u8],
) -> Tally {
    let (mut blobs, mut members) = (scratch.blobs.as_slice(), scratch.members.as_slice());
    for ((placed, &at), &len) in scratch.placed.iter().zip(&plan.at).zip(&scratch.lens) {
        let place = &mut bytes[at as usize..][..usize::from(len)];
        let at = at - table_end as u32;
        let (blob, rest) = blobs.split_at(placed.blob_len);
        blobs = rest;
        let (index, check, coder) = match placed.what {
            What::Page { index, check, coder } => (index, check, coder),
            What::Unit { pages } => {
                place.copy_from_slice(blob);
                unit::seal(uuid, at, place);
                let (own, rest) = members.split_at(pages);
                members = rest;
                for (number, &(index, check)) in (0..).zip(own) {
                    let reach = unit::reach(blob.len());
                    scratch.entries[index] = Entry::Unit { index: number, reach, at, check };
                }
                continue;
            }
        };
        let coder = coder.filter(|_| usize::from(len) < PAGE_SIZE);
        scratch.entries[index] = if let Some(coder) = coder {
            place.copy_from_slice(blob);
            if coder == tag::DIFFERENCE {
                Entry::Difference { len, at, check }
            } else {
                Entry::Blob { tag: coder, len, at, check }
            }
        } else {
            place.copy_from_slice(&pages[index]);
            Entry::Stored { at, check }
        };
    }
    let mut tally = Tally::default();
    for &entry in &scratch.entries {
        let bytes = entry.extent().map_or(&[][..], |(at, len)| &bytes[table_end + at..][..len]);
        tally.add(entry.tag(), unit::own_bytes(entry, bytes));
    }
    tally
}

/// The longest difference worth having, in bytes: with its check it is shorter than a page.
pub(super) const DIFFERENCE_MAX: usize = PAGE_SIZE - BLOB_CHECK_LEN - 1;
