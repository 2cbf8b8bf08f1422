//! ECBC's levels, as units.
//!
//! Single pages are coded as images hold them. Images hold no larger units; for those, up to
//! [`UNIT_MAX`] pages (one page of more costs too much to extract), the rows show what a level
//! would be made of: turbo codes page by page, with two bytes for each page's length and tag, the
//! others take the stock coder that is the best for their regime.

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageDecoder, PageEncoder};

use crate::coder::{CoderName, UnitCoder};
use crate::peers::{Lz4, Zstd};

/// Pages in the largest unit.
const UNIT_MAX: usize = 16;

/// The levels for units of so many pages, and storing, which is a level too.
pub(crate) fn all(unit_pages: usize) -> Vec<(CoderName, Box<dyn UnitCoder>)> {
    if unit_pages > UNIT_MAX {
        return Vec::new();
    }
    let unit_bytes = unit_pages * PAGE_SIZE;
    let coder = |method| -> Box<dyn UnitCoder> {
        match method {
            _ if unit_pages == 1 => Box::new(Pages::new(method, unit_pages)),
            Method::Fast => Box::new(Lz4::new(8)),
            Method::Light => Box::new(Zstd::new(if unit_pages < UNIT_MAX { -3 } else { -1 }, unit_bytes)),
            Method::Balanced => Box::new(Zstd::new(if unit_pages < UNIT_MAX { -1 } else { 1 }, unit_bytes)),
            Method::Dense => Box::new(Zstd::new(3, unit_bytes)),
            _ => Box::new(Pages::new(method, unit_pages)),
        }
    };
    let methods = std::iter::once(Method::Raw).chain(Method::LEVELS);
    methods.map(|method| (CoderName::new("ecbc", &method), coder(method))).collect()
}

/// Length and tag of a page in a code.
const HEAD: usize = 2;
/// The tags of pages without a blob; images have the same.
const FILL: u8 = 1;
const STORED: u8 = 2;

/// Pages, one after the other.
struct Pages {
    encoder: PageEncoder,
    decoder: PageDecoder,
    /// What is not counted: an image's index has it anyway.
    indexed: usize,
}

impl Pages {
    fn new(method: Method, unit_pages: usize) -> Self {
        let indexed = if unit_pages == 1 { HEAD } else { 0 };
        Self { encoder: PageEncoder::new(method), decoder: PageDecoder::new(), indexed }
    }

    fn decode(&mut self, mut code: &[u8], unit: &mut [u8]) -> Option<()> {
        for page in unit.as_chunks_mut::<PAGE_SIZE>().0 {
            let (head, rest) = code.split_first_chunk::<HEAD>()?;
            let head = u16::from_le_bytes(*head);
            let [tag, ..] = (head & 15).to_le_bytes();
            let (body, rest) = rest.split_at_checked(usize::from(head >> 4) + 1)?;
            match tag {
                FILL => page.as_chunks_mut().0.fill(*body.first_chunk::<4>()?),
                STORED => page.copy_from_slice(body),
                _ => self.decoder.decode(tag, body, page).ok()?,
            }
            code = rest;
        }
        Some(())
    }
}

impl UnitCoder for Pages {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        for page in unit.as_chunks::<PAGE_SIZE>().0 {
            let (head, room) = code[at..].split_first_chunk_mut::<HEAD>()?;
            let (tag, len) = match self.encoder.encode(page, &mut room[..BLOB_ROOM]) {
                PageCode::Blob { tag, len } => (tag.number(), len),
                PageCode::Stored => {
                    room[..PAGE_SIZE].copy_from_slice(page);
                    (STORED, PAGE_SIZE)
                }
                PageCode::Zero => {
                    room[..4].fill(0);
                    (FILL, 4)
                }
                PageCode::Fill(word) => {
                    room[..4].copy_from_slice(&word.to_le_bytes());
                    (FILL, 4)
                }
            };
            let lengthened = u16::try_from(len - 1).ok()? << 4;
            *head = (lengthened | u16::from(tag)).to_le_bytes();
            at += HEAD + len;
        }
        Some(at)
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        self.decode(code, unit).is_some()
    }

    fn indexed_bytes(&self) -> usize {
        self.indexed
    }
}
