//! Templates: images whose pages other guests' pages are found in, by contents.
//!
//! A template is an image whose tape format is [`TapeFormat::TEMPLATE`]. Its pages are
//! numbered as they come; its frame begins with a key, and after each segment has a record for
//! each page: a keyed 128-bit BLAKE3 hash, by which equal pages are found, and features, by
//! which similar ones are. Equal hashes are taken for equal pages: `docs/security.md` says
//! why a guest cannot make use of that. Features are only hints where to look for a base.

use std::cmp::Reverse;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ecbc::uniform;
use crate::format::reference::Place;
use crate::tape::TapeFormat;
use crate::{Page, SEGMENT_PAGES};

/// First bytes of a template's frame; the key follows.
pub(crate) const MAGIC: [u8; 8] = *b"CIOTMPL2";
/// Bytes of the key.
pub const KEY_LEN: usize = 32;
/// Bytes of a page's record in the frame.
pub(crate) const RECORD_LEN: usize = HASH_LEN + 4 * FEATURES;
const HASH_LEN: usize = 16;
/// Features of the bytes as they are, and as many of the bytes without pointers: another boot
/// has the same contents elsewhere.
const FEATURES_A_KIND: usize = 8;
const FEATURES: usize = 2 * FEATURES_A_KIND;
/// What a common feature of either kind counts for, and what a similar page must have.
const VOTES: [u32; 2] = [3, 1];
const VOTES_MIN: u32 = 2;
/// Bytes compared at a time to find similar pages.
const BLOCK: usize = 64;
/// Pages with the same feature that are looked at.
const ALIKE_MAX: usize = 8;
/// Bytes that a page takes in [`KnownPages`].
const BYTES_A_PAGE: usize = size_of::<Known>() + FEATURES * size_of::<Feature>();

/// A page's keyed hash.
pub(crate) type PageHash = [u8; HASH_LEN];

/// What a template knows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) hash: PageHash,
    features: [u32; FEATURES],
}

impl Record {
    /// Of `page`; `None` for pages of one word all over, which need no template.
    pub(crate) fn of(key: &[u8; KEY_LEN], page: &Page) -> Option<Self> {
        if uniform(page).is_some() {
            return None;
        }
        Some(Self { hash: hash_of(key, page), features: features_of(page) })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash);
        for feature in self.features {
            out.extend_from_slice(&feature.to_le_bytes());
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk()?;
        let (features, _) = rest.as_chunks::<4>();
        let features: &[[u8; 4]; FEATURES] = features.try_into().ok()?;
        Some(Self { hash: *hash, features: features.map(u32::from_le_bytes) })
    }
}

fn hash_of(key: &[u8; KEY_LEN], page: &Page) -> PageHash {
    let whole = *blake3::keyed_hash(key, page).as_bytes();
    std::array::from_fn(|i| whole[i])
}

/// The smallest hashes of the page's blocks, of both kinds: similar pages have some in common.
/// `u32::MAX` stands for none.
fn features_of(page: &Page) -> [u32; FEATURES] {
    let mut features = [u32::MAX; FEATURES];
    let (plain, masked) = features.split_at_mut(FEATURES_A_KIND);
    let (words, _) = page.as_chunks::<8>();
    let (blocks, _) = words.as_chunks::<{ BLOCK / 8 }>();
    for block in blocks {
        add_feature(plain, block, 0);
        add_feature(masked, &block.map(without_pointer), 1);
    }
    features
}

/// Puts the block's hash among the `smallest`, unless it is one word all over.
fn add_feature(smallest: &mut [u32], block: &[[u8; 8]; BLOCK / 8], kind: u64) {
    if block.iter().all(|word| *word == block[0]) {
        return;
    }
    let mut feature = (xxh3_64_with_seed(block.as_flattened(), kind) >> 32) as u32;
    for slot in smallest {
        if feature == *slot {
            break;
        }
        if feature < *slot {
            std::mem::swap(&mut feature, slot);
        }
    }
}

/// Of a word that looks like an address only the place within a page, which is what stays when
/// a program or a kernel is loaded elsewhere.
fn without_pointer(word: [u8; 8]) -> [u8; 8] {
    let value = u64::from_le_bytes(word);
    let is_address = matches!(value >> 40, 0x55 | 0x56 | 0x7e | 0x7f) || value >> 47 == 0x1_ffff;
    if is_address { (value & 0xfff | 1 << 63).to_le_bytes() } else { word }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    hash: PageHash,
    position: u32,
}

