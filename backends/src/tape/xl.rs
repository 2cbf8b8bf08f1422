//! Save files of xl as tapes in files and pipes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::buffer::Buffer;
use comio_core::tape::{Batch, GuestWriter, TapeError, TapeFormat, TapeItem};

use super::file::{BATCHES_PER_PLAN, Description, FileTape, Plan, Planner};
use super::sink::Sink;
use super::stream::{Pulled, Puller};
use crate::pool::WorkerPool;
use crate::xen::{Parser, Progress, Rebuilder, Step};

/// Read at once around a record's header: a batch's pfns are 8 KiB, the pages behind them are
/// read elsewhere.
const BUFFERED_BYTES: usize = 16 << 10;

/// Frame bytes planned by one job at most, besides its batches.
const FRAME_BYTES_PER_PLAN: usize = 256 << 10;

type FileParser = Parser<BufReader<Arc<File>>>;

pub(super) fn file_reader(
    file: Arc<File>,
    len: u64,
    name: String,
    workers: &Arc<WorkerPool>,
) -> FileTape<FileParser> {
    let parser = Parser::new(BufReader::with_capacity(BUFFERED_BYTES, Arc::clone(&file)), name.clone());
    let about = Description {
        format: TapeFormat::XEN_XL,
        format_name: "Xen save file",
        record_name: "libxc PAGE_DATA",
        file_name: name,
        len,
    };
    FileTape::new(file, about, parser, workers)
}

impl Planner for FileParser {
    fn plan(&mut self) -> Vec<Plan> {
        let (mut plans, mut batches, mut frame_bytes) = (Vec::new(), 0, 0);
        while batches < BATCHES_PER_PLAN && frame_bytes < FRAME_BYTES_PER_PLAN {
            let plan = match self.step() {
                Ok(Some(Step::Frame(frame))) => {
                    frame_bytes += frame.len();
                    Plan::Frame(frame)
                }
                Ok(Some(Step::Pages(pfns))) => {
                    batches += 1;
                    match self.skip_pages() {
                        Ok(offset) => Plan::Pages { pfns, offset },
                        Err(error) => Plan::Failed(error),
                    }
                }
                Ok(None) => Plan::End,
                Err(error) => Plan::Failed(error),
            };
            let last = matches!(plan, Plan::End | Plan::Failed(_));
            plans.push(plan);
            if last {
                break;
            }
        }
        plans
    }
}

impl<R: BufRead + Send + 'static> Puller for Parser<R> {
    fn pull(&mut self, buffer: &mut Buffer) -> Result<Pulled, TapeError> {
        Ok(match self.step()? {
            None => Pulled::End,
            Some(Step::Frame(frame)) => Pulled::Frame(frame),
            Some(Step::Pages(pfns)) => {
                let len = pfns.count() * PAGE_SIZE;
                self.read_pages(&mut buffer.spare()[..len])?;
                buffer.set_len(len);
                Pulled::Pages(pfns)
            }
        })
    }
}

/// Writes a save file of xl.
#[derive(Debug)]
pub(super) struct XlWriter {
    sink: Sink,
    rebuilder: Rebuilder,
    /// Bytes not yet given to the sink.
    output: Vec<u8>,
}

impl XlWriter {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, rebuilder: Rebuilder::new(), output: Vec::new() }
    }

    async fn frame(&mut self, mut bytes: &[u8]) -> Result<(), TapeError> {
        while self.rebuilder.frame(&mut bytes, &mut self.output)? == Progress::OutputFull {
            self.sink.write(std::mem::take(&mut self.output), None).await?;
        }
        Ok(())
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), TapeError> {
        let pages = batch.pages.into_bytes()?;
        if pages.len() != batch.pfns.count() * PAGE_SIZE {
            let problem = format!("{} pages in {} bytes", batch.pfns.count(), pages.len());
            return Err(TapeError::Inconsistent(problem));
        }
        self.rebuilder.batch(&batch.pfns)?;
        self.sink.write(std::mem::take(&mut self.output), Some(pages)).await
    }
}

#[async_trait]
impl GuestWriter for XlWriter {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        match item {
            TapeItem::Frame(bytes) => self.frame(&bytes).await,
            TapeItem::Batch(batch) => self.batch(batch).await,
        }
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        self.rebuilder.finish()?;
        self.sink.write(std::mem::take(&mut self.output), None).await?;
        self.sink.finish().await
    }
}
