//! Segment: header and page table, and their parsing back.
//!
//! The table stands once in the image, at the head of its segment; so a segment is one write,
//! a lost tail loses no table, and the writer's memory does not grow with the guest.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::directory::DirectoryEntry;
use super::entry::{BadEntry, Entry, tag};
use super::{BLOCK, FormatError, ImageUuid, blocks_of};
use crate::tape::Pfns;
use crate::{PAGE_SIZE, SEGMENT_PAGES};

/// First bytes of every segment and frame chunk.
pub const MAGIC: [u8; 8] = *b"CIOSEG01";
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// The default entry's bitmap pays for itself from this many pages on.
const BITMAP_PAYS: usize = 17;
const BITMAP_LEN: usize = SEGMENT_PAGES / 8;
/// The longest header and table: explicit pfns, entry bitmap, every page with an entry, a digest.
pub const MAX_TABLE_END: usize = HEADER_LEN + BITMAP_LEN + 16 * SEGMENT_PAGES + DIGEST_LEN;
/// The longest segment in bytes: its table and every page stored on its boundary.
pub const MAX_SEGMENT_LEN: usize = blocks(MAX_TABLE_END) * BLOCK + SEGMENT_PAGES * PAGE_SIZE;

/// The secret that a digest is made under: random.
pub type DigestKey = [u8; 16];
const DIGEST_LEN: usize = size_of::<Digest>();

/// A digest of the contents of a segment's pages, for saves that rest on the image
/// (`docs/format.md`); nothing in reading depends on it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Digest {
    /// What it was made under.
    pub key: DigestKey,
    /// The exclusive or of the pages' tags.
    pub sum: [u8; 16],
}

const fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A page table and pages.
    Pages,
    /// Bytes of the tape that are not page contents.
    Frame,
}

const MAP_RUN: u8 = 0;
const MAP_BITMAP: u8 = 1;
const MAP_LIST: u8 = 2;
const FLAG_ENTRY_BITMAP: u8 = 1;
const FLAG_STRICT: u8 = 2;
/// Of frame chunks: no further one follows on the tape.
pub(crate) const FLAG_LAST: u8 = 4;
const FLAG_DIGEST: u8 = 8;

/// The header as it stands in the file (`docs/format.md`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug, Clone, Copy)]
#[repr(C)]
pub struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) uuid: ImageUuid,
    pub(crate) offset: U64,
    pub(crate) number: U32,
    pub(crate) pages: U32,
    pub(crate) first_pfn: U64,
    pub(crate) blocks: U16,
    pub(crate) table_words: U16,
    pub(crate) kind: u8,
    pub(crate) default_tag: u8,
    pub(crate) pfn_map: u8,
    pub(crate) flags: u8,
    pub(crate) check: U64,
}

/// A header that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether pages or frame bytes follow.
    pub kind: Kind,
    /// Its place among those of its kind, in tape order.
    pub number: u32,
    /// Pages in it (frame: stored bytes).
    pub pages: u32,
    /// The first page's pfn (frame: bytes before compression).
    pub first_pfn: u64,
    /// Length of the whole, in 4 KiB blocks.
    pub blocks: u16,
    /// End of header and table, in bytes from the start.
    pub table_end: usize,
    /// Whether it claims that no blob straddles a block.
    pub strict: bool,
    /// Whether it is the tape's last frame chunk.
    pub last: bool,
    /// Hash of header and table; the directory repeats it.
    pub check: u64,
    default_tag: u8,
    pfn_map: u8,
    flags: u8,
}

