//! A coder that moves no bytes: it answers from a table made once for each trace and method.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use comio_core::buffer::{Buffer, Payload};
use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageEncoder, Tally};
use comio_core::format::ImageUuid;
use comio_core::format::directory::DirectoryEntry;
use comio_core::format::entry::{BLOB_CHECK_LEN, tag};
use comio_core::segment::{EcbcCoder, EncodedSegment, Layout, SegmentCoder, SegmentError, SlotBytes};
use comio_core::tape::{Batch, Pfns};
use comio_core::{PAGE_SIZE, Page, SEGMENT_PAGES};

use crate::trace::{SyntheticGuest, Trace};

/// What each page of a trace becomes by one method.
#[derive(Debug, Clone)]
pub struct CodeTable {
    recorded: Vec<Code>,
    /// In a private run. Other bytes take other lengths where a coder's tables are fixed.
    private: Vec<Code>,
}

/// A page's tag and the bytes it takes in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) tag: u8,
    pub(super) len: u16,
}

impl CodeTable {
    /// Codes every page of `trace` once. Takes as long as that takes.
    pub fn new(trace: &Trace, method: Method) -> Self {
        let mut encoder = PageEncoder::new(method);
        let mut blob = vec![0; BLOB_ROOM];
        let mut code = |page: &Page| code_of(encoder.encode(page, &mut blob));
        let (pages, _) = trace.memory().as_chunks::<PAGE_SIZE>();
        let recorded = pages.iter().map(&mut code).collect();
        let private = (0u32..).zip(pages).map(|(key, page)| {
            let mut page = *page;
            trace.exchange(key, 0).apply(&mut page);
            code(&page)
        });
        Self { recorded, private: private.collect() }
    }

    pub(super) fn codes(&self) -> &[Code] {
        &self.recorded
    }

    /// What all pages together are, as recorded.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for code in &self.recorded {
            tally.add(code.tag, usize::from(code.len));
        }
        tally
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a page's code is at most a page")]
fn code_of(code: PageCode) -> Code {
    match code {
        PageCode::Zero => Code { tag: tag::ZERO, len: 0 },
        PageCode::Fill(_) => Code { tag: tag::FILL, len: 0 },
        PageCode::Stored => Code { tag: tag::STORED, len: PAGE_SIZE as u16 },
        PageCode::Blob { tag, len } => Code { tag: tag.number(), len: (len + BLOB_CHECK_LEN) as u16 },
    }
}

/// A guest as a coder's table sees it.
#[derive(Debug, Clone)]
pub struct CodedGuest {
    /// Which page of the trace each of its pages is.
    pub memory: Arc<SyntheticGuest>,
    /// What the trace's pages become.
    pub codes: Arc<CodeTable>,
}

/// Contents of a modelled payload: the guest's number and the first page.
pub(super) fn contents_id(guest: usize, first_pfn: u64) -> u64 {
    // 2^20 guests of 2^44 pages.
    (guest as u64) << 44 | first_pfn
}

fn guest_of(contents: u64) -> usize {
    usize::try_from(contents >> 44).unwrap_or(usize::MAX)
}

/// A segment's contents, first page and page count.
type Batched = (u64, u64, usize);

/// The modelled coder of one method.
#[derive(Debug)]
pub struct ModelCoder {
    /// The one that it stands for, asked where pages go.
    coder: EcbcCoder,
    guests: Vec<CodedGuest>,
    /// Decoding finds what encoding laid out.
    laid_out: Mutex<BTreeMap<Batched, (DirectoryEntry, Tally)>>,
}

/// Room for what is read and written as real bytes: superblock, frames, directories.
const METADATA_BYTES: usize = 16 << 10;

impl ModelCoder {
    /// Stands for `coder`, for these guests, by number.
    pub fn new(coder: EcbcCoder, guests: Vec<CodedGuest>) -> Self {
        Self { coder, guests, laid_out: Mutex::default() }
    }

    fn codes<'a>(&'a self, contents: u64, pfns: &'a Pfns) -> Option<impl Iterator<Item = Code> + 'a> {
        let guest = self.guests.get(guest_of(contents))?;
        let page_count = guest.memory.page_count() as u64;
        if pfns.count() > SEGMENT_PAGES || pfns.iter().any(|pfn| pfn >= page_count) {
            return None;
        }
        Some(pfns.iter().map(|pfn| {
            // Below the guest's page count, as was checked.
            let pfn = usize::try_from(pfn).unwrap_or_default();
            let codes = &guest.codes;
            let pages = if guest.memory.is_private(pfn) { &codes.private } else { &codes.recorded };
            pages[guest.memory.origin(pfn)]
        }))
    }

