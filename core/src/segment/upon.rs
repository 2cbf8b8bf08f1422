//! A page against what it may rest on: the same, or a difference.
//!
//! *Same* is decided by the bytes, except where the caller is certain (a cryptographic hash), or
//! where the parent's digest of the whole segment says so in the end. The entries' checks only tell
//! which pages need not be compared: a guest can make pages that collide in them.

use super::bases::LastUnit;
use super::digest::{self, Digester, PageTag};
use super::encode::DIFFERENCE_MAX;
use super::{Base, Bases, Likeness, PageProblem, Resting, StoredPage};
use crate::ecbc::difference::DifferenceEncoder;
use crate::ecbc::{DifferenceCoder, Method, PageDecoder};
use crate::format::entry::{Entry, content_check};
use crate::format::reference::{Place, Reference};
use crate::format::segment::{Digest, DigestKey};
use crate::{PAGE_SIZE, Page};

/// A difference of at most this many bytes is taken without trying the page alone.
const SURELY_SHORT: usize = 384;

/// If one in so many words of the page stands at the same place in the base, a difference takes less than
/// the page alone.
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

/// A page that is looked at.
pub(super) struct Seen<'a> {
    /// Its index in the segment.
    pub(super) index: usize,
    pub(super) page: &'a Page,
    /// What it is all over, if it is one word.
    pub(super) word: Option<u32>,
}

/// What a page is, seen from what it may rest on.
pub(super) enum Found {
    /// Contents that the ancestor has.
    Entry(Entry),
    /// A difference was appended to the blobs. If it is not `surely` the shortest, the page alone may be
    /// shorter.
    Difference { surely: bool, reference: Reference },
    /// Nothing to rest on.
    Nothing,
}

/// One worker's means to compare pages with ancestors'.
pub(super) struct Upon {
    decoder: PageDecoder,
    difference: DifferenceEncoder,
    digests: Option<Digests>,
    last_unit: LastUnit,
    resting: Resting,
    /// Zero pages that are zero in an ancestor too: index and ancestor.
    both_zero: Vec<(usize, u8)>,
}

/// The segment's own digest, and what is left of the parent's.
struct Digests {
    own_key: DigestKey,
    digester: Digester,
    /// Of the page that is looked at.
    tag: PageTag,
    sum: PageTag,
    /// The tags of the parent's pages that were not seen yet. Of pages with equal checks the new one's
    /// was taken away, as if they were the same: if all are, nothing is left in the end.
    left: Option<PageTag>,
}

impl Digests {
    fn new(own_key: DigestKey) -> Self {
        Self { own_key, digester: Digester::new(own_key), tag: [0; 16], sum: [0; 16], left: None }
    }

    /// The parent's pages are all known: `false` if they are not what its digest says.
    fn is_settled(&self) -> bool {
        self.left.is_none_or(|left| left == [0; 16])
    }
}

impl Upon {
    pub(super) fn new(method: Method, key: Option<DigestKey>) -> Self {
        Self {
            decoder: PageDecoder::new(),
            difference: DifferenceEncoder::new(method),
            digests: key.map(Digests::new),
            last_unit: LastUnit::default(),
            resting: Resting::default(),
            both_zero: Vec::new(),
        }
    }

    /// Begins a segment; `digest` is of the parent's pages of the same pfns.
    pub(super) fn begin(&mut self, digest: Option<Digest>) {
        self.last_unit = LastUnit::default();
        self.resting = Resting::default();
        self.both_zero.clear();
        if let Some(digests) = &mut self.digests {
            digests.digester.change_key(digest.map_or(digests.own_key, |digest| digest.key));
            digests.sum = [0; 16];
            digests.left = digest.map(|digest| digest.sum);
        }
    }

    /// Adds a page to the segment's digest; to be called before [`look`](Self::look).
    pub(super) fn digest(&mut self, seen: &Seen<'_>) {
        if let Some(digests) = &mut self.digests {
            digests.tag = if seen.word.is_some() {
                [0; 16]
            } else {
                digests.digester.tag_of_telling(seen.index, seen.page)
            };
            digest::add(&mut digests.sum, digests.tag);
        }
    }

    /// The digest of the segment's pages.
    pub(super) fn segment_digest(&self) -> Option<Digest> {
        self.digests.as_ref().map(|digests| digests.digester.digest(digests.sum))
    }

    /// Whether all pages that were taken for the parent's without comparing them are.
    pub(super) fn was_right_to_trust(&self) -> bool {
        self.digests.as_ref().is_none_or(Digests::is_settled)
    }

    /// Whether the page is taken for the ancestor's until the digest has the last word. The stored
    /// bytes must be whole: a page must not rest on damaged ones.
    fn trusts(&mut self, bases: &Bases, base: &Base) -> bool {
        let left = self.digests.as_ref().and_then(|digests| digests.left);
        if left.is_none() {
            return false;
        }
        let whole = bases.check_whole(base, &mut self.last_unit);
        if self.noted(whole).is_none() {
            return false;
        }
        self.take_away_same();
        true
    }

