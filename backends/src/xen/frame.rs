//! The frame coding, version 1: how everything that is not page contents becomes frame bytes.
//!
//! `docs/frame-xen.md` specifies it. The `put` functions are the parser's; [`Decoder`] turns frame
//! bytes, cut anywhere, into [`Event`]s for the rebuilder and the tally.

use comio_core::tape::TapeError;

use super::format::{LIBXC_RECORD_LEN_MAX, Layer, PAGE_DATA_HEADER_LEN, PFN_BITS, PFN_MASK, Part};

/// First bytes of the frame; the last of them is the version.
const MAGIC: [u8; 4] = *b"XLF\x01";

const OP_PART: u8 = 0;
const OP_LIBXL_RECORD: u8 = 1;
const OP_LIBXC_RECORD: u8 = 2;
const OP_PAGE_DATA: u8 = 3;
const OP_END: u8 = 4;

/// Seven bits a byte, 64 bits in all.
const VARINT_LEN_MAX: usize = 10;

/// A stretch of pfn entries whose pfns follow one another and whose other 12 bits are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) count: u32,
    /// The entry's top 12 bits: 4 of type, 8 reserved.
    pub(super) tag: u64,
}

impl Run {
    /// The run of one entry.
    pub(super) fn of(entry: u64) -> Self {
        Self { first: entry & PFN_MASK, count: 1, tag: entry >> PFN_BITS }
    }

    /// Takes the entry in if it goes on where the run ends.
    pub(super) fn extend(&mut self, entry: u64) -> bool {
        let next = self.first + u64::from(self.count);
        let fits = next <= PFN_MASK && entry == (self.tag << PFN_BITS | next);
        if fits {
            self.count += 1;
        }
        fits
    }

    pub(super) fn page_type(&self) -> u64 {
        self.tag >> 8
    }

    /// Where a run is expected to begin after this one.
    fn end(&self) -> u64 {
        (self.first + u64::from(self.count)) & PFN_MASK
    }
}

/// The frame begins.
pub(super) fn put_magic(frame: &mut Vec<u8>) {
    frame.extend(MAGIC);
}

/// Announces `len` bytes of `part`; they follow verbatim.
pub(super) fn put_part(part: Part, len: u64, frame: &mut Vec<u8>) {
    frame.extend([OP_PART, part as u8]);
    put_varint(len, frame);
}

/// Announces a record; its body and padding follow verbatim.
pub(super) fn put_record(layer: Layer, record_type: u32, length: u32, frame: &mut Vec<u8>) {
    frame.push(if layer == Layer::Libxl { OP_LIBXL_RECORD } else { OP_LIBXC_RECORD });
    put_varint(record_type.into(), frame);
    put_varint(length.into(), frame);
}

/// Announces a record of pages; runs that make up `count` entries follow.
pub(super) fn put_page_data(length: u32, count: u32, reserved: u32, frame: &mut Vec<u8>) {
    frame.push(OP_PAGE_DATA);
    put_varint(length.into(), frame);
    put_varint(count.into(), frame);
    put_varint(reserved.into(), frame);
}

/// The frame is complete.
pub(super) fn put_end(frame: &mut Vec<u8>) {
    frame.push(OP_END);
}

/// Writes runs; remembers where the last one ended, in earlier records too.
#[derive(Debug, Default)]
pub(super) struct RunEncoder {
    expected_pfn: u64,
}

impl RunEncoder {
    pub(super) fn put(&mut self, run: Run, frame: &mut Vec<u8>) {
        put_varint(run.count.into(), frame);
        // Type last: nearly always the reserved bits are zero and the tag takes one byte.
        put_varint((run.tag & 0xff) << 4 | run.tag >> 8, frame);
        put_varint(zigzag(run.first.wrapping_sub(self.expected_pfn)), frame);
        self.expected_pfn = run.end();
    }
}

fn put_varint(mut value: u64, frame: &mut Vec<u8>) {
    while value >= 0x80 {
        frame.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    frame.push((value & 0x7f) as u8);
}

/// Small distances in both directions become small numbers; distances count modulo 2^52.
fn zigzag(distance: u64) -> u64 {
    let distance = (distance << (64 - PFN_BITS)).cast_signed() >> (64 - PFN_BITS);
    (distance << 1 ^ distance >> 63).cast_unsigned()
}

fn unzigzag(code: u64) -> u64 {
    (code >> 1) ^ (code & 1).wrapping_neg()
}

/// What frame bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A part of this many bytes begins.
    Part { part: Part, len: u64 },
    /// A record begins.
    Record { layer: Layer, record_type: u32, length: u32 },
    /// Bytes of the part or record that began last.
    Bytes(&'a [u8]),
    /// A record of pages begins; its runs are next.
    PageData { length: u32, count: u32, reserved: u32 },
    /// A run of its entries.
    Run(Run),
    /// The runs are complete; pages are next if any run has contents.
    PageDataEnd,
    /// Nothing follows.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Magic,
    Op,
    Verbatim { left: u64 },
    Runs { left: u32 },
    End,
}

/// Reads frame bytes.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// The beginning of an op or run whose rest has not come yet.
    pending: Vec<u8>,
    expected_pfn: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Magic, pending: Vec::new(), expected_pfn: 0 }
    }
}

