//! From a batch of pages to a segment and back.
//!
//! [`SegmentCoder`] is a port: [`EcbcCoder`] codes real pages, the testbed's virtual mode
//! answers from a table, since terabytes of page bytes must not move there. The engine never
//! looks into a segment's payload.

mod bases;
mod decode;
mod digest;
mod encode;
mod unit;
mod upon;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::buffer::{Buffer, NotBytes, Payload};
use crate::ecbc::{Method, PageDecoder, Tally};
use crate::format::ancestor::ANCESTORS_MAX;
use crate::format::directory::DirectoryEntry;
use crate::format::placement::Placement;
use crate::format::segment::{DigestKey, MAX_SEGMENT_LEN};
use crate::format::{FormatError, ImageUuid};
use crate::tape::{Batch, Pfns};

pub use bases::{Base, Bases, BlobAt, Likeness, StoredPage};
pub use encode::Layout;

pub(crate) use bases::PageProblem;
pub(crate) use unit::pages_decoded;
pub(crate) use upon::words_alike;

pub(crate) use decode::{difference_reference, parse_table, references, tally, unused_bytes_are_zero};

/// A segment that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The image is damaged or too new.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A simulated payload reached a coder of real bytes.
    #[error(transparent)]
    NotBytes(#[from] NotBytes),
    /// The batch is not what its pfns say.
    #[error("a batch of {pages} pages comes with {bytes} bytes")]
    WrongBatch {
        /// Pages announced.
        pages: usize,
        /// Bytes that came.
        bytes: usize,
    },
}

/// A segment ready for its place in the image.
#[derive(Debug)]
pub struct EncodedSegment {
    /// Its bytes, whole blocks.
    pub payload: Payload,
    /// What the directory says of it; offset and hash are set by [`SegmentCoder::seal`].
    pub entry: DirectoryEntry,
    /// What was done.
    pub tally: Tally,
}

/// The memory that a coder works in, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotBytes {
    /// For the pages of a batch.
    pub pages: usize,
    /// For a segment.
    pub segment: usize,
}

impl SlotBytes {
    /// What real pages take.
    pub const REAL: Self = Self { pages: crate::SEGMENT_PAGES * crate::PAGE_SIZE, segment: MAX_SEGMENT_LEN };
}

/// What pages cost that rest on others, in hundredths of the time of coding them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// To know an unchanged page.
    pub same: usize,
    /// To code a page as a difference, its base read and decoded, if all of it is alike.
    pub alike: usize,
    /// How much more if nothing is.
    pub unlike: usize,
}

impl Costs {
    /// Where coding a page alone takes longer than decoding its base.
    pub const USUAL: Self = Self { same: 25, alike: 80, unlike: 70 };
    /// Where it takes no longer, and every misprediction counts.
    pub const FAST: Self = Self { same: 40, alike: 60, unlike: 600 };
}

/// Codes segments; called from compute jobs, many at once.
pub trait SegmentCoder: Send + Sync {
    /// What pages cost that rest on others.
    fn costs(&self) -> Costs {
        Costs::USUAL
    }

    /// The memory it works in: [`SlotBytes::REAL`] unless pages are modelled. The engine has
    /// as many slots under way at once either way.
    fn slot_bytes(&self) -> SlotBytes;

    /// Bytes that an image of so many guest bytes takes at least, if it rests on no other: however
    /// well pages compress, tables alone take 1/4096.
    fn stored_bytes_min(&self, guest_bytes: u64) -> u64 {
        guest_bytes / 4096
    }

    /// Encodes segment `number` of image `uuid` into `out`, a slot of
    /// [`slot_bytes`](Self::slot_bytes).
    fn encode(
        &self,
        uuid: &ImageUuid,
        number: u32,
        batch: &Batch,
        out: Buffer,
    ) -> Result<EncodedSegment, SegmentError>;

    /// Gives the segment its place, `offset` bytes into the image.
    fn seal(&self, segment: &mut EncodedSegment, offset: u64);

    /// Checks and decodes the segment that `entry` describes; page contents go into `pages`,
    /// a slot of [`slot_bytes`](Self::slot_bytes).
    fn decode(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        pages: Buffer,
    ) -> Result<(Batch, Tally), SegmentError>;

