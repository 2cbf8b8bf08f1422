//! What the pages of a segment rest on: ancestors' pages as they are stored, and how each is
//! turned into contents.

use super::decode::decode_page;
use crate::Page;
use crate::buffer::{Buffer, Reservation};
use crate::ecbc::PageDecoder;
use crate::format::ImageUuid;
use crate::format::entry::Entry;
use crate::format::reference::Reference;

/// Where a stored page's bytes are in [`Bases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobAt {
    /// Which of the buffers.
    pub buffer: usize,
    /// Byte offset in it.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
}

/// A page as an image stores it: enough to decode it alone.
#[derive(Debug, Clone, Copy)]
pub struct StoredPage {
    /// The image that it stands in.
    pub uuid: ImageUuid,
    /// Its pfn there.
    pub pfn: u64,
    /// Its entry there.
    pub entry: Entry,
    /// Its bytes, if it has any.
    pub blob: Option<BlobAt>,
}

/// What one page rests on, or may rest on.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The ancestor's page.
    pub reference: Reference,
    /// Whether its contents are known to be the page's own, without reading it.
    pub certain: bool,
    /// The ancestor's page as stored there, if it was read.
    pub page: Option<StoredPage>,
    /// Where that is a difference: what it rests on.
    pub under: Option<(Reference, StoredPage)>,
}

/// For each page of a batch, by its index, what it rests on.
#[derive(Debug, Default)]
pub struct Bases {
    /// By page index; shorter than the batch where the last pages rest on nothing.
    pub pages: Vec<Option<Base>>,
    /// The bytes of stored pages.
    pub buffers: Vec<Buffer>,
    /// Their share of the memory budget.
    pub reservation: Option<Reservation>,
}

impl Bases {
    /// What page `index` rests on.
    pub fn get(&self, index: usize) -> Option<&Base> {
        self.pages.get(index).and_then(Option::as_ref)
    }

    fn blob(&self, page: &StoredPage) -> &[u8] {
        let blob = page.blob.and_then(|blob| self.buffers.get(blob.buffer)?.get(blob.at..)?.get(..blob.len));
        blob.unwrap_or_default()
    }

    /// Decodes a page that rests on no other.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn decode_alone(
        &self,
        decoder: &mut PageDecoder,
        page: &StoredPage,
        out: &mut Page,
    ) -> Result<(), String> {
        decode_page(decoder, &page.uuid, page.pfn, page.entry, self.blob(page), None, out)
    }

    /// Decodes the ancestor's page of `base`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn decode(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        out: &mut Page,
    ) -> Result<(), String> {
        let page = base.page.as_ref().ok_or("the ancestor's page was not read")?;
        let mut contents = [0; crate::PAGE_SIZE];
        let under = match &base.under {
            None => None,
            Some((_, under)) => {
                self.decode_alone(decoder, under, &mut contents)?;
                Some(&contents)
            }
        };
        decode_page(decoder, &page.uuid, page.pfn, page.entry, self.blob(page), under, out)
    }
}
