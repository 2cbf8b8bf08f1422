//! Reading a tape from a pipe: in order, one piece at a time, one piece ahead.

use std::io::BufReader;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::SEGMENT_PAGES;
use comio_core::buffer::{Buffer, BufferPool, Payload};
use comio_core::compute::ComputeError;
use comio_core::tape::{Batch, GuestReader, Pfns, TapeError, TapeFormat, TapeItem};
use futures::FutureExt;

use super::{StreamInput, raw, take_buffer};
use crate::pool::{JobHandle, WorkerPool};
use crate::xen::Parser;

/// For headers and pfn arrays; pages go past it, straight to their buffer.
const BUFFERED_BYTES: usize = 64 << 10;

/// Reads a stream piece by piece; runs on the pipe's thread.
pub(super) trait Puller: Send + 'static {
    /// The next piece; pages go into `buffer`, which has room for a whole segment.
    fn pull(&mut self, buffer: &mut Buffer) -> Result<Pulled, TapeError>;
}

/// A piece of the stream.
#[derive(Debug)]
pub(super) enum Pulled {
    Frame(Vec<u8>),
    /// The buffer holds these pages.
    Pages(Pfns),
    End,
}

type Pull<P> = JobHandle<(P, Buffer, Result<Pulled, TapeError>)>;

enum State<P> {
    Idle(P),
    Pulling(Pull<P>),
    Ended,
    Failed,
}

pub(super) fn open(
    input: StreamInput,
    format: TapeFormat,
    name: String,
    thread: Arc<WorkerPool>,
) -> Box<dyn GuestReader> {
    match format {
        TapeFormat::XEN_XL => {
            let parser = Parser::new(BufReader::with_capacity(BUFFERED_BYTES, input), name);
            Box::new(StreamTape::new(format, parser, thread))
        }
        _ => Box::new(StreamTape::new(format, raw::Puller::new(input, name), thread)),
    }
}

struct StreamTape<P> {
    format: TapeFormat,
    thread: Arc<WorkerPool>,
    state: State<P>,
    /// A buffer that the last pull did not need.
    spare: Option<Buffer>,
}

impl<P: Puller> StreamTape<P> {
    fn new(format: TapeFormat, puller: P, thread: Arc<WorkerPool>) -> Self {
        Self { format, thread, state: State::Idle(puller), spare: None }
    }

    fn start(&mut self, mut buffer: Buffer) {
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(mut puller) => State::Pulling(self.thread.submit_io(move || {
                let result = puller.pull(&mut buffer);
                (puller, buffer, result)
            })),
            other => other,
        };
    }

    /// A buffer for the next pull: the one left over, or one from the pool.
    async fn buffer(&mut self, pool: &BufferPool) -> Result<Buffer, TapeError> {
        match self.spare.take() {
            Some(buffer) => Ok(buffer),
            None => Ok(take_buffer(pool, SEGMENT_PAGES).await?),
        }
    }

    /// Takes a finished pull, and begins the next if a buffer is at hand.
    fn accept(
        &mut self,
        puller: P,
        buffer: Buffer,
        result: Result<Pulled, TapeError>,
        pool: &BufferPool,
    ) -> Result<Option<TapeItem>, TapeError> {
        let item = match result? {
            Pulled::End => {
                self.state = State::Ended;
                return Ok(None);
            }
            Pulled::Frame(frame) => {
                self.spare = Some(buffer);
                TapeItem::Frame(frame)
            }
            Pulled::Pages(pfns) => TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(buffer) }),
        };
        self.state = State::Idle(puller);
        if let Some(buffer) = self.buffer(pool).now_or_never() {
            let buffer = buffer?;
            self.start(buffer);
        }
        Ok(Some(item))
    }
}

#[async_trait]
impl<P: Puller> GuestReader for StreamTape<P> {
    fn format(&self) -> TapeFormat {
        self.format
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    /// Cancel safe: a pull under way is kept.
    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Failed => return Err(ComputeError.into()),
                State::Idle(_) => {
                    let buffer = self.buffer(pool).await?;
                    self.start(buffer);
                }
                State::Pulling(pull) => {
                    let ended = pull.await;
                    self.state = State::Failed;
                    let (puller, buffer, result) = ended?;
                    return self.accept(puller, buffer, result, pool);
                }
            }
        }
    }
}
