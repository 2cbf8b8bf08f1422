//! Takes a Xen save file apart.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufRead, Seek};

use comio_core::tape::{Pfns, TapeError};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use super::format::{
    DOMAIN_HEADER_LEN, DOMAIN_TYPES, LIBXC_CHECKPOINT, LIBXC_END, LIBXC_HEADER_LEN, LIBXC_ID, LIBXC_MARKER,
    LIBXC_PAGE_DATA, LIBXC_RECORD_LEN_MAX, LIBXC_VERSIONS, LIBXL_CHECKPOINT_END, LIBXL_END, LIBXL_HEADER_LEN,
    LIBXL_IDENT, LIBXL_LIBXC_CONTEXT, LIBXL_VERSION, Layer, OPTION_BIG_ENDIAN, PAGE_DATA_HEADER_LEN,
    PAGE_SHIFT, Part, RECORD_HEADER_LEN, XL_BYTE_ORDER, XL_FLAG_STREAM_V2, XL_FLAGS_KNOWN, XL_HEADER_LEN,
    XL_MAGIC, carries_contents, padded_len,
};
use super::frame::{Run, RunEncoder, put_end, put_magic, put_page_data, put_part, put_record};
use super::input::Input;

/// Frame bytes are handed out in pieces of about this many bytes, and read in pieces of at
/// most as many.
const PIECE_LEN: usize = 64 << 10;

/// A piece of a save file.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Frame bytes, coded; at most about 64 KiB.
    Frame(Vec<u8>),
    /// Page contents are next in the input, 1 to [`SEGMENT_PAGES`] pages. They must be taken by
    /// [`Parser::read_pages`] or passed over by [`Parser::skip_pages`] before the next step.
    Pages(Pfns),
}

/// What the parser reads next.
#[derive(Debug)]
enum Stage {
    XlHeader,
    LibxlHeader,
    LibxcHeader,
    DomainHeader,
    Record(Layer),
    /// Bytes kept verbatim, then the next stage.
    Verbatim {
        left: u64,
        then: Box<Stage>,
    },
    Entries(Entries),
    /// Batches of the record that begins at the parser's `begun`.
    Pages(VecDeque<Pfns>),
    Trailing,
    Done,
    /// An error was returned: there is no way on.
    Failed,
}

/// The pfn entries of a `PAGE_DATA` record being read.
#[derive(Debug)]
struct Entries {
    left: u32,
    /// Pages that the record's length has room for.
    pages: usize,
    run: Option<Run>,
    with_contents: Vec<u64>,
}

/// Pull parser of an `xl save` file: gives frame bytes and where the pages are, in order.
///
/// Its memory is bounded by the format's largest record: 64 KiB pieces, and 8 bytes for each
/// page of one record (at most 128 MiB of pages by libxc's own rule).
#[derive(Debug)]
pub struct Parser<R> {
    input: Input<R>,
    stage: Stage,
    runs: RunEncoder,
    /// Pages announced by the last step and not taken yet.
    pages_due: usize,
}

impl<R: BufRead> Parser<R> {
    /// A parser at the beginning of `reader`; `name` is what errors call the source.
    pub fn new(reader: R, name: impl Into<String>) -> Self {
        Self {
            input: Input::new(reader, name.into()),
            stage: Stage::XlHeader,
            runs: RunEncoder::default(),
            pages_due: 0,
        }
    }

    /// The next step; `None` at the input's end, after a complete save file.
    ///
    /// # Errors
    /// [`TapeError::Malformed`] and [`TapeError::Truncated`] name the record and the byte
    /// offset; [`TapeError::Io`] is the source's own. Nothing can be read after an error.
    pub fn step(&mut self) -> Result<Option<Step>, TapeError> {
        if self.pages_due > 0 {
            return Err(self.input.malformed("the pages before it were not taken"));
        }
        let mut frame = Vec::new();
        while frame.len() < PIECE_LEN {
            if let Stage::Pages(batches) = &mut self.stage {
                // The frame bytes before the pages come first.
                if !frame.is_empty() {
                    break;
                }
                if let Some(pfns) = batches.pop_front() {
                    self.pages_due = pfns.count();
                    return Ok(Some(Step::Pages(pfns)));
                }
            }
            if matches!(self.stage, Stage::Done) {
                break;
            }
            self.advance(&mut frame)?;
        }
        Ok(if frame.is_empty() { None } else { Some(Step::Frame(frame)) })
    }