    /// Where a segment's pages go, and what they are; runs are remembered.
    fn laid_out(&self, contents: u64, pfns: &Pfns) -> Option<(DirectoryEntry, Tally)> {
        let Pfns::Run { first, count } = *pfns else { return self.lay_out(contents, pfns) };
        let key = (contents, first, count);
        let known = || self.laid_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&key) {
            return Some(*found);
        }
        let laid_out = self.lay_out(contents, pfns)?;
        known().insert(key, laid_out);
        Some(laid_out)
    }

    fn lay_out(&self, contents: u64, pfns: &Pfns) -> Option<(DirectoryEntry, Tally)> {
        let codes: Vec<Code> = self.codes(contents, pfns)?.collect();
        let zeros = codes.iter().filter(|code| code.tag == tag::ZERO).count();
        let lens = codes.iter().map(|code| code.len).filter(|&len| len > 0).collect();
        let Layout { entry, lens, .. } = self.coder.layout(pfns, zeros, lens);
        let (mut tally, mut lens) = (Tally::default(), lens.into_iter());
        for code in codes {
            let len = if code.len > 0 { lens.next()? } else { 0 };
            // Where it costs nothing, a page that would shrink is stored as it is.
            let tag = if usize::from(len) == PAGE_SIZE { tag::STORED } else { code.tag };
            tally.add(tag, usize::from(len));
        }
        Some((entry, tally))
    }
}

impl SegmentCoder for ModelCoder {
    fn slot_bytes(&self) -> SlotBytes {
        SlotBytes { pages: PAGE_SIZE, segment: METADATA_BYTES }
    }

    fn encode(
        &self,
        _uuid: &ImageUuid,
        _number: u32,
        batch: &Batch,
        _out: Buffer,
    ) -> Result<EncodedSegment, SegmentError> {
        let (count, bytes) = (batch.pfns.count(), batch.pages.len());
        let unknown = SegmentError::WrongBatch { pages: count, bytes };
        let Payload::Modelled { contents, .. } = batch.pages else { return Err(unknown) };
        let Some((entry, tally)) = self.laid_out(contents, &batch.pfns) else { return Err(unknown) };
        let payload = Payload::Modelled { len: entry.len(), contents };
        Ok(EncodedSegment { payload, entry, tally })
    }

    fn seal(&self, segment: &mut EncodedSegment, offset: u64) {
        segment.entry.offset = offset;
    }

    fn decode(
        &self,
        _uuid: &ImageUuid,
        entry: &DirectoryEntry,
        segment: &Payload,
        _pages: Buffer,
    ) -> Result<(Batch, Tally), SegmentError> {
        let count = entry.pages as usize;
        let len = count * PAGE_SIZE;
        let unknown = SegmentError::WrongBatch { pages: count, bytes: segment.len() };
        let Payload::Modelled { contents, .. } = *segment else { return Err(unknown) };
        let pfns = Pfns::Run { first: entry.first_pfn, count };
        let Some((_, tally)) = self.laid_out(contents, &pfns) else { return Err(unknown) };
        Ok((Batch { pfns, pages: Payload::Modelled { len, contents } }, tally))
    }
}

#[cfg(test)]
mod test {
    use comio_core::format::placement::Placement;
    use comio_core::format::segment::MAX_SEGMENT_LEN;
    use proptest::prelude::*;

    use super::*;
    use crate::cast::segment_coder;