impl Header {
    /// Reads the header that should stand at `offset` of image `uuid`. `bytes` begins with it and
    /// holds its table as well. The hash comes before everything that could ask for a newer
    /// version: a flipped bit must not look like one.
    ///
    /// # Errors
    /// When the bytes are not a header and table of this image at this place.
    pub fn parse(bytes: &[u8], uuid: &ImageUuid, offset: u64) -> Result<Self, FormatError> {
        let damaged = |problem: &str| FormatError::damaged(offset, "a segment header", problem);
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| damaged("cut off"))?;
        if raw.magic != MAGIC {
            return Err(damaged("its magic is missing"));
        }
        if raw.uuid != *uuid || raw.offset.get() != offset {
            return Err(damaged("it belongs to another image or place"));
        }
        let table_end = HEADER_LEN + 8 * usize::from(raw.table_words.get());
        let header_and_table = bytes.get(..table_end).ok_or_else(|| damaged("its table is cut off"))?;
        if check_of(header_and_table) != raw.check.get() {
            return Err(damaged("the hash of header and table differs"));
        }
        Self::interpret(&raw, table_end, offset)
    }

    fn interpret(raw: &RawHeader, table_end: usize, offset: u64) -> Result<Self, FormatError> {
        let kind = match raw.kind {
            0 => Kind::Pages,
            1 => Kind::Frame,
            other => return Err(FormatError::Unsupported(format!("segments of kind {other}"))),
        };
        if raw.flags & !(FLAG_ENTRY_BITMAP | FLAG_STRICT | FLAG_LAST | FLAG_DIGEST) != 0 {
            return Err(FormatError::Unsupported(format!("segment flags {:#x}", raw.flags)));
        }
        let default_is_known = raw.default_tag == 0 || raw.default_tag & 0xf == tag::SAME;
        if !default_is_known {
            return Err(FormatError::Unsupported(format!("default tag {:#x}", raw.default_tag)));
        }
        if kind == Kind::Pages && raw.pfn_map > MAP_LIST {
            return Err(FormatError::Unsupported(format!("pfn maps of kind {}", raw.pfn_map)));
        }
        if kind == Kind::Pages && raw.pages.get() as usize > SEGMENT_PAGES {
            return Err(FormatError::Unsupported(format!("segments of {} pages", raw.pages)));
        }
        let whole = usize::from(raw.blocks.get()) * BLOCK;
        if table_end > whole || whole > MAX_SEGMENT_LEN {
            let problem = format!("table of {table_end} and segment of {whole} bytes");
            return Err(FormatError::damaged(offset, "a segment header", problem));
        }
        Ok(Self {
            kind,
            number: raw.number.get(),
            pages: raw.pages.get(),
            first_pfn: raw.first_pfn.get(),
            blocks: raw.blocks.get(),
            table_end,
            strict: raw.flags & FLAG_STRICT != 0,
            last: raw.flags & FLAG_LAST != 0,
            check: raw.check.get(),
            default_tag: raw.default_tag,
            pfn_map: raw.pfn_map,
            flags: raw.flags,
        })
    }

    /// What the directory says of a segment with this header at `offset`.
    #[expect(clippy::cast_possible_truncation, reason = "the table's length was read from 16 bits")]
    pub fn directory_entry(&self, offset: u64) -> DirectoryEntry {
        DirectoryEntry {
            offset,
            first_pfn: self.first_pfn,
            pages: self.pages,
            blocks: self.blocks,
            table_words: ((self.table_end - HEADER_LEN) / 8) as u16,
            listed: self.kind == Kind::Pages && self.pfn_map == MAP_LIST,
            check: self.check,
        }
    }

    /// Length of the whole, in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.blocks) * BLOCK
    }

    /// Whether it has no blocks (no valid one has none).
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }
}

/// The hash over header (its own field zero) and table.
pub(crate) fn check_of(header_and_table: &[u8]) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(&header_and_table[..HEADER_LEN - 8]);
    hash.update(&[0; 8]);
    hash.update(&header_and_table[HEADER_LEN..]);
    hash.digest()
}

/// Gives a finished segment its place: sets the offset and the hash in its header.
pub(crate) fn seal(bytes: &mut [u8], offset: u64) -> u64 {
    let table_end = HEADER_LEN + 8 * usize::from(u16::from_le_bytes([bytes[50], bytes[51]]));
    bytes[24..32].copy_from_slice(&offset.to_le_bytes());
    let check = check_of(&bytes[..table_end]);
    bytes[HEADER_LEN - 8..HEADER_LEN].copy_from_slice(&check.to_le_bytes());
    check
}

/// What a page segment's header and table are written from.
#[derive(Debug)]
pub(crate) struct TableDraft<'a> {
    pub(crate) uuid: &'a ImageUuid,
    pub(crate) number: u32,
    pub(crate) pfns: &'a Pfns,
    pub(crate) strict: bool,
    /// The entry that the table leaves out: [`Entry::Zero`], or [`Entry::Same`] without check.
    pub(crate) default: Entry,
    /// How many entries are that.
    pub(crate) defaults: usize,
    pub(crate) digest: Option<Digest>,
}

