//! The parser's input: bytes that are counted, and named in errors.

use std::borrow::Cow;
use std::io::{self, Read, Seek};

use comio_core::tape::TapeError;

use super::format::FORMAT;

#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    name: String,
    /// Of the next byte.
    offset: u64,
    /// Where the part or record being read begins, and what it is.
    begun: u64,
    what: Cow<'static, str>,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R, name: String) -> Self {
        Self { reader, name, offset: 0, begun: 0, what: Cow::Borrowed("xl header") }
    }

    /// A part or record begins here.
    pub(super) fn begin(&mut self, what: Cow<'static, str>) {
        self.begun = self.offset;
        self.what = what;
    }

    /// Now it is known what began.
    pub(super) fn rename(&mut self, what: Cow<'static, str>) {
        self.what = what;
    }

    pub(super) fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), TapeError> {
        let len = self.read_up_to(bytes)?;
        if len < bytes.len() {
            return Err(TapeError::Truncated { format: FORMAT, offset: self.offset, record: self.record() });
        }
        Ok(())
    }

    /// Fills `bytes` as far as the input goes.
    pub(super) fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, TapeError> {
        let mut len = 0;
        while len < bytes.len() {
            match self.reader.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
        self.offset += len as u64;
        Ok(len)
    }

    pub(super) fn malformed(&self, problem: &str) -> TapeError {
        TapeError::Malformed {
            format: FORMAT,
            offset: self.begun,
            record: self.what.to_string(),
            problem: problem.to_owned(),
        }
    }

    fn record(&self) -> String {
        format!("{} (begun at byte {})", self.what, self.begun)
    }

    fn io(&self, source: io::Error) -> TapeError {
        TapeError::Io { action: "read", target: self.name.clone(), source }
    }
}

impl<R: Seek + Read> Input<R> {
    /// Passes over `len` bytes and gives the offset of the first.
    pub(super) fn skip(&mut self, len: usize) -> Result<u64, TapeError> {
        let offset = self.offset;
        let distance = i64::try_from(len).map_err(|error| self.io(io::Error::other(error)))?;
        self.reader.seek_relative(distance).map_err(|error| self.io(error))?;
        self.offset += len as u64;
        Ok(offset)
    }
}
