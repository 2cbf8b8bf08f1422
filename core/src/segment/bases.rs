//! What the pages of a segment rest on: ancestors' pages as they are stored, and how each is
//! turned into contents.

use super::decode::{check_stored, decode_contents, decode_page};
use crate::Page;
use crate::buffer::{Buffer, Reservation};
use crate::ecbc::PageDecoder;
use crate::format::ancestor::Ancestor;
use crate::format::entry::{Entry, content_check};
use crate::format::reference::Reference;
use crate::format::segment::Digest;
use crate::format::{FormatError, ImageUuid};

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
    /// Where its bytes stand in the image, for messages; 0 if it has none.
    pub offset: u64,
    /// Its bytes, if it has any.
    pub blob: Option<BlobAt>,
}

/// Why a page cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageProblem {
    /// Its own bytes are wrong, in words.
    #[error("{0}")]
    Own(String),
    /// Those of an ancestor's page that it rests on are.
    #[error(transparent)]
    Ancestors(FormatError),
}

impl From<&str> for PageProblem {
    fn from(problem: &str) -> Self {
        Self::Own(problem.to_owned())
    }
}

impl From<String> for PageProblem {
    fn from(problem: String) -> Self {
        Self::Own(problem)
    }
}

impl PageProblem {
    /// Of page `pfn`, which stands at `offset`.
    pub(crate) fn at(self, offset: u64, pfn: u64) -> FormatError {
        match self {
            Self::Own(problem) => FormatError::damaged(offset, format!("page {pfn}"), problem),
            Self::Ancestors(error) => error,
        }
    }
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

impl Base {
    /// Whether the ancestor's page is one of a unit's.
    pub(crate) fn is_in_unit(&self) -> bool {
        self.page.is_some_and(|page| matches!(page.entry, Entry::Unit { .. }))
    }
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
    /// By page index, the checks of contents that are known already; shorter than the batch where none is.
    pub checks: Vec<Option<u32>>,
    /// The images that stored pages stand in, for errors.
    pub names: Vec<Ancestor>,
    /// Of the parent's segment of the same pfns, if all its pages that may have changed are here, but
    /// for those that are one word all over.
    pub digest: Option<Digest>,
}

/// The unit whose stored bytes were found whole last, so that they are not checked again for each of its
/// pages. To be used for the pages of one [`Bases`].
#[derive(Debug, Default)]
pub(crate) struct LastUnit(Option<(ImageUuid, u32, BlobAt)>);

impl LastUnit {
    /// Checks the stored bytes of `page`.
    fn check(&mut self, bases: &Bases, page: &StoredPage) -> Result<(), PageProblem> {
        let unit = match (page.entry, page.blob) {
            (Entry::Unit { at, .. }, Some(blob)) => Some((page.uuid, at, blob)),
            _ => None,
        };
        if unit.is_some() && unit == self.0 {
            return Ok(());
        }
        check_stored(&page.uuid, page.pfn, page.entry, bases.blob(page))
            .map_err(|problem| bases.in_ancestor(page, problem))?;
        self.0 = unit.or(self.0);
        Ok(())
    }
}

impl Bases {
    /// What page `index` rests on.
    pub fn get(&self, index: usize) -> Option<&Base> {
        self.pages.get(index).and_then(Option::as_ref)
    }

    /// The same in no more memory than it needs, for those who keep it.
    pub(crate) fn shrink(mut self) -> Self {
        self.buffers = self.buffers.into_iter().map(Buffer::shrink).collect();
        // It covers the buffers that are in no pool.
        let covered = self.buffers.iter().filter(|buffer| buffer.budget_bytes() == 0);
        let bytes = covered.map(Buffer::capacity).sum();
        if let Some(reservation) = &mut self.reservation {
            reservation.shrink_to(bytes);
        }
        self
    }

    /// The check of `page`, which has this index in the batch.
    pub(crate) fn check_of(&self, index: usize, page: &Page) -> u32 {
        self.checks.get(index).copied().flatten().unwrap_or_else(|| content_check(page))
    }

    pub(crate) fn blob(&self, page: &StoredPage) -> &[u8] {
        let blob = page.blob.and_then(|blob| self.buffers.get(blob.buffer)?.get(blob.at..)?.get(..blob.len));
        blob.unwrap_or_default()
    }

    /// Decodes a page that rests on no other.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn decode_alone(
        &self,
        decoder: &mut PageDecoder,
        page: &StoredPage,
        out: &mut Page,
    ) -> Result<(), PageProblem> {
        decode_page(decoder, &page.uuid, page.pfn, page.entry, self.blob(page), None, out)
            .map_err(|problem| self.in_ancestor(page, problem))
    }

    /// A problem with a stored page, told with the image that it stands in.
    fn in_ancestor(&self, page: &StoredPage, problem: impl Into<String>) -> PageProblem {
        let known = self.names.iter().find(|known| known.uuid == page.uuid);
        let ancestor = known.map_or_else(|| "ancestor".to_owned(), Ancestor::to_string);
        let (part, problem) = (format!("page {}", page.pfn), problem.into());
        PageProblem::Ancestors(FormatError::AncestorDamaged { ancestor, offset: page.offset, part, problem })
    }