impl TableDraft<'_> {
    fn uses_bitmap(&self) -> bool {
        self.defaults >= BITMAP_PAYS
    }

    /// Whether the pfns are written one by one.
    pub(crate) fn lists_pfns(&self) -> bool {
        self.pfn_map().0 == MAP_LIST
    }

    fn pfn_map(&self) -> (u8, usize) {
        match self.pfns {
            Pfns::Run { .. } => (MAP_RUN, 0),
            Pfns::List(list) if fits_bitmap(list) => (MAP_BITMAP, BITMAP_LEN),
            Pfns::List(list) => (MAP_LIST, 8 * list.len()),
        }
    }

    /// End of header and table, in bytes.
    pub(crate) fn table_end(&self) -> usize {
        let entries = self.pfns.count() - if self.uses_bitmap() { self.defaults } else { 0 };
        let bitmap = if self.uses_bitmap() { BITMAP_LEN } else { 0 };
        let digest = if self.digest.is_some() { DIGEST_LEN } else { 0 };
        HEADER_LEN + self.pfn_map().1 + bitmap + 8 * entries + digest
    }

    fn flags(&self) -> u8 {
        u8::from(self.uses_bitmap()) * FLAG_ENTRY_BITMAP
            + u8::from(self.strict) * FLAG_STRICT
            + u8::from(self.digest.is_some()) * FLAG_DIGEST
    }

    /// Writes header and table to the front of `out`; offset and hash are set by [`seal`].
    #[expect(clippy::cast_possible_truncation, reason = "at most 1024 pages, 1029 blocks")]
    pub(crate) fn write(&self, entries: &[Entry], total_len: usize, out: &mut [u8]) {
        let table_end = self.table_end();
        let (pfn_map, pfn_len) = self.pfn_map();
        let header = RawHeader {
            magic: MAGIC,
            uuid: *self.uuid,
            offset: U64::ZERO,
            number: U32::new(self.number),
            pages: U32::new(entries.len() as u32),
            first_pfn: U64::new(self.pfns.iter().next().unwrap_or(0)),
            blocks: U16::new(blocks_of(total_len) as u16),
            table_words: U16::new(((table_end - HEADER_LEN) / 8) as u16),
            kind: 0,
            default_tag: default_number(self.default),
            pfn_map,
            flags: self.flags(),
            check: U64::ZERO,
        };
        let (head, rest) = out[..table_end].split_at_mut(HEADER_LEN);
        head.copy_from_slice(header.as_bytes());
        let (pfns, rest) = rest.split_at_mut(pfn_len);
        match (pfn_map, self.pfns) {
            (MAP_BITMAP, Pfns::List(list)) => {
                pfns.fill(0);
                for pfn in list {
                    set_bit(pfns, (pfn - list[0]) as usize);
                }
            }
            (MAP_LIST, Pfns::List(list)) => {
                for (word, pfn) in pfns.chunks_exact_mut(8).zip(list) {
                    word.copy_from_slice(&pfn.to_le_bytes());
                }
            }
            _ => {}
        }
        let (bitmap, rest) = rest.split_at_mut(if self.uses_bitmap() { BITMAP_LEN } else { 0 });
        let (words, digest) = rest.split_at_mut(rest.len() - self.digest.map_or(0, |_| DIGEST_LEN));
        if let Some(own) = &self.digest {
            digest.copy_from_slice(own.as_bytes());
        }
        bitmap.fill(0);
        let mut words = words.chunks_exact_mut(8);
        for (page, &entry) in entries.iter().enumerate() {
            if self.uses_bitmap() {
                if entry == self.default {
                    continue;
                }
                set_bit(bitmap, page);
            }
            if let Some(word) = words.next() {
                word.copy_from_slice(&entry.to_bits().to_le_bytes());
            }
        }
    }
}

/// The default entry as the header names it: its tag, and the ancestor in the upper bits.
fn default_number(entry: Entry) -> u8 {
    match entry {
        Entry::Same { ancestor, .. } => tag::SAME | ancestor << 4,
        _ => tag::ZERO,
    }
}

fn default_entry(number: u8) -> Entry {
    if number & 0xf == tag::SAME { Entry::Same { ancestor: number >> 4, check: None } } else { Entry::Zero }
}

fn fits_bitmap(list: &[u64]) -> bool {
    let within = |first: u64, last: u64| last.checked_sub(first).is_some_and(|d| d < SEGMENT_PAGES as u64);
    list.is_sorted_by(|a, b| a < b)
        && list.first().zip(list.last()).is_some_and(|(&first, &last)| within(first, last))
}

