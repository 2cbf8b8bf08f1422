//! Reading a tape from a regular file: where pages are is planned ahead, then several batches
//! are read at once, straight into the engine's buffers, and given out in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::buffer::{Buffer, BufferPool, Payload};
use comio_core::compute::{Compute, ComputeError};
use comio_core::tape::{Batch, GuestReader, Pfns, TapeError, TapeFormat, TapeItem};
use futures::FutureExt;

use super::take_buffer;
use crate::pool::{JobHandle, WorkerPool};

/// Batches planned by one job. Planning is cheap, the way to a worker and back is not.
pub(super) const BATCHES_PER_PLAN: usize = 8;

/// Finds out what is where in the file; runs on the pool.
pub(super) trait Planner: Send + 'static {
    /// The next few pieces, in order; the last of all is [`Plan::End`] or [`Plan::Failed`].
    fn plan(&mut self) -> Vec<Plan>;
}

/// A piece of the file.
#[derive(Debug)]
pub(super) enum Plan {
    Frame(Vec<u8>),
    Pages { pfns: Pfns, offset: u64 },
    End,
    Failed(TapeError),
}

/// What a tape file is, in words and numbers.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) format: TapeFormat,
    /// For error messages: the format, and what its pages belong to.
    pub(super) format_name: &'static str,
    pub(super) record_name: &'static str,
    pub(super) file_name: String,
    pub(super) len: u64,
}

/// A piece on its way out.
enum Piece {
    Planned(Plan),
    Reading(Pfns, JobHandle<Result<Buffer, TapeError>>),
}

enum Planning<P> {
    Idle(P),
    Running(JobHandle<(P, Vec<Plan>)>),
    Over,
}

pub(super) struct FileTape<P> {
    file: Arc<File>,
    about: Arc<Description>,
    workers: Arc<WorkerPool>,
    planning: Planning<P>,
    pieces: VecDeque<Piece>,
    /// Reads under way, and how many there may be.
    reads: usize,
    reads_max: usize,
}

impl<P: Planner> FileTape<P> {
    pub(super) fn new(file: Arc<File>, about: Description, planner: P, workers: &Arc<WorkerPool>) -> Self {
        Self {
            file,
            about: Arc::new(about),
            workers: Arc::clone(workers),
            planning: Planning::Idle(planner),
            pieces: VecDeque::new(),
            reads: 0,
            // One being read for each that is being encoded; more would only hold buffers.
            reads_max: workers.workers().clamp(2, 16),
        }
    }

    /// Plans on when what is planned runs low.
    fn start_planning(&mut self) {
        if self.pieces.len() > BATCHES_PER_PLAN {
            return;
        }
        self.planning = match std::mem::replace(&mut self.planning, Planning::Over) {
            Planning::Idle(mut planner) => Planning::Running(self.workers.submit_io(move || {
                let plans = planner.plan();
                (planner, plans)
            })),
            other => other,
        };
    }

    /// Begins reads ahead of need, as far as there are buffers to spare. Never waits for one:
    /// they may all be with the engine, which waits for us.
    fn start_reads(&mut self, pool: &BufferPool) -> Result<(), TapeError> {
        for at in 0..self.pieces.len() {
            if self.reads >= self.reads_max {
                break;
            }
            let Some(Piece::Planned(Plan::Pages { pfns, .. })) = self.pieces.get(at) else { continue };
            let Some(buffer) = take_buffer(pool, pfns.count()).now_or_never() else { break };
            self.start_read(at, buffer?);
        }
        Ok(())
    }

    fn start_read(&mut self, at: usize, mut buffer: Buffer) {
        let Some(piece) = self.pieces.get_mut(at) else { return };
        let Piece::Planned(Plan::Pages { pfns, offset }) = piece else { return };
        let (pfns, offset) = (pfns.clone(), *offset);
        let len = pfns.count() * PAGE_SIZE;
        let (file, about) = (Arc::clone(&self.file), Arc::clone(&self.about));
        let read = self.workers.submit_io(move || {
            let read = file.read_exact_at(&mut buffer.spare()[..len], offset);
            read.map_err(|error| about.read_error(error, offset, &file))?;
            buffer.set_len(len);
            Ok(buffer)
        });
        *piece = Piece::Reading(pfns, read);
        self.reads += 1;
    }

    /// Waits for the planner; an error if it has nothing more to give.
    async fn more(&mut self) -> Result<(), TapeError> {
        let Planning::Running(plan) = &mut self.planning else { return Err(ComputeError.into()) };
        let ended = plan.await;
        self.planning = Planning::Over;
        let (planner, plans) = ended?;
        if !matches!(plans.last(), Some(Plan::End | Plan::Failed(_)) | None) {
            self.planning = Planning::Idle(planner);
        }
        self.pieces.extend(plans.into_iter().map(Piece::Planned));
        Ok(())
    }
}

impl Description {
    fn read_error(&self, source: io::Error, offset: u64, file: &File) -> TapeError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return TapeError::Truncated {
                format: self.format_name,
                offset: file.metadata().map_or(self.len, |metadata| metadata.len()),
                record: format!("{} (pages from byte {offset} on)", self.record_name),
            };
        }
        TapeError::Io { action: "read", target: self.file_name.clone(), source }
    }
}

#[async_trait]
impl<P: Planner> GuestReader for FileTape<P> {
    fn format(&self) -> TapeFormat {
        self.about.format
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.about.len)
    }

    /// Cancel safe: what is under way is kept.
    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        loop {
            self.start_planning();
            self.start_reads(pool)?;
            match self.pieces.front_mut() {
                None => self.more().await?,
                Some(Piece::Planned(Plan::End)) => return Ok(None),
                Some(Piece::Planned(Plan::Pages { pfns, .. })) => {
                    let buffer = take_buffer(pool, pfns.count()).await?;
                    self.start_read(0, buffer);
                }
                Some(Piece::Reading(_, read)) => {
                    let pages = read.await;
                    self.reads -= 1;
                    if let Some(Piece::Reading(pfns, _)) = self.pieces.pop_front() {
                        let pages = Payload::Bytes(pages??);
                        return Ok(Some(TapeItem::Batch(Batch { pfns, pages })));
                    }
                }
                Some(Piece::Planned(Plan::Frame(_) | Plan::Failed(_))) => match self.pieces.pop_front() {
                    Some(Piece::Planned(Plan::Frame(frame))) => return Ok(Some(TapeItem::Frame(frame))),
                    Some(Piece::Planned(Plan::Failed(error))) => return Err(error),
                    _ => {}
                },
            }
        }
    }
}