    /// Decodes the ancestor's page of `base`.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn decode(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        out: &mut Page,
    ) -> Result<(), PageProblem> {
        let page = base.page.as_ref().ok_or("the ancestor's page was not read")?;
        let Some((_, under)) = &base.under else { return self.decode_alone(decoder, page, out) };
        let mut contents = [0; crate::PAGE_SIZE];
        self.decode_alone(decoder, under, &mut contents)?;
        decode_page(decoder, &page.uuid, page.pfn, page.entry, self.blob(page), Some(&contents), out)
            .map_err(|problem| self.in_ancestor(page, problem))
    }

    /// Decodes page `index` of a segment from its own `blob` and what it rests on. On error
    /// `out` holds zeros.
    ///
    /// # Errors
    /// What is wrong.
    #[expect(clippy::too_many_arguments, reason = "all that is known of a page")]
    pub(crate) fn decode_upon(
        &self,
        decoder: &mut PageDecoder,
        uuid: &ImageUuid,
        pfn: u64,
        entry: Entry,
        blob: &[u8],
        index: usize,
        out: &mut Page,
    ) -> Result<(), PageProblem> {
        let Some(base) = self.get(index) else {
            return Ok(decode_page(decoder, uuid, pfn, entry, blob, None, out)?);
        };
        let result = if matches!(entry, Entry::Same { .. } | Entry::Elsewhere { .. }) {
            self.decode_same(decoder, base, entry.check(), out)
        } else {
            let mut contents = [0; crate::PAGE_SIZE];
            self.decode(decoder, base, &mut contents)
                .and_then(|()| Ok(decode_page(decoder, uuid, pfn, entry, blob, Some(&contents), out)?))
        };
        if result.is_err() {
            out.fill(0);
        }
        result
    }

    /// Decodes the ancestor's page of `base`, whose contents must have `check` if there is one.
    fn decode_same(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        check: Option<u32>,
        out: &mut Page,
    ) -> Result<(), PageProblem> {
        self.decode(decoder, base, out)?;
        // Decoding has seen to the ancestor's own check: the same one need not be made again.
        let checked = base.page.and_then(|page| page.entry.check());
        match check {
            Some(wanted) if check != checked && wanted != content_check(out) => {
                Err("the check of its contents differs".into())
            }
            _ => Ok(()),
        }
    }

    /// Checks the stored bytes of what page `index` rests on, and that they are of a kind that
    /// `entry` may rest on; decodes nothing.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check_stored(
        &self,
        index: usize,
        entry: Entry,
        last_unit: &mut LastUnit,
    ) -> Result<(), PageProblem> {
        let base = self.get(index);
        if Reference::of_entry(entry).is_none() && !matches!(entry, Entry::Difference { .. }) {
            return Ok(());
        }
        let page = base.and_then(|base| base.page).ok_or("the page that it rests on was not read")?;
        let under = base.and_then(|base| base.under).map(|(_, page)| page);
        let needs_under = matches!(page.entry, Entry::Difference { .. });
        if needs_under != under.is_some() || Reference::of_entry(page.entry).is_some() {
            return Err("the page that it rests on is missing, or rests on another itself".into());
        }
        let same = Reference::of_entry(entry).and(entry.check()).zip(page.entry.check());
        if same.is_some_and(|(own, ancestors)| own != ancestors) {
            return Err("the check of its contents differs".into());
        }
        [Some(page), under].iter().flatten().try_for_each(|page| last_unit.check(self, page))?;
        Ok(())
    }

    /// Checks the stored bytes of the ancestor's page of `base`.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check_whole(&self, base: &Base, last_unit: &mut LastUnit) -> Result<(), PageProblem> {
        let page = base.page.ok_or("the ancestor's page was not read")?;
        let under = base.under.map(|(_, under)| under);
        if matches!(page.entry, Entry::Difference { .. }) != under.is_some() {
            return Err(self.in_ancestor(&page, "the page that it rests on was not read"));
        }
        [Some(page), under].iter().flatten().try_for_each(|page| last_unit.check(self, page))?;
        Ok(())
    }

    /// Whether the ancestor's page of `base` has the very bytes of `page`. Its own content
    /// check is not looked at: equal bytes are right whatever it says.
    ///
    /// # Errors
    /// What is wrong with the ancestor's.
    pub(crate) fn is_same(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        page: &Page,
    ) -> Result<bool, PageProblem> {
        let Some(stored) = &base.page else { return Ok(false) };
        let (mut contents, mut found) = ([0; crate::PAGE_SIZE], [0; crate::PAGE_SIZE]);
        let under = self.decode_under(decoder, base, &mut contents)?;
        let blob = self.blob(stored);
        decode_contents(decoder, &stored.uuid, stored.pfn, stored.entry, blob, under, &mut found)
            .map_err(|problem| self.in_ancestor(stored, problem))?;
        Ok(found == *page)
    }

    /// What the ancestor's page is a difference to, if it is one.
    fn decode_under<'a>(
        &self,
        decoder: &mut PageDecoder,
        base: &Base,
        contents: &'a mut Page,
    ) -> Result<Option<&'a Page>, PageProblem> {
        let Some((_, under)) = &base.under else { return Ok(None) };
        self.decode_alone(decoder, under, contents)?;
        Ok(Some(contents))
    }
}