    /// Whether the ancestor's page has the very bytes of `page`.
    fn is_same(&mut self, bases: &Bases, base: &Base, page: &Page) -> bool {
        let compared = bases.is_same(&mut self.decoder, base, page);
        self.noted(compared).unwrap_or(false)
    }

    /// What came of an ancestor's page; of the first that cannot be used the reason is kept.
    fn noted<T>(&mut self, result: Result<T, PageProblem>) -> Option<T> {
        result.map_err(|problem| self.resting.trouble.get_or_insert_with(|| problem.to_string())).ok()
    }

    /// The ancestor's page is the same as the one that is looked at.
    fn take_away_same(&mut self) {
        if let Some(digests) = &mut self.digests
            && let Some(left) = &mut digests.left
        {
            digest::add(left, digests.tag);
        }
    }

    /// Takes the ancestor's page `index` from what is left of its segment's digest; gives its contents
    /// if it rests on no other.
    fn settle(&mut self, index: usize, bases: &Bases, base: &Base, contents: &mut Page) -> bool {
        let Some(digests) = &mut self.digests else { return false };
        let Some(left) = &mut digests.left else { return false };
        if base.page.is_none_or(|page| page.entry.extent().is_none()) {
            return false;
        }
        let decoded = bases.decode(&mut self.decoder, base, contents).is_ok();
        if decoded {
            digest::add(left, digests.digester.tag(index, contents));
        }
        decoded && base.under.is_none()
    }

    /// How pages came to rest on ancestors since [`begin`](Self::begin).
    pub(super) fn resting(&mut self) -> Resting {
        std::mem::take(&mut self.resting)
    }

    /// Notes that a page rests on `reference`, and on what that rests on in turn.
    pub(super) fn count(&mut self, reference: Reference, base: &Base) {
        self.resting.on[usize::from(reference.ancestor & 0xf)] += 1;
        if let Some((under, _)) = base.under
            && under != reference
        {
            self.resting.on[usize::from(under.ancestor & 0xf)] += 1;
        }
    }

    /// Looks what a page is beside `base`; a difference goes to the end of `blobs`.
    pub(super) fn look(&mut self, seen: &Seen<'_>, bases: &Bases, base: &Base, blobs: &mut Vec<u8>) -> Found {
        let &Seen { index, page, word } = seen;
        if base.likeness == Likeness::Certain {
            self.take_away_same();
            return self.same(base, bases.check_of(index, page));
        }
        let Some(stored) = base.page else { return Found::Nothing };
        let mut contents = [0; PAGE_SIZE];
        if let Some(word) = word {
            self.settle(index, bases, base, &mut contents);
            return self.uniform(word, index, base, &stored, page);
        }
        if base.likeness == Likeness::Probable
            && (self.trusts(bases, base) || self.is_same(bases, base, page))
            && let Some(check) = stored.entry.check()
        {
            return self.same(base, check);
        }
        let is_decoded = self.settle(index, bases, base, &mut contents);
        self.difference(page, bases, base, &mut contents, is_decoded, blobs)
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
    /// is a difference itself, on what it is a difference to. Its contents go to `contents`, unless
    /// they are there.
    fn difference(
        &mut self,
        page: &Page,
        bases: &Bases,
        base: &Base,
        contents: &mut Page,
        is_decoded: bool,
        blobs: &mut Vec<u8>,
    ) -> Found {
        let own = base.page.map(|stored| (base.reference, stored));
        let Some((reference, stored)) = base.under.or(own) else { return Found::Nothing };
        let has_bytes = matches!(stored.entry, Entry::Stored { .. } | Entry::Blob { .. });
        if !has_bytes {
            return Found::Nothing;
        }
        if !is_decoded {
            let decoded = bases.decode_alone(&mut self.decoder, &stored, contents);
            if self.noted(decoded).is_none() {
                return Found::Nothing;
            }
        }
        let (same, telling) = words_alike(page, contents);
        let coder = match reference.place {
            _ if ALIKE * same >= telling => DifferenceCoder::PackedLz,
            // Pages found by their features are alike, though perhaps not at the same places.
            Place::At { .. } => DifferenceCoder::Zstd,
            Place::SamePfn => return Found::Nothing,
        };
        let start = blobs.len();
        reference.write(coder, blobs);
        let limit = DIFFERENCE_MAX - (blobs.len() - start);
        if self.difference.encode(coder, page, contents, limit, blobs).is_some() {
            let surely = coder == DifferenceCoder::PackedLz || blobs.len() - start <= SURELY_SHORT;
            Found::Difference { surely, reference }
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
