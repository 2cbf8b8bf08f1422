//! ECBC's levels, as units.

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageDecoder, PageEncoder};

use crate::coder::{CoderName, UnitCoder};

/// The levels for units of so many pages.
pub(crate) fn all(unit_pages: usize) -> Vec<(CoderName, Box<dyn UnitCoder>)> {
    let mut levels: Vec<(CoderName, Box<dyn UnitCoder>)> = Vec::new();
    if unit_pages == 1 {
        for method in Method::LEVELS {
            levels.push((CoderName::new("ecbc", method), Box::new(Pages::new(method))));
        }
    }
    levels
}

/// Single pages, as images hold them.
struct Pages {
    encoder: PageEncoder,
    decoder: PageDecoder,
}

impl Pages {
    fn new(method: Method) -> Self {
        Self { encoder: PageEncoder::new(method), decoder: PageDecoder::new() }
    }
}

impl UnitCoder for Pages {
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        let page = unit.first_chunk::<PAGE_SIZE>()?;
        // The tag, which an image keeps in its page table, is the code's first byte here.
        let (first, blob) = code.split_first_mut()?;
        match self.encoder.encode(page, &mut blob[..BLOB_ROOM]) {
            PageCode::Blob { tag, len } => {
                *first = tag.number();
                Some(len + 1)
            }
            _ => None,
        }
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        let (Some((tag, blob)), Some(page)) = (code.split_first(), unit.first_chunk_mut::<PAGE_SIZE>())
        else {
            return false;
        };
        self.decoder.decode(*tag, blob, page).is_ok()
    }

    fn indexed_bytes(&self) -> usize {
        1
    }
}