type Feature = (u32, u32);

/// A template's pages by hash and by features, in bounded memory.
pub struct KnownPages {
    key: [u8; KEY_LEN],
    /// Ascending.
    by_hash: Vec<Known>,
    /// Feature and position, ascending.
    by_feature: Vec<Feature>,
}

impl KnownPages {
    /// A table without pages, with the key in a template's first bytes.
    fn begin(head: &[u8], pages_max: usize) -> Result<Self, &'static str> {
        let key = head.strip_prefix(&MAGIC).and_then(|key| key.first_chunk());
        Ok(Self {
            key: *key.ok_or("its frame does not begin like a template's")?,
            by_hash: Vec::with_capacity(pages_max),
            by_feature: Vec::with_capacity(FEATURES * pages_max),
        })
    }

    /// Adds the template's next page, in no order yet.
    fn add(&mut self, record: Record) {
        let position = u32::try_from(self.by_hash.len()).unwrap_or(u32::MAX);
        self.by_hash.push(Known { hash: record.hash, position });
        let features = record.features.into_iter().filter(|&feature| feature != u32::MAX);
        self.by_feature.extend(features.map(|feature| (feature, position)));
    }

    /// How many pages it knows.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Where the template has exactly this page.
    pub(crate) fn find(&self, page: &Page) -> Option<Place> {
        let hash = hash_of(&self.key, page);
        let at = self.by_hash.binary_search_by(|known| known.hash.cmp(&hash)).ok()?;
        Some(place(self.by_hash[at].position))
    }

    /// Where the template has a page that shares most features with this one.
    pub(crate) fn find_alike(&self, page: &Page) -> Option<Place> {
        let mut votes: Vec<(u32, u32)> = Vec::new();
        for (i, feature) in features_of(page).into_iter().enumerate().filter(|(_, found)| *found != u32::MAX)
        {
            let start = self.by_feature.partition_point(|&(known, _)| known < feature);
            let alike = self.by_feature[start..].iter().take(ALIKE_MAX);
            let alike = alike.take_while(|&&(known, _)| known == feature);
            votes.extend(alike.map(|&(_, position)| (position, VOTES[i / FEATURES_A_KIND])));
        }
        votes.sort_unstable();
        let pages = votes.chunk_by(|one, next| one.0 == next.0);
        let counted = pages.map(|page| (page.iter().map(|(_, count)| count).sum::<u32>(), page[0].0));
        // Of those with most votes the first, so that the same page gives the same answer.
        let (count, position) = counted.max_by_key(|&(count, position)| (count, Reverse(position)))?;
        (count >= VOTES_MIN).then(|| place(position))
    }
}

/// [`KnownPages`] in the making, from a template's frame bytes as they come: they take half as much
/// memory as the table, so that not all of them are held beside it.
pub(crate) struct KnownPagesReader {
    known: Option<KnownPages>,
    pages_max: usize,
    /// Bytes of the next record, or of magic and key, that came so far.
    waiting: Vec<u8>,
}

impl KnownPagesReader {
    /// For a template of `pages` pages; what is beyond `bytes_max` is left out, which costs ratio and
    /// nothing else.
    pub(crate) fn new(pages: usize, bytes_max: usize) -> Self {
        let pages_max = pages.min(bytes_max / BYTES_A_PAGE);
        Self { known: None, pages_max, waiting: Vec::new() }
    }

    /// Whether further bytes are of no use.
    pub(crate) fn is_full(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.len() >= self.pages_max)
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// In words: they are no template's.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.waiting.extend_from_slice(bytes);
        let mut rest = self.waiting.as_slice();
        if self.known.is_none() {
            let Some((head, records)) = rest.split_at_checked(MAGIC.len() + KEY_LEN) else { return Ok(()) };
            self.known = Some(KnownPages::begin(head, self.pages_max)?);
            rest = records;
        }
        if let Some(known) = &mut self.known {
            while let Some((record, further)) = rest.split_at_checked(RECORD_LEN)
                && known.len() < self.pages_max
            {
                known.add(Record::parse(record).ok_or(CUT_OFF)?);
                rest = further;
            }
        }
        let used = self.waiting.len() - rest.len();
        self.waiting.drain(..used);
        Ok(())
    }

    /// The table.
    ///
    /// # Errors
    /// In words: the bytes were no template's.
    pub(crate) fn finish(self) -> Result<KnownPages, &'static str> {
        let is_full = self.is_full();
        let mut known = self.known.ok_or("its frame does not begin like a template's")?;
        if !self.waiting.is_empty() && !is_full {
            return Err(CUT_OFF);
        }
        known.by_hash.sort_unstable();
        known.by_feature.sort_unstable();
        Ok(known)
    }
}