fn set_bit(bitmap: &mut [u8], bit: usize) {
    bitmap[bit / 8] |= 1 << (bit % 8);
}

fn bits(bitmap: &[u8]) -> impl Iterator<Item = usize> + '_ {
    (0..bitmap.len() * 8).filter(|&bit| bitmap[bit / 8] >> (bit % 8) & 1 != 0)
}

/// A segment's pages and where their contents are. Checked: hash, bounds, every entry.
#[derive(Debug, Clone)]
pub struct PageTable {
    /// The header.
    pub header: Header,
    /// Where the segment stands in the image, in bytes.
    pub offset: u64,
    /// The pages, in tape order.
    pub pfns: Pfns,
    /// The digest of its pages, if it has one.
    pub digest: Option<Digest>,
    entries: Arc<[u64]>,
}

impl PageTable {
    /// Parses header and table of the page segment that stands at `offset` of image `uuid`.
    /// `bytes` begins with the segment and holds at least its table.
    ///
    /// # Errors
    /// Damage, or entries this version does not know.
    pub fn parse(bytes: &[u8], uuid: &ImageUuid, offset: u64) -> Result<Self, FormatError> {
        let header = Header::parse(bytes, uuid, offset)?;
        let part = || format!("segment {}", header.number);
        if header.kind != Kind::Pages {
            return Err(FormatError::damaged(offset, part(), "frame bytes where pages are expected"));
        }
        let cut = || FormatError::damaged(offset, part(), "its table does not match its page count");
        let pages = header.pages as usize;
        let (words, digest) = split_digest(&bytes[HEADER_LEN..header.table_end], &header).ok_or_else(cut)?;
        let (pfns, words) = parse_pfns(words, &header).ok_or_else(cut)?;
        let entries = parse_entries(words, &header).ok_or_else(cut)?;
        if pfns.count() != pages || entries.len() != pages {
            return Err(cut());
        }
        for &bits in entries.iter() {
            let entry = Entry::from_bits(bits).map_err(|bad| match bad {
                BadEntry::UnknownTag(tag) => FormatError::Unsupported(format!("pages of kind {tag}")),
                BadEntry::Malformed(bits) => {
                    FormatError::damaged(offset, part(), format!("page entry {bits:#018x} is malformed"))
                }
            })?;
            let end = entry.extent().map_or(0, |(at, len)| header.table_end + at + len);
            if end > header.len() {
                return Err(FormatError::damaged(offset, part(), "a page reaches beyond the segment"));
            }
        }
        Ok(Self { header, offset, pfns, digest, entries })
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of page `index`.
    pub fn entry(&self, index: usize) -> Entry {
        // Every entry was read once by `parse`.
        Entry::from_bits(self.entries[index]).unwrap_or(Entry::Absent)
    }

    /// The pfn of page `index`.
    pub fn pfn(&self, index: usize) -> Option<u64> {
        match &self.pfns {
            Pfns::Run { first, count } => Some(first + index as u64).filter(|_| index < *count),
            Pfns::List(list) => list.get(index).copied(),
        }
    }

    /// The entries in tape order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map(|index| self.entry(index))
    }

    /// Which page of the segment `pfn` is.
    pub fn index_of(&self, pfn: u64) -> Option<usize> {
        match &self.pfns {
            Pfns::Run { first, count } => {
                pfn.checked_sub(*first).and_then(|i| usize::try_from(i).ok()).filter(|i| i < count)
            }
            // The last one counts, should a pfn come twice.
            Pfns::List(list) => list.iter().rposition(|&p| p == pfn),
        }
    }
}

/// The table without the digest at its end, and that.
fn split_digest<'a>(table: &'a [u8], header: &Header) -> Option<(&'a [u8], Option<Digest>)> {
    if header.flags & FLAG_DIGEST == 0 {
        return Some((table, None));
    }
    let (words, digest) = table.split_last_chunk::<DIGEST_LEN>()?;
    Some((words, Some(zerocopy::transmute!(*digest))))
}