    /// Reads the pages announced by the last step into the beginning of `pages`.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    ///
    /// # Panics
    /// If `pages` is shorter than the pages.
    pub fn read_pages(&mut self, pages: &mut [u8]) -> Result<(), TapeError> {
        let len = std::mem::take(&mut self.pages_due) * PAGE_SIZE;
        self.input.read_exact(&mut pages[..len])
    }

    fn advance(&mut self, frame: &mut Vec<u8>) -> Result<(), TapeError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        self.stage = match stage {
            Stage::XlHeader => self.xl_header(frame)?,
            Stage::LibxlHeader => self.libxl_header(frame)?,
            Stage::LibxcHeader => self.libxc_header(frame)?,
            Stage::DomainHeader => self.domain_header(frame)?,
            Stage::Record(layer) => self.record(layer, frame)?,
            Stage::Verbatim { left: 0, then } => *then,
            Stage::Verbatim { left, then } => self.verbatim(left, then, frame)?,
            Stage::Entries(entries) => self.entries(entries, frame)?,
            Stage::Pages(batches) if batches.is_empty() => Stage::Record(Layer::Libxc),
            Stage::Pages(batches) => Stage::Pages(batches),
            Stage::Trailing => self.trailing(frame)?,
            Stage::Done => Stage::Done,
            Stage::Failed => return Err(self.input.malformed("reading it failed before")),
        };
        Ok(())
    }

    /// Reads a fixed-length part and puts it into the frame.
    fn part<const N: usize>(&mut self, part: Part, frame: &mut Vec<u8>) -> Result<[u8; N], TapeError> {
        self.input.begin(Cow::Borrowed(part.name()));
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        put_part(part, N as u64, frame);
        frame.extend(bytes);
        Ok(bytes)
    }

    fn xl_header(&mut self, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        put_magic(frame);
        let header: [u8; XL_HEADER_LEN] = self.part(Part::XlHeader, frame)?;
        if !header.starts_with(XL_MAGIC) {
            return Err(self.input.malformed("this is not a file that `xl save` wrote (wrong magic)"));
        }
        let byte_order = le_u32(&header, 32);
        if byte_order == XL_BYTE_ORDER.swap_bytes() {
            return Err(self.input.malformed("big-endian save files are not supported"));
        }
        if byte_order != XL_BYTE_ORDER {
            return Err(self.input.malformed(&format!("impossible byte order mark {byte_order:#x}")));
        }
        let mandatory = le_u32(&header, 36);
        if mandatory & !XL_FLAGS_KNOWN != 0 {
            let problem = format!("mandatory flags {mandatory:#x} need a newer ComIO");
            return Err(self.input.malformed(&problem));
        }
        if mandatory & XL_FLAG_STREAM_V2 == 0 {
            let problem = "a stream of Xen 4.5 or older; restore it with its own Xen and save again";
            return Err(self.input.malformed(problem));
        }
        let len = u64::from(le_u32(&header, 44));
        put_part(Part::XlConfig, len, frame);
        self.input.begin(Cow::Borrowed(Part::XlConfig.name()));
        Ok(Stage::Verbatim { left: len, then: Box::new(Stage::LibxlHeader) })
    }

    fn libxl_header(&mut self, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        let header: [u8; LIBXL_HEADER_LEN] = self.part(Part::LibxlHeader, frame)?;
        if be_u64(&header, 0) != LIBXL_IDENT {
            return Err(self.input.malformed("wrong ident, \"LibxlFmt\" expected"));
        }
        let version = be_u32(&header, 8);
        if version != LIBXL_VERSION {
            return Err(self.input.malformed(&format!("unsupported version {version}, 2 expected")));
        }
        if be_u32(&header, 12) & OPTION_BIG_ENDIAN != 0 {
            return Err(self.input.malformed("big-endian streams are not supported"));
        }
        Ok(Stage::Record(Layer::Libxl))
    }

    fn libxc_header(&mut self, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        let header: [u8; LIBXC_HEADER_LEN] = self.part(Part::LibxcHeader, frame)?;
        if be_u64(&header, 0) != LIBXC_MARKER || be_u32(&header, 8) != LIBXC_ID {
            return Err(self.input.malformed("wrong marker, eight 0xff and \"XENF\" expected"));
        }
        let version = be_u32(&header, 12);
        if !LIBXC_VERSIONS.contains(&version) {
            return Err(self.input.malformed(&format!("unsupported version {version}, 2 or 3 expected")));
        }
        if be_u32(&header, 16) >> 16 & OPTION_BIG_ENDIAN != 0 {
            return Err(self.input.malformed("big-endian streams are not supported"));
        }
        Ok(Stage::DomainHeader)
    }

    fn domain_header(&mut self, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        let header: [u8; DOMAIN_HEADER_LEN] = self.part(Part::DomainHeader, frame)?;
        let domain_type = le_u32(&header, 0);
        if !DOMAIN_TYPES.contains(&domain_type) {
            return Err(self.input.malformed(&format!("unknown domain type {domain_type}")));
        }
        let page_shift = u16::from_le_bytes([header[4], header[5]]);
        if page_shift != PAGE_SHIFT {
            let problem = format!("pages of 2^{page_shift} bytes; only 4096 are supported");
            return Err(self.input.malformed(&problem));
        }
        Ok(Stage::Record(Layer::Libxc))
    }

    fn record(&mut self, layer: Layer, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        self.input.begin(Cow::Borrowed(match layer {
            Layer::Libxl => "the next libxl record's header",
            Layer::Libxc => "the next libxc record's header",
        }));
        let mut header = [0; RECORD_HEADER_LEN];
        self.input.read_exact(&mut header)?;
        let (record_type, length) = (le_u32(&header, 0), le_u32(&header, 4));
        self.input.rename(layer.record_name(record_type));
        if layer == Layer::Libxc && length > LIBXC_RECORD_LEN_MAX {
            return Err(self.input.malformed(&format!("impossible length {length}")));
        }
        if layer == Layer::Libxc && record_type == LIBXC_PAGE_DATA {
            return self.page_data(length, frame);
        }
        let then = next_stage(layer, record_type);
        // Records that hand over to the other layer have no body in any version of Xen.
        if !matches!(then, Stage::Record(next) if next == layer) && length != 0 {
            return Err(self.input.malformed(&format!("length {length}, but it has no body")));
        }
        put_record(layer, record_type, length, frame);
        Ok(Stage::Verbatim { left: padded_len(length), then: Box::new(then) })
    }

    fn verbatim(&mut self, left: u64, then: Box<Stage>, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        let room = PIECE_LEN.saturating_sub(frame.len()).max(1);
        let len = usize::try_from(left).map_or(room, |left| left.min(room));
        let begin = frame.len();
        frame.resize(begin + len, 0);
        self.input.read_exact(&mut frame[begin..])?;
        Ok(Stage::Verbatim { left: left - len as u64, then })
    }

    fn page_data(&mut self, length: u32, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        if length < PAGE_DATA_HEADER_LEN {
            return Err(self.input.malformed(&format!("length {length} is too short for its header")));
        }
        let mut header = [0; PAGE_DATA_HEADER_LEN as usize];
        self.input.read_exact(&mut header)?;
        let (count, reserved) = (le_u32(&header, 0), le_u32(&header, 4));
        let contents = u64::from(length - PAGE_DATA_HEADER_LEN).checked_sub(8 * u64::from(count));
        let pages = contents.filter(|len| len % PAGE_SIZE as u64 == 0).map(|len| len / PAGE_SIZE as u64);
        match pages.and_then(|pages| usize::try_from(pages).ok()) {
            Some(pages) if count > 0 => {
                put_page_data(length, count, reserved, frame);
                Ok(Stage::Entries(Entries { left: count, pages, run: None, with_contents: Vec::new() }))
            }
            _ => Err(self.input.malformed(&format!("{count} pfns do not fit its length {length}"))),
        }
    }

    fn entries(&mut self, mut entries: Entries, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        let mut bytes = [0; 8 * 1024];
        let len = bytes.len().min(8 * entries.left as usize);
        self.input.read_exact(&mut bytes[..len])?;
        for entry in bytes[..len].as_chunks().0 {
            self.entry(u64::from_le_bytes(*entry), &mut entries, frame)?;
        }
        if entries.left > 0 {
            return Ok(Stage::Entries(entries));
        }
        if let Some(run) = entries.run.take() {
            self.runs.put(run, frame);
        }
        if entries.with_contents.len() != entries.pages {
            let (named, held) = (entries.with_contents.len(), entries.pages);
            let problem = format!("its pfns name {named} pages with contents, its length holds {held}");
            return Err(self.input.malformed(&problem));
        }
        let batches = entries.with_contents.chunks(SEGMENT_PAGES);
        Ok(Stage::Pages(batches.map(|pfns| Pfns::from_list(pfns.to_vec())).collect()))
    }

    fn entry(&mut self, entry: u64, entries: &mut Entries, frame: &mut Vec<u8>) -> Result<(), TapeError> {
        entries.left -= 1;
        let new = Run::of(entry);
        match carries_contents(new.page_type()) {
            Some(true) if entries.with_contents.len() == entries.pages => {
                let problem = format!("more pages with contents than its length holds ({})", entries.pages);
                return Err(self.input.malformed(&problem));
            }
            Some(true) => entries.with_contents.push(new.first),
            Some(false) => {}
            None => {
                let problem = format!("pfn {:#x} has the reserved type {}", new.first, new.page_type());
                return Err(self.input.malformed(&problem));
            }
        }
        let extended = entries.run.as_mut().is_some_and(|run| run.extend(entry));
        if !extended && let Some(run) = entries.run.replace(new) {
            self.runs.put(run, frame);
        }
        Ok(())
    }

    /// xl ignores what follows the stream's end, so it is no damage; kept like everything else.
    fn trailing(&mut self, frame: &mut Vec<u8>) -> Result<Stage, TapeError> {
        self.input.begin(Cow::Borrowed(Part::Trailing.name()));
        let mut bytes = vec![0; PIECE_LEN / 2];
        let len = self.input.read_up_to(&mut bytes)?;
        if len > 0 {
            put_part(Part::Trailing, len as u64, frame);
            frame.extend(&bytes[..len]);
            return Ok(Stage::Trailing);
        }
        put_end(frame);
        Ok(Stage::Done)
    }
}

impl<R: BufRead + Seek> Parser<R> {
    /// Passes over the pages announced by the last step and gives their offset in the input,
    /// for somebody else to read them there.
    ///
    /// # Errors
    /// As [`step`](Self::step). An input that ends inside the pages is found by who reads them.
    pub fn skip_pages(&mut self) -> Result<u64, TapeError> {
        let len = std::mem::take(&mut self.pages_due) * PAGE_SIZE;
        self.input.skip(len)
    }
}

/// What follows a record of `layer`. A checkpoint of libxc hands over to libxl for the
/// emulator's state, until libxl's own mark.
fn next_stage(layer: Layer, record_type: u32) -> Stage {
    match (layer, record_type) {
        (Layer::Libxl, LIBXL_END) => Stage::Trailing,
        (Layer::Libxl, LIBXL_LIBXC_CONTEXT) => Stage::LibxcHeader,
        (Layer::Libxl, LIBXL_CHECKPOINT_END) => Stage::Record(Layer::Libxc),
        (Layer::Libxc, LIBXC_END | LIBXC_CHECKPOINT) => Stage::Record(Layer::Libxl),
        _ => Stage::Record(layer),
    }
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}
fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}
fn be_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
