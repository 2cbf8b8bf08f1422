//! Units in segments: several pages in one code, with what tells their number and coder.
//!
//! ```text
//! code length - 1 (u16) | coder (u8) | pages (u8) | code | check (u32)
//! ```

use super::encode::{blob_check, blob_seed};
use crate::ecbc::{Method, PageDecoder, UNIT_BYTES_MAX, UnitEncoder, UnitKey};
use crate::format::ImageUuid;
use crate::format::entry::{BLOB_CHECK_LEN, Entry, UNIT_GRAIN, UNIT_PAGES_MAX};
use crate::{PAGE_SIZE, Page};

/// Bytes before the code.
const HEAD: usize = 4;
/// A unit must save so much: more than its reach may go beyond it.
const SAVING_MIN: usize = 2 * UNIT_GRAIN;

/// Pages that wait to be coded together.
pub(super) struct Waiting {
    encoder: UnitEncoder,
    bytes: Vec<u8>,
    /// Index in the segment and blob seed of each.
    pages: Vec<(usize, u64)>,
}

impl Waiting {
    /// For units of so many pages; none where the method codes pages alone.
    pub(super) fn new(method: Method, unit_pages: usize) -> Option<Self> {
        let encoder = UnitEncoder::new(method, unit_pages)?;
        Some(Self {
            encoder,
            bytes: Vec::with_capacity(UNIT_BYTES_MAX),
            pages: Vec::with_capacity(UNIT_PAGES_MAX),
        })
    }

    pub(super) fn add(&mut self, index: usize, seed: u64, page: &Page) {
        self.pages.push((index, seed));
        self.bytes.extend_from_slice(page);
    }

    pub(super) fn is_full(&self) -> bool {
        self.pages.len() == self.encoder.pages()
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (usize, u64, &Page)> {
        let (pages, _) = self.bytes.as_chunks::<PAGE_SIZE>();
        self.pages.iter().zip(pages).map(|(&(index, seed), page)| (index, seed, page))
    }

    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.bytes.clear();
    }

    /// Codes them behind `blobs`, with room for the check; gives the length. Nothing if that
    /// saves nothing.
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 pages of 4096 bytes")]
    pub(super) fn encode(&mut self, blobs: &mut Vec<u8>) -> Option<usize> {
        let count = self.pages.len();
        let len_max = (count * PAGE_SIZE).checked_sub(SAVING_MIN).filter(|_| count > 1)?;
        let start = blobs.len();
        blobs.resize(start + len_max, 0);
        let room = &mut blobs[start + HEAD..start + len_max - BLOB_CHECK_LEN];
        let Some((coder, len)) = self.encoder.encode(&self.bytes, room) else {
            blobs.truncate(start);
            return None;
        };
        let [low, high] = (len as u16 - 1).to_le_bytes();
        blobs[start..start + HEAD].copy_from_slice(&[low, high, coder.number(), count as u8]);
        let whole = HEAD + len + BLOB_CHECK_LEN;
        blobs.truncate(start + whole);
        Some(whole)
    }
}

/// What an entry says of a unit of `len` bytes: how far it reaches at most.
#[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
pub(super) fn reach(len: usize) -> u32 {
    len.next_multiple_of(UNIT_GRAIN) as u32
}

/// Completes the unit `stored`, which stands `at` bytes from the end of its segment's table.
pub(super) fn seal(uuid: &ImageUuid, at: u32, stored: &mut [u8]) {
    let (body, check) = stored.split_at_mut(stored.len() - BLOB_CHECK_LEN);
    check.copy_from_slice(&blob_check(body, seed(uuid, at)).to_le_bytes());
}

/// Binds the check to image and place.
fn seed(uuid: &ImageUuid, at: u32) -> u64 {
    blob_seed(uuid, !u64::from(at))
}

/// A unit as it stands in its segment.
struct Stored<'a> {
    coder: u8,
    pages: usize,
    code: &'a [u8],
    /// What the check covers.
    body: &'a [u8],
    check: [u8; BLOB_CHECK_LEN],
}

/// The unit at the beginning of `bytes`.
fn split(bytes: &[u8]) -> Option<Stored<'_>> {
    let (&[low, high, coder, pages], rest) = bytes.split_first_chunk::<HEAD>()?;
    let len = usize::from(u16::from_le_bytes([low, high])) + 1;
    let (code, rest) = rest.split_at_checked(len)?;
    Some(Stored {
        coder,
        pages: usize::from(pages),
        code,
        body: &bytes[..HEAD + len],
        check: *rest.first_chunk()?,
    })
}

/// Bytes of the unit at the beginning of `bytes`; all of them if it is not whole.
pub(super) fn stored_len(bytes: &[u8]) -> usize {
    split(bytes).map_or(bytes.len(), |stored| stored.body.len() + BLOB_CHECK_LEN)
}

/// Checks the stored bytes of a unit.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check(uuid: &ImageUuid, at: u32, bytes: &[u8]) -> Result<(), String> {
    checked(uuid, at, bytes).map(|_| ())
}

fn checked<'a>(uuid: &ImageUuid, at: u32, bytes: &'a [u8]) -> Result<Stored<'a>, String> {
    let stored = split(bytes).ok_or("its unit is cut off")?;
    if blob_check(stored.body, seed(uuid, at)).to_le_bytes() != stored.check {
        return Err("the check of its unit's stored bytes differs".into());
    }
    Ok(stored)
}

/// Decodes page `index` of the unit `bytes`; the whole unit, unless it was the last one decoded.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn decode_page(
    decoder: &mut PageDecoder,
    uuid: &ImageUuid,
    (index, at): (u8, u32),
    bytes: &[u8],
    page: &mut Page,
) -> Result<(), String> {
    let (index, stored) = (usize::from(index), split(bytes).ok_or("its unit is cut off")?);
    let key = UnitKey { image: *uuid, at, len: stored.code.len(), check: stored.check };
    if decoder.page_of_last_unit(&key, index).is_none() {
        let stored = checked(uuid, at, bytes)?;
        let decoded = decoder.decode_unit(key, stored.coder, stored.code, stored.pages);
        decoded.map_err(|error| error.to_string())?;
    }
    *page = *decoder.page_of_last_unit(&key, index).ok_or("its unit has fewer pages")?;
    Ok(())
}

/// How many pages are decoded for one of `entry`, whose stored bytes these are.
pub(crate) fn pages_decoded(entry: Entry, bytes: &[u8]) -> usize {
    match entry {
        Entry::Blob { .. } | Entry::Difference { .. } => 1,
        Entry::Unit { .. } => split(bytes).map_or(0, |stored| stored.pages),
        _ => 0,
    }
}
