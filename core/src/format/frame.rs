//! Frame chunks: the bytes of the tape that are not page contents.
//!
//! The frame stream is a sequence of items: a length as an unsigned LEB128 number, then that
//! many bytes; length 0 says that the next page segment stands here. So tape order is kept
//! though frame and pages lie apart. An item never crosses a chunk.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::directory::DirectoryEntry;
use super::segment::{FLAG_LAST, HEADER_LEN, Header, Kind, MAGIC, RawHeader};
use super::{BLOCK, FormatError, ImageUuid, blocks_of};

/// Bytes before compression after which a chunk is closed.
const CHUNK_RAW: usize = 1 << 20;
/// The longest item; the writer cuts longer ones.
const ITEM_MAX: usize = 1 << 16;
/// The most that a chunk can hold before compression.
const CHUNK_RAW_MAX: usize = CHUNK_RAW + ITEM_MAX + 8;
const ZSTD_LEVEL: i32 = 3;
const PAYLOAD_AT: usize = HEADER_LEN + 8;

/// Gathers frame bytes into chunks.
#[derive(Debug, Default)]
pub(crate) struct FrameBuilder {
    items: Vec<u8>,
    pending: Vec<u8>,
}

impl FrameBuilder {
    /// Adds bytes; gives the contents of a chunk for each one that is full.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut full = Vec::new();
        for piece in bytes.chunks(ITEM_MAX) {
            if self.pending.len() + piece.len() > ITEM_MAX {
                self.close_item();
            }
            self.pending.extend_from_slice(piece);
            full.extend(self.take_full());
        }
        full
    }

    /// Notes that a page segment stands here.
    pub(crate) fn push_segment(&mut self) -> Option<Vec<u8>> {
        self.close_item();
        self.items.push(0);
        self.take_full()
    }

    /// The last chunk's contents; there is always a last chunk, so that it can be marked.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.close_item();
        self.items
    }

    fn close_item(&mut self) {
        if !self.pending.is_empty() {
            write_leb128(self.pending.len(), &mut self.items);
            self.items.append(&mut self.pending);
        }
    }

    fn take_full(&mut self) -> Option<Vec<u8>> {
        if self.items.len() >= CHUNK_RAW { Some(std::mem::take(&mut self.items)) } else { None }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn write_leb128(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A frame chunk, to be given its place (offset and hash) and written.
#[expect(clippy::cast_possible_truncation, reason = "a chunk is little over 1 MiB")]
pub(crate) fn build_chunk(
    uuid: &ImageUuid,
    number: u32,
    raw: &[u8],
    last: bool,
) -> (Vec<u8>, DirectoryEntry) {
    let mut bytes = vec![0; PAYLOAD_AT + zstd_safe::compress_bound(raw.len())];
    // The bound makes room for anything; failing is a bug in the library.
    let stored = zstd_safe::compress(&mut bytes[PAYLOAD_AT..], raw, ZSTD_LEVEL).unwrap_or_default();
    bytes.truncate(PAYLOAD_AT + stored);
    let hash = xxh3_64(&bytes[PAYLOAD_AT..]);
    bytes.resize(blocks_of(bytes.len()) * BLOCK, 0);
    let mut header = RawHeader::new_zeroed();
    header.magic = MAGIC;
    header.uuid = *uuid;
    header.number = U32::new(number);
    header.pages = U32::new(stored as u32);
    header.first_pfn = U64::new(raw.len() as u64);
    header.blocks = U16::new((bytes.len() / BLOCK) as u16);
    header.table_words = U16::new(1);
    header.kind = 1;
    header.flags = if last { FLAG_LAST } else { 0 };
    bytes[..HEADER_LEN].copy_from_slice(header.as_bytes());
    bytes[HEADER_LEN..PAYLOAD_AT].copy_from_slice(&hash.to_le_bytes());
    let entry = DirectoryEntry {
        offset: 0,
        first_pfn: raw.len() as u64,
        pages: stored as u32,
        blocks: header.blocks.get(),
        table_words: 1,
        listed: false,
        check: 0,
    };
    (bytes, entry)
}

/// Checks and decompresses the frame chunk at `offset`.
///
/// # Errors
/// Damage.
pub fn parse_chunk(bytes: &[u8], uuid: &ImageUuid, offset: u64) -> Result<(Header, Vec<u8>), FormatError> {
    let header = Header::parse(bytes, uuid, offset)?;
    let damaged =
        |problem: &str| FormatError::damaged(offset, format!("frame chunk {}", header.number), problem);
    if header.kind != Kind::Frame || header.table_end != PAYLOAD_AT {
        return Err(damaged("pages where frame bytes are expected"));
    }
    let stored = header.pages as usize;
    let payload = bytes
        .get(PAYLOAD_AT..header.len())
        .and_then(|all| all.get(..stored))
        .ok_or_else(|| damaged("it is cut off"))?;
    if xxh3_64(payload).to_le_bytes() != bytes[HEADER_LEN..PAYLOAD_AT] {
        return Err(damaged("the hash of its contents differs"));
    }
    let raw_len = usize::try_from(header.first_pfn).ok().filter(|&len| len <= CHUNK_RAW_MAX);
    let raw_len = raw_len.ok_or_else(|| damaged("it claims to be larger than chunks are"))?;
    let mut raw = vec![0; raw_len];
    match zstd_safe::decompress(&mut raw[..], payload) {
        Ok(len) if len == raw_len => Ok((header, raw)),
        _ => Err(damaged("it does not decompress")),
    }
}

/// Bytes of `chunk` (with `header`) that hold nothing, for the check that they are zero.
pub(crate) fn padding(header: &Header) -> Range<usize> {
    PAYLOAD_AT + header.pages as usize..header.len()
}

/// One step of the frame stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameItem<'a> {
    /// Bytes of the tape.
    Bytes(&'a [u8]),
    /// The next page segment stands here.
    Segment,
}

/// The items of a chunk's contents. A malformed item ends the iteration with `Err`.
pub fn items(raw: &[u8]) -> impl Iterator<Item = Result<FrameItem<'_>, FormatError>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let item = next_item(rest);
        rest = item.map_or(&[], |(_, rest)| rest);
        Some(
            item.map(|(item, _)| item).ok_or_else(|| {
                FormatError::damaged(0, "the frame stream", "an item is longer than its chunk")
            }),
        )
    })
}

