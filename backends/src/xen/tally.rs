//! What a frame holds, by record: for `comio inspect`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use comio_core::tape::TapeError;

use super::format::{
    LIBXC_PAGE_DATA, Layer, PAGE_DATA_HEADER_LEN, Part, RECORD_HEADER_LEN, carries_contents, padded_len,
};
use super::frame::{Decoder, Event, damaged};

/// Records of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTally {
    /// As Xen calls it, with the layer before it ("libxc `HVM_CONTEXT`").
    pub name: Cow<'static, str>,
    /// How many.
    pub count: u64,
    /// Their bytes in the save file, headers, padding and pfns included, page contents not.
    pub bytes: u64,
    /// Pages whose contents they carry.
    pub pages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Part(Part),
    Record(Layer, u32),
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    count: u64,
    bytes: u64,
    pages: u64,
    order: usize,
}

/// Kinds of records beyond which [`Tally`] refuses to go on: Xen has some 25, a hostile frame
/// could name four thousand million.
const KINDS_MAX: usize = 4096;

/// Counts the records of a frame, given piece by piece.
#[derive(Debug, Default)]
pub struct Tally {
    decoder: Decoder,
    sums: BTreeMap<Kind, Sum>,
    last: Option<Kind>,
}

impl Tally {
    /// An empty tally.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts what is in the next piece of the frame, cut anywhere.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] for damaged frame bytes.
    pub fn add(&mut self, mut piece: &[u8]) -> Result<(), TapeError> {
        while let Some(event) = self.decoder.next(&mut piece)? {
            self.count(&event)?;
        }
        Ok(())
    }

    fn count(&mut self, event: &Event<'_>) -> Result<(), TapeError> {
        match *event {
            // What follows the end comes in several parts, but is one thing.
            Event::Part { part: Part::Trailing, len } if self.last == Some(Kind::Part(Part::Trailing)) => {
                self.sum(Kind::Part(Part::Trailing))?.bytes += len;
            }
            Event::Part { part, len } => self.one(Kind::Part(part), len)?,
            Event::Record { layer, record_type, length } => {
                self.one(Kind::Record(layer, record_type), RECORD_HEADER_LEN as u64 + padded_len(length))?;
            }
            Event::PageData { count, .. } => {
                let header = RECORD_HEADER_LEN as u64 + u64::from(PAGE_DATA_HEADER_LEN);
                self.one(Kind::Record(Layer::Libxc, LIBXC_PAGE_DATA), header + 8 * u64::from(count))?;
            }
            Event::Run(run) if carries_contents(run.page_type()) == Some(true) => {
                self.sum(Kind::Record(Layer::Libxc, LIBXC_PAGE_DATA))?.pages += u64::from(run.count);
            }
            Event::Run(_) | Event::Bytes(_) | Event::PageDataEnd | Event::End => {}
        }
        Ok(())
    }

    fn one(&mut self, kind: Kind, bytes: u64) -> Result<(), TapeError> {
        let sum = self.sum(kind)?;
        sum.count += 1;
        sum.bytes = sum.bytes.saturating_add(bytes);
        self.last = Some(kind);
        Ok(())
    }

    fn sum(&mut self, kind: Kind) -> Result<&mut Sum, TapeError> {
        let order = self.sums.len();
        if order >= KINDS_MAX && !self.sums.contains_key(&kind) {
            return Err(damaged("it names more kinds of records than can be"));
        }
        Ok(self.sums.entry(kind).or_insert(Sum { order, ..Sum::default() }))
    }

    /// The tally, in the order in which the kinds first came.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] when the frame is not complete.
    pub fn finish(self) -> Result<Vec<RecordTally>, TapeError> {
        if !self.decoder.is_complete() {
            return Err(damaged("its end is missing"));
        }
        let mut sums: Vec<_> = self.sums.into_iter().collect();
        sums.sort_by_key(|(_, sum)| sum.order);
        let tally = |(kind, sum): (Kind, Sum)| RecordTally {
            name: match kind {
                Kind::Part(part) => Cow::Borrowed(part.name()),
                Kind::Record(layer, record_type) => layer.record_name(record_type),
            },
            count: sum.count,
            bytes: sum.bytes,
            pages: sum.pages,
        };
        Ok(sums.into_iter().map(tally).collect())
    }
}