    /// As [`encode`](Self::encode), where ancestors' pages are at hand. Coders of modelled pages need
    /// not know ancestors.
    fn encode_upon(
        &self,
        uuid: &ImageUuid,
        number: u32,
        batch: &Batch,
        _bases: &Bases,
        out: Buffer,
    ) -> Result<(EncodedSegment, Resting), SegmentError> {
        Ok((self.encode(uuid, number, batch, out)?, Resting::default()))
    }

    /// As [`decode`](Self::decode), for a segment whose pages rest on ancestors' pages.
    fn decode_upon(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        _bases: &Bases,
        pages: Buffer,
    ) -> Result<(Batch, Tally), SegmentError> {
        self.decode(uuid, entry, segment, pages)
    }

    /// Checks the stored bytes of a segment and of all that its pages rest on; decodes nothing.
    /// Modelled pages have no checks.
    fn check_stored(
        &self,
        _uuid: &ImageUuid,
        _entry: &DirectoryEntry,
        _segment: &Payload,
        _bases: &Bases,
    ) -> Result<(), SegmentError> {
        Ok(())
    }

    /// Checks a segment without its ancestors: all of it, but of pages that rest on others
    /// only the stored bytes. `pages` is a slot to work in.
    fn check_alone(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        pages: Buffer,
    ) -> Result<(), SegmentError> {
        self.decode(uuid, entry, segment, pages).map(|_| ())
    }
}

/// For each ancestor how often a page rests on one of its.
pub type RestsOn = [u64; ANCESTORS_MAX];

/// How a segment came to rest on ancestors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resting {
    /// How often a page rests on each.
    pub on: RestsOn,
    /// Why a page of theirs could not be used, if one is damaged.
    pub trouble: Option<String>,
}

/// The real coder: ECBC or one of its peers, page by page or in units of several.
pub struct EcbcCoder {
    method: Method,
    unit_pages: usize,
    placement: Placement,
    digest_key: Option<DigestKey>,
    encoders: Mutex<Vec<encode::Scratch>>,
    decoders: Mutex<Vec<PageDecoder>>,
}

impl EcbcCoder {
    /// A coder that encodes by `method` and decodes whatever the image holds.
    pub fn new(method: Method, placement: Placement) -> Self {
        let digest_key = None;
        Self {
            method,
            unit_pages: 1,
            placement,
            digest_key,
            encoders: Mutex::default(),
            decoders: Mutex::default(),
        }
    }

    /// The same, coding up to `unit_pages` pages together, at most
    /// [`UNIT_PAGES_MAX`](crate::format::entry::UNIT_PAGES_MAX): images get smaller, and for
    /// one page all of a unit is decoded. Segments with units are placed in page order.
    pub fn in_units(self, unit_pages: usize) -> Self {
        Self { unit_pages, ..self }
    }

    /// The same, with a digest of each segment's pages under `key`, which must be random: a later save
    /// upon the image knows unchanged pages for what they are without decoding them. The peers do without.
    pub fn with_digests(self, key: DigestKey) -> Self {
        let pays = Method::LEVELS.contains(&self.method);
        Self { digest_key: pays.then_some(key), ..self }
    }

    /// How it lays out a segment of `pfns` with `zeros` zero pages, whose other pages that are not
    /// fill pages take `lens` bytes each, checks included, in page order: each by itself, upon
    /// nothing.
    ///
    /// # Panics
    /// If a length is 0 or exceeds 4096.
    pub fn layout(&self, pfns: &Pfns, zeros: usize, lens: Vec<u16>) -> Layout {
        encode::layout(self.placement, self.digest_key, pfns, zeros, lens)
    }

    /// Runs `f` with an encoder of the calling worker's own.
    fn with_encoder<T>(&self, f: impl FnOnce(&mut encode::Scratch) -> T) -> T {
        let idle = self.encoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch =
            idle.unwrap_or_else(|| encode::Scratch::new(self.method, self.unit_pages, self.digest_key));
        let result = f(&mut scratch);
        self.encoders.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }

    fn with_decoder<T>(&self, f: impl FnOnce(&mut PageDecoder) -> T) -> T {
        let idle = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = idle.unwrap_or_default();
        let result = f(&mut decoder);
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        result
    }
}

impl fmt::Debug for EcbcCoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcbcCoder")
            .field("method", &self.method)
            .field("unit_pages", &self.unit_pages)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

impl SegmentCoder for EcbcCoder {
    fn costs(&self) -> Costs {
        if matches!(self.method, Method::Raw | Method::Turbo) { Costs::FAST } else { Costs::USUAL }
    }

    fn slot_bytes(&self) -> SlotBytes {
        SlotBytes::REAL
    }

    fn stored_bytes_min(&self, guest_bytes: u64) -> u64 {
        match self.method {
            Method::Raw => guest_bytes,
            _ => guest_bytes / 4096,
        }
    }

    fn encode(
        &self,
        uuid: &ImageUuid,
        number: u32,
        batch: &Batch,
        out: Buffer,
    ) -> Result<EncodedSegment, SegmentError> {
        self.encode_upon(uuid, number, batch, &Bases::default(), out).map(|(segment, _)| segment)
    }

    fn seal(&self, segment: &mut EncodedSegment, offset: u64) {
        segment.entry.offset = offset;
        if let Payload::Bytes(bytes) = &mut segment.payload {
            segment.entry.check = crate::format::segment::seal(bytes, offset);
        }
    }

    fn decode(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        pages: Buffer,
    ) -> Result<(Batch, Tally), SegmentError> {
        let bytes = segment.bytes()?;
        self.with_decoder(|decoder| decode::segment(decoder, uuid, entry, bytes, &Bases::default(), pages))
    }

    fn encode_upon(
        &self,
        uuid: &ImageUuid,
        number: u32,
        batch: &Batch,
        bases: &Bases,
        out: Buffer,
    ) -> Result<(EncodedSegment, Resting), SegmentError> {
        let job = encode::SegmentJob { placement: self.placement, uuid, number, pfns: &batch.pfns };
        let pages = batch.pages.bytes()?;
        self.with_encoder(|scratch| encode::segment(scratch, &job, pages, bases, out))
    }

    fn decode_upon(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        bases: &Bases,
        pages: Buffer,
    ) -> Result<(Batch, Tally), SegmentError> {
        let bytes = segment.bytes()?;
        self.with_decoder(|decoder| decode::segment(decoder, uuid, entry, bytes, bases, pages))
    }

    fn check_stored(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        bases: &Bases,
    ) -> Result<(), SegmentError> {
        Ok(decode::check_segment(uuid, entry, segment.bytes()?, bases)?)
    }

