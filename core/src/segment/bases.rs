//! What the pages of a segment rest on: ancestors' pages as they are stored, and how each is
//! turned into contents.

use super::decode::{decode_contents, decode_page};
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

/// What is known of an ancestor's page beside the page that may rest on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// They are the same, by a cryptographic hash.
    Certain,
    /// Their content checks are equal: their bytes are to be compared.
    Probable,
    /// They differ.
    Changed,
}

/// What one page rests on, or may rest on.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The ancestor's page.
    pub reference: Reference,
    /// What is known of it before it is decoded.
    pub likeness: Likeness,
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
        let under = self.decode_under(decoder, base, &mut contents)?;
        decode_page(decoder, &page.uuid, page.pfn, page.entry, self.blob(page), under, out)
    }

    /// Whether the ancestor's page of `base` has the very bytes of `page`. Its own content
    /// check is not looked at: equal bytes are right whatever it says.
    pub(crate) fn is_same(&self, decoder: &mut PageDecoder, base: &Base, page: &Page) -> bool {
        let Some(stored) = &base.page else { return false };
        let (mut contents, mut found) = ([0; crate::PAGE_SIZE], [0; crate::PAGE_SIZE]);
        let Ok(under) = self.decode_under(decoder, base, &mut contents) else { return false };
        let blob = self.blob(stored);
        let result =
            decode_contents(decoder, &stored.uuid, stored.pfn, stored.entry, blob, under, &mut found);
        result.is_ok() && found == *page
    }

    /// What the ancestor's page is a difference to, if it is one.
    fn decode_under<'a>(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        contents: &'a mut Page,
    ) -> Result<Option<&'a Page>, String> {
        let Some((_, under)) = &base.under else { return Ok(None) };
        self.decode_alone(decoder, under, contents)?;
        Ok(Some(contents))
    }
}
