//! The byte stream from the server, cut into records; read data goes straight to where it
//! is wanted.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use comio_core::buffer::Buffer;
use tokio::io::{AsyncRead, ReadBuf};

use super::message::LAST_FRAGMENT;
use super::status::Moves;

/// Where the data of a READ goes: a part of a buffer whose other parts are filled by other
/// READs at the same time, maybe over other connections. The lock is held only while the
/// kernel copies bytes that have arrived. Once the buffer was taken out, late data is dropped.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) buffer: Arc<Mutex<Option<Buffer>>>,
    pub(super) range: Range<usize>,
}

impl Target {
    /// `None` when nobody waits for the data any more.
    fn with<T>(&self, part: Range<usize>, use_it: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.range.start;
        buffer.as_mut().map(|buffer| use_it(&mut buffer.spare()[start + part.start..start + part.end]))
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        self.with(at..at + bytes.len(), |space| space.copy_from_slice(bytes));
    }
}

/// Headers are read through this much memory, data is not.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// The reading half of a connection.
pub(super) struct RecordReader<'a, R> {
    io: R,
    moves: &'a Moves,
    buffer: Box<[u8]>,
    filled: Range<usize>,
}

impl<'a, R: AsyncRead + Unpin> RecordReader<'a, R> {
    pub(super) fn new(io: R, moves: &'a Moves) -> Self {
        Self { io, moves, buffer: vec![0; READ_AHEAD_BYTES].into_boxed_slice(), filled: 0..0 }
    }

    fn arrived(&self, read: usize) -> io::Result<usize> {
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.moves.received();
        Ok(read)
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            let read = poll_fn(|cx| poll_into(&mut self.io, cx, &mut self.buffer)).await?;
            self.filled = 0..self.arrived(read)?;
        }
        Ok(())
    }

    /// At most `len` bytes of those that have arrived.
    async fn next_bytes(&mut self, len: usize) -> io::Result<&[u8]> {
        self.fill().await?;
        let taken = self.filled.start..self.filled.end.min(self.filled.start + len);
        self.filled.start = taken.end;
        Ok(&self.buffer[taken])
    }

    /// Appends exactly `len` bytes: memory grows with what arrives, not with what is announced.
    pub(super) async fn append(&mut self, bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
        let end = bytes.len() + len;
        while bytes.len() < end {
            let more = self.next_bytes(end - bytes.len()).await?;
            bytes.extend_from_slice(more);
        }
        Ok(())
    }

    pub(super) async fn skip(&mut self, mut len: usize) -> io::Result<()> {
        while len > 0 {
            len -= self.next_bytes(len).await?.len();
        }
        Ok(())
    }

    /// Reads exactly `part` of the target.
    pub(super) async fn fill_target(&mut self, target: &Target, part: Range<usize>) -> io::Result<()> {
        let mut at = part.start;
        if !self.filled.is_empty() {
            let bytes = self.next_bytes(part.len()).await?;
            target.put(at, bytes);
            at += bytes.len();
        }
        while at < part.end {
            let io = &mut self.io;
            let read = poll_fn(|cx| {
                let poll = target.with(at..part.end, |space| poll_into(&mut *io, cx, space));
                poll.map_or(Poll::Ready(None), |poll| poll.map(Some))
            });
            match read.await {
                Some(read) => at += self.arrived(read?)?,
                None => return self.skip(part.end - at).await,
            }
        }
        Ok(())
    }

    /// The next fragment's length, and whether it is its record's last.
    pub(super) async fn mark(&mut self) -> io::Result<(usize, bool)> {
        let mut bytes = Vec::with_capacity(4);
        self.append(&mut bytes, 4).await?;
        let mark = bytes.iter().fold(0, |mark: u32, byte| mark << 8 | u32::from(*byte));
        Ok(((mark & !LAST_FRAGMENT) as usize, mark & LAST_FRAGMENT != 0))
    }
}

fn poll_into<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(space);
    Pin::new(io).poll_read(cx, &mut space).map_ok(|()| space.filled().len())
}

#[cfg(test)]
mod test {
    use super::super::status::Status;
    use super::*;

    #[tokio::test]
    async fn data_lands_in_its_part_of_the_target() {
        let moves = Moves::new(Arc::new(Status::new("test".to_owned())));
        let stream: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let mut reader = RecordReader::new(&stream[..], &moves);
        reader.skip(1).await.unwrap();
        let buffer = Arc::new(Mutex::new(Some(Buffer::unpooled(vec![0xee; 90_000]))));
        let target = Target { buffer: Arc::clone(&buffer), range: 10..80_010 };
        reader.fill_target(&target, 0..80_000).await.unwrap();
        let buffer = buffer.lock().unwrap().take().unwrap();
        assert_eq!(buffer[10..80_010], stream[1..80_001]);
        assert_eq!((buffer[9], buffer[80_010]), (0xee, 0xee));
    }

    #[tokio::test]
    async fn the_end_of_the_stream_is_an_error() {
        let moves = Moves::new(Arc::new(Status::new("test".to_owned())));
        let mut reader = RecordReader::new(&[1u8, 2, 3][..], &moves);
        let error = reader.mark().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