    fn check_alone(
        &self,
        uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        _pages: Buffer,
    ) -> Result<(), SegmentError> {
        let bytes = segment.bytes()?;
        self.with_decoder(|decoder| decode::check_alone(decoder, uuid, entry, bytes)).map(|_| ())?;
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::PAGE_SIZE;
    use crate::format::entry::Entry;
    use crate::format::reference::{Place, Reference};
    use crate::format::segment::MAX_SEGMENT_LEN;
    use proptest::prelude::*;

    const UUID: ImageUuid = [5; 16];

    fn batch(pages: &[u8]) -> Batch {
        let count = pages.len() / PAGE_SIZE;
        Batch {
            pfns: Pfns::Run { first: 77, count },
            pages: Payload::Bytes(Buffer::unpooled(pages.to_vec())),
        }
    }

    fn encoded(pages: &[u8], method: Method, placement: Placement) -> EncodedSegment {
        encoded_by(&EcbcCoder::new(method, placement), pages)
    }

    fn encoded_by(coder: &EcbcCoder, pages: &[u8]) -> EncodedSegment {
        let out = Buffer::unpooled(vec![0xaa; MAX_SEGMENT_LEN]);
        let mut segment = coder.encode(&UUID, 0, &batch(pages), out).expect("encodes");
        coder.seal(&mut segment, 4096);
        segment
    }

    fn decoded(segment: &EncodedSegment) -> Result<Vec<u8>, SegmentError> {
        let coder = EcbcCoder::new(Method::Fast, Placement::Hybrid);
        let pages = Buffer::unpooled(vec![0xbb; crate::SEGMENT_PAGES * PAGE_SIZE]);
        let (batch, _) = coder.decode(&UUID, &segment.entry, &segment.payload, pages)?;
        Ok(batch.pages.bytes()?.to_vec())
    }

    /// Pages of every class: `kinds` chooses for each page.
    fn pages_of(kinds: &[u8]) -> Vec<u8> {
        let mut pages = vec![0; kinds.len() * PAGE_SIZE];
        let mut state = 1u32;
        for (page, kind) in pages.chunks_exact_mut(PAGE_SIZE).zip(kinds) {
            for (i, byte) in page.iter_mut().enumerate() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = match kind % 5 {
                    0 => 0,
                    1 => [1, 2, 3, 4][i % 4],
                    2 => (state >> 24) as u8,
                    3 => (i / 9 % 200).to_le_bytes()[0],
                    _ => {
                        if i % 16 < 4 {
                            (state >> 28) as u8
                        } else {
                            0
                        }
                    }
                };
            }
        }
        pages
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn segments_come_back(kinds in prop::collection::vec(any::<u8>(), 0..64), method in 0..6usize, strict: bool) {
            let pages = pages_of(&kinds);
            let placement = if strict { Placement::Strict } else { Placement::Hybrid };
            let segment = encoded(&pages, Method::ALL[method], placement);
            prop_assert_eq!(decoded(&segment).expect("decodes"), pages);
        }

        #[test]
        fn units_come_back(kinds in prop::collection::vec(any::<u8>(), 0..80), method in 0..8usize, unit in 2..17usize) {
            let pages = pages_of(&kinds);
            let coder = EcbcCoder::new(Method::ALL[method], Placement::Hybrid).in_units(unit);
            let segment = encoded_by(&coder, &pages);
            prop_assert_eq!(decoded(&segment).expect("decodes"), pages);
            let table = parse_table(segment.payload.bytes().expect("bytes"), &UUID, &segment.entry).expect("a table");
            prop_assert!(unused_bytes_are_zero(&table, segment.payload.bytes().expect("bytes")));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_unit_is_an_error_or_changes_nothing() {
        let pages = pages_of(&[3, 4, 3, 3, 4, 2, 3, 0]);
        let coder = EcbcCoder::new(Method::Dense, Placement::Hybrid).in_units(4);
        let segment = encoded_by(&coder, &pages);
        assert!(segment.tally.pages[usize::from(crate::format::entry::tag::UNIT)] > 3);
        let bytes = segment.payload.bytes().expect("bytes").to_vec();
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let damaged = EncodedSegment {
                payload: Payload::Bytes(Buffer::unpooled(flipped)),
                entry: segment.entry,
                tally: Tally::default(),
            };
            if let Ok(got) = decoded(&damaged) {
                assert!(got == pages, "bit {bit} gave other pages");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error_or_changes_nothing() {
        let pages = pages_of(&[0, 1, 2, 3, 4, 3, 4, 0]);
        let segment = encoded(&pages, Method::Fast, Placement::Hybrid);
        let bytes = segment.payload.bytes().expect("bytes").to_vec();
        for bit in (0..bytes.len() * 8).step_by(37) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let damaged = EncodedSegment {
                payload: Payload::Bytes(Buffer::unpooled(flipped)),
                entry: segment.entry,
                tally: Tally::default(),
            };
            if let Ok(got) = decoded(&damaged) {
                assert!(got == pages, "bit {bit} gave other pages");
            }
        }
    }

    /// The pages of `parent` for a segment of the same pfns, of which those at `changed` are known to differ.
    fn bases_of(parent: &EncodedSegment, changed: usize) -> Bases {
        let bytes = parent.payload.bytes().expect("bytes");
        let table = parse_table(bytes, &UUID, &parent.entry).expect("a table");
        let base = |index: usize| {
            let entry = table.entry(index);
            let blob = entry.extent();
            let blob = blob.map(|(at, len)| BlobAt { buffer: 0, at: table.header.table_end + at, len });
            let pfn = table.pfn(index).expect("a pfn");
            let reference = Reference { ancestor: 0, place: Place::SamePfn };
            let likeness = if index == changed { Likeness::Changed } else { Likeness::Probable };
            let page = Some(StoredPage { uuid: UUID, pfn, entry, offset: 0, blob });
            Some(Base { reference, likeness, page, under: None })
        };
        let buffers = vec![Buffer::unpooled(bytes.to_vec())];
        Bases {
            pages: (0..table.len()).map(base).collect(),
            buffers,
            digest: table.digest,
            ..Bases::default()
        }
    }

    fn is_same_upon(coder: &EcbcCoder, pages: &[u8], bases: &Bases) -> Vec<bool> {
        let out = Buffer::unpooled(vec![0; MAX_SEGMENT_LEN]);
        let (mut segment, _) = coder.encode_upon(&UUID, 0, &batch(pages), bases, out).expect("encodes");
        coder.seal(&mut segment, 4096);
        let bytes = segment.payload.bytes().expect("bytes");
        let table = parse_table(bytes, &UUID, &segment.entry).expect("a table");
        table.entries().map(|entry| matches!(entry, Entry::Same { .. })).collect()
    }

    #[test]
    fn a_digest_has_the_last_word_on_what_is_the_same() {
        let and_the_damaged_one = [true, true, false, true, true, true, false, true];
        for method in Method::LEVELS {
            let coder = EcbcCoder::new(method, Placement::Hybrid).with_digests([3; 16]);
            digest_has_the_last_word(&coder, and_the_damaged_one);
        }
        let coder = EcbcCoder::new(Method::Dense, Placement::Hybrid).with_digests([3; 16]).in_units(4);
        let and_the_damaged_unit = [true, true, false, true, false, false, false, false];
        digest_has_the_last_word(&coder, and_the_damaged_unit);
    }

    /// `without_damaged`: what is the same if page 2 is not and the bytes of page 6 are damaged.
    fn digest_has_the_last_word(coder: &EcbcCoder, without_damaged: [bool; 8]) {
        let old = pages_of(&[3, 4, 3, 4, 4, 3, 4, 3]);
        let mut new = old.clone();
        new[2 * PAGE_SIZE + 9] ^= 1;
        let parent = encoded_by(coder, &old);
        let only_the_changed_one_is_not = [true, true, false, true, true, true, true, true];
        assert_eq!(is_same_upon(coder, &new, &bases_of(&parent, 2)), only_the_changed_one_is_not);
        // A page whose check is the same though it is not: as if it had been forged.
        new[5 * PAGE_SIZE + 9] ^= 1;
        let and_the_forged_one = [true, true, false, true, true, false, true, true];
        assert_eq!(is_same_upon(coder, &new, &bases_of(&parent, 2)), and_the_forged_one);
        // Bytes are not compared where the digest agrees: here one of other pages.
        let mut other = old.clone();
        other[5 * PAGE_SIZE + 9] ^= 1;
        let mut bases = bases_of(&parent, 2);
        bases.digest = bases_of(&encoded_by(coder, &other), 2).digest;
        assert_eq!(is_same_upon(coder, &new, &bases), only_the_changed_one_is_not);
        // Nor does a page come to rest on damaged bytes that the digest knows nothing of.
        let mut bases = bases_of(&parent, 2);
        let at = bases.pages[6].and_then(|base| base.page?.blob).expect("a blob").at;
        bases.buffers[0][at] ^= 1;
        new[5 * PAGE_SIZE + 9] ^= 1;
        assert_eq!(is_same_upon(coder, &new, &bases), without_damaged);
    }

    #[test]
    fn a_full_segment_of_noise_fits_its_slot() {
        let pages = pages_of(&[2; crate::SEGMENT_PAGES]);
        let segment = encoded(&pages, Method::Dense, Placement::Hybrid);
        assert!(segment.payload.len() <= MAX_SEGMENT_LEN);
        assert!(decoded(&segment).expect("decodes") == pages);
    }
}
