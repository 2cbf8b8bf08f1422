//! Puts a Xen save file together again.

use std::collections::VecDeque;

use comio_core::PAGE_SIZE;
use comio_core::tape::{Pfns, TapeError};

use super::format::{LIBXC_PAGE_DATA, Layer, PAGE_DATA_HEADER_LEN, PFN_BITS, carries_contents};
use super::frame::{Decoder, Event, Run, damaged};

/// Output is handed out when there are this many bytes of it.
const PIECE_LEN: usize = 64 << 10;

/// Entries of 8 bytes that make up a piece.
const PIECE_ENTRIES: u32 = 8 << 10;

/// The bytes of a save file, from frame bytes (cut anywhere) and the batches between them.
///
/// For each frame piece call [`frame`](Self::frame) until it says [`Progress::Done`], writing
/// out and clearing the output each time; for each batch call [`batch`](Self::batch) and then
/// write the output and the pages; then [`finish`](Self::finish).
#[derive(Debug, Default)]
pub struct Rebuilder {
    decoder: Decoder,
    /// The run whose entries are being written.
    run: Option<Run>,
    /// Bytes of pages that the current record still has room for.
    room: u64,
    /// Runs of pfns whose pages are still to come, and how many that are.
    due: VecDeque<(u64, u32)>,
    /// The record's pfns are complete, its pages are next.
    awaits_pages: bool,
}

/// How far [`Rebuilder::frame`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All of the input was used.
    Done,
    /// Output has piled up: write it, then call again with the rest of the input.
    OutputFull,
}

impl Rebuilder {
    /// A rebuilder at the beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes frame bytes from the beginning of `input` and adds what they stand for to `output`,
    /// which grows by about 64 KiB at most.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] for damaged frame bytes, or such that come where pages must.
    pub fn frame(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<Progress, TapeError> {
        loop {
            if output.len() >= PIECE_LEN {
                return Ok(Progress::OutputFull);
            }
            if let Some(run) = self.run.take() {
                self.run = put_entries(run, output);
                continue;
            }
            if self.awaits_pages {
                if input.is_empty() {
                    return Ok(Progress::Done);
                }
                return Err(damaged("it goes on where pages must follow"));
            }
            // Verbatim bytes go out in pieces, whatever the caller's are.
            let (mut now, later) = input.split_at(input.len().min(PIECE_LEN));
            let given = now.len();
            let event = self.decoder.next(&mut now)?;
            *input = &input[given - now.len()..];
            match event {
                Some(event) => self.apply(&event, output)?,
                None if later.is_empty() => return Ok(Progress::Done),
                None => {}
            }
        }
    }

    /// Takes note of a batch; its pages follow the output given so far.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] when these are not the pages that the frame says are next.
    pub fn batch(&mut self, pfns: &Pfns) -> Result<(), TapeError> {
        if let Pfns::Run { first, count } = pfns
            && first.checked_add(*count as u64).is_none()
        {
            return Err(TapeError::Inconsistent(format!("{count} pages from {first:#x} on cannot be")));
        }
        for pfn in pfns.iter() {
            let due = self.due.front_mut().filter(|_| self.awaits_pages);
            match due {
                Some((first, count)) if *first == pfn => {
                    *first += 1;
                    *count -= 1;
                    if *count == 0 {
                        self.due.pop_front();
                    }
                }
                Some((first, _)) => {
                    return Err(TapeError::Inconsistent(format!(
                        "page {pfn:#x} comes where {first:#x} must"
                    )));
                }
                None => {
                    return Err(TapeError::Inconsistent(format!("page {pfn:#x} belongs to no record")));
                }
            }
        }
        self.awaits_pages = !self.due.is_empty();
        Ok(())
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] when frame bytes or pages are.
    pub fn finish(&self) -> Result<(), TapeError> {
        if self.awaits_pages {
            return Err(TapeError::Inconsistent("pages are missing at its end".to_owned()));
        }
        if !self.decoder.is_complete() || self.run.is_some() {
            return Err(TapeError::Inconsistent("the frame's end is missing".to_owned()));
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event<'_>, output: &mut Vec<u8>) -> Result<(), TapeError> {
        match *event {
            Event::Part { .. } | Event::End => {}
            Event::Record { layer: Layer::Libxc, record_type: LIBXC_PAGE_DATA, .. } => {
                return Err(damaged("a PAGE_DATA record is not coded as one"));
            }
            Event::Record { record_type, length, .. } => put(output, &[record_type, length]),
            Event::Bytes(bytes) => output.extend(bytes),
            Event::PageData { length, count, reserved } => {
                put(output, &[LIBXC_PAGE_DATA, length, count, reserved]);
                self.room = u64::from(length - PAGE_DATA_HEADER_LEN) - 8 * u64::from(count);
            }
            Event::Run(run) => self.begin_run(run)?,
            Event::PageDataEnd => {
                if self.room > 0 {
                    return Err(damaged("a PAGE_DATA record is longer than its pages"));
                }
                self.awaits_pages = !self.due.is_empty();
            }
        }
        Ok(())
    }

    fn begin_run(&mut self, run: Run) -> Result<(), TapeError> {
        let contents =
            carries_contents(run.page_type()).ok_or_else(|| damaged("a page has a reserved type"))?;
        if contents {
            let len = u64::from(run.count) * PAGE_SIZE as u64;
            self.room = self
                .room
                .checked_sub(len)
                .ok_or_else(|| damaged("a PAGE_DATA record is shorter than its pages"))?;
            self.due.push_back((run.first, run.count));
        }
        self.run = Some(run);
        Ok(())
    }
}

/// Writes as many of the run's entries as a piece holds; gives what is left.
fn put_entries(run: Run, output: &mut Vec<u8>) -> Option<Run> {
    let count = run.count.min(PIECE_ENTRIES);
    let begin = run.tag << PFN_BITS | run.first;
    for i in 0..u64::from(count) {
        output.extend((begin + i).to_le_bytes());
    }
    let left = Run { first: run.first + u64::from(count), count: run.count - count, ..run };
    Some(left).filter(|left| left.count > 0)
}

fn put(output: &mut Vec<u8>, fields: &[u32]) {
    for field in fields {
        output.extend(field.to_le_bytes());
    }
}
