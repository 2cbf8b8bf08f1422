//! ECBC's levels, as units: single pages as images hold them, and several pages as `--unit` codes
//! them. A level that codes each page alone has its pages one after the other, with two bytes for
//! each page's length and tag.

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageDecoder, PageEncoder, UnitEncoder, UnitKey};
use comio_core::format::entry::UNIT_PAGES_MAX;

use crate::coder::{CoderName, UnitCoder};

/// The levels for units of so many pages, and storing, which is a level too.
pub(crate) fn all(unit_pages: usize) -> Vec<(CoderName, Box<dyn UnitCoder>)> {
    if unit_pages > UNIT_PAGES_MAX {
        return Vec::new();
    }
    let coder = |method| -> Box<dyn UnitCoder> {
        match UnitEncoder::new(method, unit_pages) {
            Some(encoder) => Box::new(Units::new(encoder)),
            None => Box::new(Pages::new(method, unit_pages)),
        }
    };
    let methods = std::iter::once(Method::Raw).chain(Method::LEVELS);
    methods.map(|method| (CoderName::new("ecbc", &method), coder(method))).collect()
}

/// Pages coded together; a byte before the code names the coder.
struct Units {
    encoder: UnitEncoder,
    decoder: PageDecoder,
    /// Makes every unit another one for the decoder, which would keep the last.
    decoded: u32,
}

impl Units {
    fn new(encoder: UnitEncoder) -> Self {
        Self { encoder, decoder: PageDecoder::new(), decoded: 0 }
    }
}

impl UnitCoder for Units {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        let (head, room) = code[..unit.len()].split_first_mut()?;
        let (tag, len) = self.encoder.encode(unit, room)?;
        *head = tag.number();
        Some(1 + len)
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        let Some((&coder, code)) = code.split_first() else { return false };
        self.decoded = self.decoded.wrapping_add(1);
        let key = UnitKey { image: [0; 16], at: self.decoded, len: code.len(), check: [0; 4] };
        let (pages, _) = unit.as_chunks_mut::<PAGE_SIZE>();
        if self.decoder.decode_unit(key, coder, code, pages.len()).is_err() {
            return false;
        }
        pages.iter_mut().enumerate().all(|(index, page)| {
            self.decoder.page_of_last_unit(&key, index).is_some_and(|found| {
                *page = *found;
                true
            })
        })
    }

    fn indexed_bytes(&self) -> usize {
        1
    }
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