fn parse_pfns<'a>(words: &'a [u8], header: &Header) -> Option<(Pfns, &'a [u8])> {
    let count = header.pages as usize;
    let first = header.first_pfn;
    match header.pfn_map {
        MAP_RUN => {
            first.checked_add(count as u64)?;
            Some((Pfns::Run { first, count }, words))
        }
        MAP_BITMAP => {
            let (bitmap, rest) = words.split_at_checked(BITMAP_LEN)?;
            first.checked_add(SEGMENT_PAGES as u64)?;
            Some((Pfns::List(bits(bitmap).map(|bit| first + bit as u64).collect()), rest))
        }
        MAP_LIST => {
            let (list, rest) = words.split_at_checked(8 * count)?;
            let list = list.chunks_exact(8).map(u64_of).collect();
            Some((Pfns::List(list), rest))
        }
        _ => None,
    }
}

fn parse_entries(words: &[u8], header: &Header) -> Option<Arc<[u64]>> {
    if header.flags & FLAG_ENTRY_BITMAP == 0 {
        return Some(words.chunks_exact(8).map(u64_of).collect());
    }
    let (bitmap, words) = words.split_at_checked(BITMAP_LEN)?;
    let mut entries = vec![default_entry(header.default_tag).to_bits(); header.pages as usize];
    let mut words = words.chunks_exact(8);
    for page in bits(bitmap) {
        *entries.get_mut(page)? = u64_of(words.next()?);
    }
    if words.next().is_some() { None } else { Some(entries.into()) }
}

fn u64_of(word: &[u8]) -> u64 {
    word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod test {
    use super::*;

    const UUID: ImageUuid = [7; 16];

    fn written(pfns: &Pfns, entries: &[Entry], offset: u64) -> Vec<u8> {
        written_with_default(Entry::Zero, pfns, entries, offset)
    }

    fn written_with_default(default: Entry, pfns: &Pfns, entries: &[Entry], offset: u64) -> Vec<u8> {
        let defaults = entries.iter().filter(|&&e| e == default).count();
        let digest = Some(Digest { key: [1; 16], sum: [2; 16] }).filter(|_| defaults > 0);
        let draft = TableDraft { uuid: &UUID, number: 3, pfns, strict: false, default, defaults, digest };
        let mut bytes = vec![0; 2 * BLOCK];
        draft.write(entries, 2 * BLOCK, &mut bytes);
        seal(&mut bytes, offset);
        bytes
    }

    #[test]
    fn tables_come_back_for_every_pfn_map() {
        let entries: Vec<_> =
            (0..40).map(|i| if i % 2 == 0 { Entry::Zero } else { Entry::Fill(i) }).collect();
        for pfns in [
            Pfns::Run { first: 5, count: 40 },
            Pfns::from_list((0..40).map(|i| 100 + 3 * i).collect()),
            Pfns::from_list((0..40).map(|i| 1 << (i % 50)).collect()),
        ] {
            let bytes = written(&pfns, &entries, 8192);
            let table = PageTable::parse(&bytes, &UUID, 8192).expect("valid");
            assert_eq!(table.pfns, pfns);
            assert_eq!(table.entries().collect::<Vec<_>>(), entries);
            assert_eq!(table.digest, Some(Digest { key: [1; 16], sum: [2; 16] }));
        }
    }

    #[test]
    fn pages_left_out_are_the_same_as_an_ancestors() {
        let default = Entry::Same { ancestor: 7, check: None };
        let mut entries = vec![default; 1000];
        entries[5] = Entry::Zero;
        entries[6] = Entry::Same { ancestor: 6, check: Some(1) };
        let pfns = Pfns::Run { first: 0, count: 1000 };
        let bytes = written_with_default(default, &pfns, &entries, 4096);
        let table = PageTable::parse(&bytes, &UUID, 4096).expect("valid");
        assert_eq!(table.entries().collect::<Vec<_>>(), entries);
        assert!(table.header.table_end < 300, "two entries and a bitmap");
    }

    #[test]
    fn each_flipped_bit_of_header_and_table_is_seen() {
        let pfns = Pfns::from_list((0..40).map(|i| 100 + 3 * i).collect());
        let bytes = written(&pfns, &[Entry::Fill(9); 40], 4096);
        let table_end = PageTable::parse(&bytes, &UUID, 4096).expect("valid").header.table_end;
        for bit in 0..table_end * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(PageTable::parse(&bytes, &UUID, 4096).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_wrong_place_or_image_is_refused() {
        let bytes = written(&Pfns::Run { first: 0, count: 1 }, &[Entry::Zero], 4096);
        assert!(PageTable::parse(&bytes, &UUID, 8192).is_err());
        assert!(PageTable::parse(&bytes, &[8; 16], 4096).is_err());
    }
}