    /// Pages of every kind, as `kinds` says.
    fn trace(kinds: &[u8]) -> Trace {
        let mut memory = vec![0; kinds.len() * PAGE_SIZE];
        let mut state = 1u32;
        for (page, kind) in memory.chunks_exact_mut(PAGE_SIZE).zip(kinds) {
            for (i, byte) in (0u32..).zip(page) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [.., top] = state.to_le_bytes();
                *byte = match kind % 5 {
                    0 => 0,
                    1 => [1, 2, 3, 4][i as usize % 4],
                    2 => top,
                    3 => top >> 6,
                    _ => {
                        if i % 16 < 4 {
                            top >> 3
                        } else {
                            0
                        }
                    }
                };
            }
        }
        Trace::new("t", memory).unwrap()
    }

    fn modelled(coder: &ModelCoder, pfns: &Pfns) -> EncodedSegment {
        let pages = Payload::Modelled { len: pfns.count() * PAGE_SIZE, contents: contents_id(0, 0) };
        let batch = Batch { pfns: pfns.clone(), pages };
        coder.encode(&[0; 16], 0, &batch, Buffer::unpooled(Vec::new())).unwrap()
    }

    fn real(guest: &SyntheticGuest, pfns: &Pfns, coder: &EcbcCoder) -> EncodedSegment {
        let mut pages = vec![0; pfns.count() * PAGE_SIZE];
        for (pfn, page) in pfns.iter().zip(pages.chunks_exact_mut(PAGE_SIZE)) {
            guest.read(usize::try_from(pfn).unwrap(), page);
        }
        let batch = Batch { pfns: pfns.clone(), pages: Payload::Bytes(Buffer::unpooled(pages)) };
        let out = Buffer::unpooled(vec![0; MAX_SEGMENT_LEN]);
        coder.encode(&[0; 16], 0, &batch, out).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_model_lays_out_as_the_coder_does(
            kinds in prop::collection::vec(any::<u8>(), 130..400),
            method in 0..Method::ALL.len(),
            strict: bool,
            seed: u64,
        ) {
            let (method, trace) = (Method::ALL[method], trace(&kinds));
            let coder = || {
                if strict {
                    EcbcCoder::new(method, Placement::Strict)
                } else {
                    segment_coder(method, [7; 16])
                }
            };
            // No private pages: those are modelled by one exchange of bytes out of many.
            let guest = Arc::new(SyntheticGuest::new(&trace, 128, 0.0, seed, 0));
            let table = Arc::new(CodeTable::new(&trace, method));
            let guests = vec![CodedGuest { memory: Arc::clone(&guest), codes: table }];
            let (real_coder, coder) = (coder(), ModelCoder::new(coder(), guests));
            let pfns = Pfns::Run { first: 0, count: 128 };
            let (modelled, real) = (modelled(&coder, &pfns), real(&guest, &pfns, &real_coder));
            prop_assert_eq!(modelled.entry, real.entry);
            prop_assert_eq!(modelled.payload.len(), real.payload.len());
            prop_assert_eq!(modelled.tally, real.tally);
            let pages = Buffer::unpooled(Vec::new());
            let (batch, tally) = coder.decode(&[0; 16], &modelled.entry, &modelled.payload, pages).unwrap();
            prop_assert_eq!(batch.pfns, pfns);
            prop_assert_eq!(tally, modelled.tally);
        }
    }

    #[test]
    fn private_pages_take_what_they_do_by_another_exchange() {
        let kinds: Vec<u8> = (0..=255).collect();
        let trace = trace(&kinds);
        for method in Method::ALL {
            let guest = Arc::new(SyntheticGuest::new(&trace, 256, 1.0, 1, 0));
            let table = Arc::new(CodeTable::new(&trace, method));
            let guests = vec![CodedGuest { memory: Arc::clone(&guest), codes: table }];
            let coder = ModelCoder::new(segment_coder(method, [0; 16]), guests);
            let pfns = Pfns::Run { first: 0, count: 256 };
            let modelled = modelled(&coder, &pfns).payload.len();
            let real = real(&guest, &pfns, &segment_coder(method, [7; 16])).payload.len();
            let differ = modelled.abs_diff(real);
            // A code table for other symbols may be a little longer.
            assert!(differ * 50 <= real, "{method}: modelled {modelled}, real {real}");
        }
    }

    #[test]
    fn pages_beyond_the_guest_are_refused() {
        let trace = trace(&[0; 128]);
        let guest = Arc::new(SyntheticGuest::new(&trace, 128, 0.0, 1, 0));
        let table = Arc::new(CodeTable::new(&trace, Method::Raw));
        let guests = vec![CodedGuest { memory: guest, codes: table }];
        let coder = ModelCoder::new(segment_coder(Method::Raw, [0; 16]), guests);
        let out = Buffer::unpooled(Vec::new());
        let batch = Batch {
            pfns: Pfns::Run { first: 100, count: 29 },
            pages: Payload::Modelled { len: 29 * PAGE_SIZE, contents: contents_id(0, 100) },
        };
        assert!(coder.encode(&[0; 16], 0, &batch, out).is_err());
    }
}