const CUT_OFF: &str = "its table of pages is cut off";

/// Segments of a template are full but for the last, so a page's number is its place.
#[expect(clippy::cast_possible_truncation, reason = "an index below 1024")]
fn place(position: u32) -> Place {
    let pages = SEGMENT_PAGES as u32;
    Place::At { segment: position / pages, index: (position % pages) as u16 }
}

impl fmt::Debug for KnownPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("KnownPages").field("pages", &self.by_hash.len()).finish_non_exhaustive()
    }
}

impl TapeFormat {
    /// Of a template: not a guest, but pages to find others' pages in.
    pub const TEMPLATE: Self = Self(3);
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::PAGE_SIZE;

    const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

    fn page(seed: u8) -> Page {
        std::array::from_fn(|i| {
            (i / 7 % 251).to_le_bytes()[0].wrapping_mul(3).wrapping_add(seed) ^ (i % 5).to_le_bytes()[0]
        })
    }

    fn known(pages: &[Page], bytes_max: usize) -> KnownPages {
        let mut frame = MAGIC.to_vec();
        frame.extend_from_slice(&KEY);
        for page in pages {
            Record::of(&KEY, page).expect("not uniform").write(&mut frame);
        }
        read(&frame, bytes_max).expect("a template")
    }

    /// Reads `frame` in pieces that end anywhere.
    fn read(frame: &[u8], bytes_max: usize) -> Result<KnownPages, &'static str> {
        let mut reader = KnownPagesReader::new(frame.len() / RECORD_LEN, bytes_max);
        for piece in frame.chunks(33) {
            reader.push(piece)?;
            assert!(reader.waiting.len() < RECORD_LEN || reader.is_full());
        }
        reader.finish()
    }

    #[test]
    fn pages_are_found_by_contents() {
        let pages: Vec<Page> = (0..50).map(page).collect();
        let known = known(&pages, usize::MAX);
        for (i, page) in (0..).zip(&pages) {
            assert_eq!(known.find(page), Some(Place::At { segment: 0, index: i }));
        }
        assert_eq!(known.find(&page(99)), None);
        let mut alike = pages[20];
        alike[100] ^= 1;
        assert_eq!(known.find(&alike), None);
        assert_eq!(known.find_alike(&alike), Some(Place::At { segment: 0, index: 20 }));
    }

    #[test]
    fn a_page_loaded_elsewhere_is_alike() {
        // A table of addresses into one mapping, with small numbers between.
        let table = |base: u64| -> Page {
            let word = |i: usize| if i.is_multiple_of(3) { base + 40 * i as u64 } else { (i * i) as u64 };
            std::array::from_fn(|i| word(i / 8).to_le_bytes()[i % 8])
        };
        let known = known(&[page(1), table(0x7f12_3456_7000), page(2)], usize::MAX);
        let elsewhere = table(0x7fab_cdef_0000);
        assert_eq!(known.find_alike(&elsewhere), Some(Place::At { segment: 0, index: 1 }));
        assert_eq!(known.find_alike(&page(77).map(|byte| byte.rotate_left(3))), None);
    }

    #[test]
    fn a_small_budget_forgets_pages_and_no_more() {
        let pages: Vec<Page> = (0..50).map(page).collect();
        let known = known(&pages, 10 * BYTES_A_PAGE);
        assert_eq!(known.len(), 10);
        assert_eq!(known.find(&pages[9]), Some(Place::At { segment: 0, index: 9 }));
        assert_eq!(known.find(&pages[10]), None);
    }

    #[test]
    fn the_key_matters_and_uniform_pages_do_not() {
        let page = page(1);
        assert_ne!(Record::of(&KEY, &page), Record::of(&[8; KEY_LEN], &page));
        assert_eq!(Record::of(&KEY, &[9; PAGE_SIZE]), None);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert!(read(b"", usize::MAX).is_err());
        assert!(read(&MAGIC, usize::MAX).is_err());
        assert!(read(&[7; 200], usize::MAX).is_err());
        let cut = [&MAGIC[..], &KEY[..], &[0; RECORD_LEN - 1][..]].concat();
        assert!(read(&cut, usize::MAX).is_err());
    }
}