fn next_item(bytes: &[u8]) -> Option<(FrameItem<'_>, &[u8])> {
    let mut len = 0usize;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let (item, rest) = bytes[i + 1..].split_at_checked(len)?;
            return Some((if len == 0 { FrameItem::Segment } else { FrameItem::Bytes(item) }, rest));
        }
    }
    None
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::format::segment::seal;

    const UUID: ImageUuid = [3; 16];

    #[test]
    fn a_stream_comes_back_in_order() {
        let long: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
        let mut builder = FrameBuilder::default();
        let mut chunks = builder.push(b"head");
        chunks.extend(builder.push_segment());
        chunks.extend(builder.push_segment());
        chunks.extend(builder.push(&long));
        chunks.push(builder.finish());
        assert!(chunks.len() >= 2);
        let mut got = Vec::new();
        let mut segments_at = Vec::new();
        for (number, raw) in (0..).zip(&chunks) {
            let (mut bytes, _) = build_chunk(&UUID, number, raw, false);
            seal(&mut bytes, 4096);
            let (header, back) = parse_chunk(&bytes, &UUID, 4096).expect("valid");
            assert_eq!((header.number, &back), (number, raw));
            assert!(bytes[padding(&header)].iter().all(|&byte| byte == 0));
            for item in items(&back) {
                match item.expect("whole") {
                    FrameItem::Bytes(piece) => got.extend_from_slice(piece),
                    FrameItem::Segment => segments_at.push(got.len()),
                }
            }
        }
        assert_eq!(segments_at, [4, 4]);
        assert_eq!((&got[..4], &got[4..]), (&b"head"[..], &long[..]));
    }

    #[test]
    fn damage_is_an_error() {
        let (mut bytes, _) = build_chunk(&UUID, 0, &[5; 100], true);
        seal(&mut bytes, 0);
        let used = padding(&Header::parse(&bytes, &UUID, 0).expect("valid")).start;
        for bit in 0..used * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_chunk(&bytes, &UUID, 0).is_err(), "bit {bit}");
        }
        assert!(items(&[0x85, 0x80, 1]).any(|item| item.is_err()));
        assert!(items(&[5, 1]).any(|item| item.is_err()));
    }
}