impl Decoder {
    /// The next event in `input`, which is advanced; `None` when it needs more bytes.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] for bytes that no encoder of this version writes.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, TapeError> {
        match self.state {
            State::Verbatim { left } if left > 0 => Ok(self.verbatim(left, input)),
            State::Runs { left: 0 } => {
                self.state = State::Op;
                Ok(Some(Event::PageDataEnd))
            }
            State::End if input.is_empty() => Ok(None),
            State::End => Err(damaged("bytes follow its end")),
            _ => self.fields(input),
        }
    }

    /// Whether the frame came to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::End
    }

    fn verbatim<'a>(&mut self, left: u64, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let len = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        if len == 0 {
            return None;
        }
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        self.state = State::Verbatim { left: left - len as u64 };
        Some(Event::Bytes(bytes))
    }

    /// Feeds single bytes until they make an op or a run: both are a few bytes long.
    fn fields<'a>(&mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, TapeError> {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.pending.push(byte);
            let mut fields = Fields { bytes: &self.pending };
            let parsed = match self.state {
                State::Magic => fields.magic(),
                State::Runs { left } => fields.run(left, self.expected_pfn),
                _ => fields.op(),
            };
            match parsed {
                Ok(event) => {
                    self.pending.clear();
                    self.advance(event.as_ref());
                    if let Some(event) = event {
                        return Ok(Some(event));
                    }
                }
                Err(Stop::NeedsMore) => {}
                Err(Stop::Damaged(problem)) => return Err(damaged(problem)),
            }
        }
        Ok(None)
    }

    fn advance(&mut self, event: Option<&Event<'_>>) {
        self.state = match (event, self.state) {
            (Some(Event::Part { len, .. }), _) => State::Verbatim { left: *len },
            (Some(Event::Record { length, .. }), _) => {
                State::Verbatim { left: super::format::padded_len(*length) }
            }
            (Some(Event::PageData { count, .. }), _) => State::Runs { left: *count },
            (Some(Event::Run(run)), State::Runs { left }) => {
                self.expected_pfn = run.end();
                State::Runs { left: left - run.count }
            }
            (Some(Event::End), _) => State::End,
            _ => State::Op,
        };
    }
}

enum Stop {
    NeedsMore,
    Damaged(&'static str),
}

/// Fields at the beginning of bytes that may end too early.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn magic<'e>(&mut self) -> Result<Option<Event<'e>>, Stop> {
        if !MAGIC.starts_with(self.bytes) {
            return Err(Stop::Damaged("it is not the frame of a Xen save file, or of a newer version"));
        }
        if self.bytes.len() < MAGIC.len() { Err(Stop::NeedsMore) } else { Ok(None) }
    }

    fn op<'e>(&mut self) -> Result<Option<Event<'e>>, Stop> {
        Ok(Some(match self.byte()? {
            OP_PART => {
                let part = Part::from_code(self.byte()?).ok_or(Stop::Damaged("it names an unknown part"))?;
                Event::Part { part, len: self.varint()? }
            }
            OP_LIBXL_RECORD => self.record(Layer::Libxl)?,
            OP_LIBXC_RECORD => self.record(Layer::Libxc)?,
            OP_PAGE_DATA => self.page_data()?,
            OP_END => Event::End,
            _ => return Err(Stop::Damaged("it holds an unknown operation")),
        }))
    }

    fn record<'e>(&mut self, layer: Layer) -> Result<Event<'e>, Stop> {
        Ok(Event::Record { layer, record_type: self.varint_u32()?, length: self.varint_u32()? })
    }

    fn page_data<'e>(&mut self) -> Result<Event<'e>, Stop> {
        let (length, count, reserved) = (self.varint_u32()?, self.varint_u32()?, self.varint_u32()?);
        let least = u64::from(PAGE_DATA_HEADER_LEN) + 8 * u64::from(count);
        if length > LIBXC_RECORD_LEN_MAX || u64::from(length) < least {
            return Err(Stop::Damaged("a PAGE_DATA record has an impossible length"));
        }
        Ok(Event::PageData { length, count, reserved })
    }

    fn run<'e>(&mut self, left: u32, expected_pfn: u64) -> Result<Option<Event<'e>>, Stop> {
        let count = self.varint_u32()?;
        let tag = self.varint()?;
        let distance = unzigzag(self.varint()?);
        if count == 0 || count > left || tag >> (64 - PFN_BITS) != 0 {
            return Err(Stop::Damaged("a run of pfns does not fit its record"));
        }
        let first = expected_pfn.wrapping_add(distance) & PFN_MASK;
        if first + u64::from(count) - 1 > PFN_MASK {
            return Err(Stop::Damaged("a run of pfns leaves the address space"));
        }
        Ok(Some(Event::Run(Run { first, count, tag: (tag & 0xf) << 8 | tag >> 4 })))
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Stop::NeedsMore)?;
        self.bytes = rest;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0u64;
        for place in 0..VARINT_LEN_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * u32::try_from(place).unwrap_or(u32::MAX);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Damaged("a number is too long"))
    }

    fn varint_u32(&mut self) -> Result<u32, Stop> {
        u32::try_from(self.varint()?).map_err(|_| Stop::Damaged("a number is too large"))
    }
}

pub(super) fn damaged(problem: &str) -> TapeError {
    TapeError::Inconsistent(format!("the frame is damaged: {problem}"))
}
