//! A page against what it may rest on: the same, or a difference.
//!
//! *Same* is decided by the bytes, except where the caller is certain (a cryptographic hash).
//! The entries' checks only tell which pages need not be compared: a guest can make pages that
//! collide in them.

use super::encode::DIFFERENCE_MAX;
use super::{Base, Bases, Likeness, RestsOn, StoredPage};
use crate::ecbc::difference::DifferenceEncoder;
use crate::ecbc::{Method, PageDecoder, uniform};
use crate::format::entry::{Entry, content_check};
use crate::format::reference::{Place, Reference};
use crate::{PAGE_SIZE, Page};

/// A difference of at most this many bytes is taken without trying the page alone.
pub(super) const SURELY_SHORT: usize = 384;

/// A difference is tried if one in so many words of the page stands at the same place in the base.
const ALIKE: usize = 8;

/// How many words of `page` that are not zero stand in `base` at the same place, and how many
/// such words there are.
pub(crate) fn words_alike(page: &Page, base: &Page) -> (usize, usize) {
    let (new, _) = page.as_chunks::<8>();
    let (old, _) = base.as_chunks::<8>();
    let telling = new.iter().filter(|word| **word != [0; 8]).count();
    let same = new.iter().zip(old).filter(|(new, old)| new == old && **new != [0; 8]).count();
    (same, telling)
}

/// What a page is, seen from what it may rest on.
pub(super) enum Found {
    /// Contents that the ancestor has.
    Entry(Entry),
    /// A difference of `len` bytes was appended to the blobs.
    Difference { len: usize, reference: Reference },
    /// Nothing to rest on.
    Nothing,
}

/// One worker's means to compare pages with ancestors'.
pub(super) struct Upon {
    decoder: PageDecoder,
    difference: DifferenceEncoder,
    rests_on: RestsOn,
    /// Zero pages that are zero in an ancestor too: index and ancestor.
    both_zero: Vec<(usize, u8)>,
}

impl Upon {
    pub(super) fn new(method: Method) -> Self {
        Self {
            decoder: PageDecoder::new(),
            difference: DifferenceEncoder::new(method),
            rests_on: RestsOn::default(),
            both_zero: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.rests_on = RestsOn::default();
        self.both_zero.clear();
    }

    /// How often pages came to rest on each ancestor since [`clear`](Self::clear).
    pub(super) fn rests_on(&self) -> RestsOn {
        self.rests_on
    }

    /// Notes that a page rests on `reference`, and on what that rests on in turn.
    pub(super) fn count(&mut self, reference: Reference, base: &Base) {
        self.rests_on[usize::from(reference.ancestor & 0xf)] += 1;
        if let Some((under, _)) = base.under
            && under != reference
        {
            self.rests_on[usize::from(under.ancestor & 0xf)] += 1;
        }
    }

    /// Looks what page `index` is beside `base`; a difference goes to the end of `blobs`.
    pub(super) fn look(
        &mut self,
        page: &Page,
        index: usize,
        bases: &Bases,
        base: &Base,
        blobs: &mut Vec<u8>,
    ) -> Found {
        if base.likeness == Likeness::Certain {
            return self.same(base, content_check(page));
        }
        let Some(stored) = base.page else { return Found::Nothing };
        if let Some(word) = uniform(page) {
            return self.uniform(word, index, base, &stored, page);
        }
        if base.likeness == Likeness::Probable
            && bases.is_same(&mut self.decoder, base, page)
            && let Some(check) = stored.entry.check()
        {
            return self.same(base, check);
        }
        self.difference(page, bases, base, &stored, blobs)
    }

    fn uniform(&mut self, word: u32, index: usize, base: &Base, stored: &StoredPage, page: &Page) -> Found {
        match stored.entry {
            Entry::Zero if word == 0 => {
                if base.reference.place == Place::SamePfn {
                    self.both_zero.push((index, base.reference.ancestor));
                }
                Found::Entry(Entry::Zero)
            }
            Entry::Fill(same) if word == same => self.same(base, content_check(page)),
            _ => Found::Nothing,
        }
    }

    fn same(&mut self, base: &Base, check: u32) -> Found {
        let ancestor = base.reference.ancestor;
        self.count(base.reference, base);
        Found::Entry(match base.reference.place {
            Place::SamePfn => Entry::Same { ancestor, check: Some(check) },
            Place::At { segment, index } => Entry::Elsewhere { ancestor, segment, index, check },
        })
    }

    /// A difference rests on a page that rests on no other: on the ancestor's, or where that
    /// is a difference itself, on what it is a difference to.
    fn difference(
        &mut self,
        page: &Page,
        bases: &Bases,
        base: &Base,
        stored: &StoredPage,
        blobs: &mut Vec<u8>,
    ) -> Found {
        let (reference, stored) = base.under.unwrap_or((base.reference, *stored));
        let mut contents = [0; PAGE_SIZE];
        let has_bytes = matches!(stored.entry, Entry::Stored { .. } | Entry::Blob { .. });
        if !has_bytes || bases.decode_alone(&mut self.decoder, &stored, &mut contents).is_err() {
            return Found::Nothing;
        }
        // Pages found by their features are alike, though perhaps not at the same places.
        if reference.place == Place::SamePfn {
            let (same, telling) = words_alike(page, &contents);
            if ALIKE * same < telling {
                return Found::Nothing;
            }
        }
        let start = blobs.len();
        reference.write(blobs);
        let limit = DIFFERENCE_MAX - (blobs.len() - start);
        if self.difference.encode(page, &contents, limit, blobs).is_some() {
            Found::Difference { len: blobs.len() - start, reference }
        } else {
            blobs.truncate(start);
            Found::Nothing
        }
    }

    /// The entry that the table had best leave out; pages that may be it become it.
    pub(super) fn choose_default(&self, entries: &mut [Entry]) -> Entry {
        let zeros = entries.iter().filter(|&&entry| entry == Entry::Zero).count();
        let mut best = (zeros, Entry::Zero);
        for ancestor in 0..16 {
            let same = entries.iter().filter(|entry| is_same(entry, ancestor)).count();
            let count = same + self.both_zero.iter().filter(|(_, zero)| *zero == ancestor).count();
            if same > 0 && count > best.0 {
                best = (count, Entry::Same { ancestor, check: None });
            }
        }
        let Entry::Same { ancestor, .. } = best.1 else { return Entry::Zero };
        for entry in entries.iter_mut().filter(|entry| is_same(entry, ancestor)) {
            *entry = best.1;
        }
        for (index, _) in self.both_zero.iter().filter(|(_, zero)| *zero == ancestor) {
            entries[*index] = best.1;
        }
        best.1
    }
}

fn is_same(entry: &Entry, of: u8) -> bool {
    matches!(entry, Entry::Same { ancestor, .. } if *ancestor == of)
}
