//! Flat dumps as tapes: page `n` is pfn `n`; what follows the last whole page is frame bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::buffer::Buffer;
use comio_core::tape::{Batch, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use super::file::{BATCHES_PER_PLAN, Description, FileTape, Plan};
use super::sink::Sink;
use super::stream::{self, Pulled};
use crate::pool::WorkerPool;

const PAGE_LEN: u64 = PAGE_SIZE as u64;

pub(super) fn file_reader(
    file: Arc<File>,
    len: u64,
    name: String,
    workers: &Arc<WorkerPool>,
) -> FileTape<Planner> {
    let planner = Planner { file: Arc::clone(&file), name: name.clone(), len, offset: 0 };
    let about = Description {
        format: TapeFormat::RAW,
        format_name: "flat dump",
        record_name: "its pages",
        file_name: name,
        len,
    };
    FileTape::new(file, about, planner, workers)
}

/// Cuts a file into segments.
pub(super) struct Planner {
    file: Arc<File>,
    name: String,
    len: u64,
    offset: u64,
}

impl Planner {
    fn next(&mut self) -> Plan {
        let offset = self.offset;
        let pages =
            usize::try_from((self.len - offset) / PAGE_LEN).unwrap_or(SEGMENT_PAGES).min(SEGMENT_PAGES);
        if pages > 0 {
            self.offset += pages as u64 * PAGE_LEN;
            return Plan::Pages { pfns: Pfns::Run { first: offset / PAGE_LEN, count: pages }, offset };
        }
        let tail = std::mem::replace(&mut self.offset, self.len)..self.len;
        if tail.is_empty() {
            return Plan::End;
        }
        let mut bytes = vec![0; usize::try_from(tail.end - tail.start).unwrap_or(PAGE_SIZE)];
        match self.file.read_exact_at(&mut bytes, tail.start) {
            Ok(()) => Plan::Frame(bytes),
            Err(source) => Plan::Failed(TapeError::Io { action: "read", target: self.name.clone(), source }),
        }
    }
}

impl super::file::Planner for Planner {
    fn plan(&mut self) -> Vec<Plan> {
        let mut plans = Vec::new();
        while plans.len() < BATCHES_PER_PLAN {
            let plan = self.next();
            let last = matches!(plan, Plan::End | Plan::Failed(_));
            plans.push(plan);
            if last {
                break;
            }
        }
        plans
    }
}

/// Cuts a stream into segments.
pub(super) struct Puller<R> {
    reader: R,
    name: String,
    next_pfn: u64,
    /// Bytes that came after the last whole page.
    tail: Vec<u8>,
    ended: bool,
}

impl<R: Read> Puller<R> {
    pub(super) fn new(reader: R, name: String) -> Self {
        Self { reader, name, next_pfn: 0, tail: Vec::new(), ended: false }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, TapeError> {
        let mut len = 0;
        while len < bytes.len() {
            match self.reader.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TapeError::Io { action: "read", target: self.name.clone(), source });
                }
            }
        }
        Ok(len)
    }
}

impl<R: Read + Send + 'static> stream::Puller for Puller<R> {
    fn pull(&mut self, buffer: &mut Buffer) -> Result<Pulled, TapeError> {
        if !self.ended {
            let segment_len = SEGMENT_PAGES * PAGE_SIZE;
            let len = self.fill(&mut buffer.spare()[..segment_len])?;
            self.ended = len < segment_len;
            let count = len / PAGE_SIZE;
            self.tail = buffer.spare()[count * PAGE_SIZE..len].to_vec();
            buffer.set_len(count * PAGE_SIZE);
            if count > 0 {
                let first = self.next_pfn;
                self.next_pfn += count as u64;
                return Ok(Pulled::Pages(Pfns::Run { first, count }));
            }
        }
        let tail = std::mem::take(&mut self.tail);
        Ok(if tail.is_empty() { Pulled::End } else { Pulled::Frame(tail) })
    }
}

/// Writes a flat dump.
#[derive(Debug)]
pub(super) struct RawWriter {
    sink: Sink,
    next_pfn: u64,
    tail: Vec<u8>,
}

impl RawWriter {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, next_pfn: 0, tail: Vec::new() }
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), TapeError> {
        if !self.tail.is_empty() {
            return Err(TapeError::Inconsistent("pages follow a flat dump's last bytes".to_owned()));
        }
        let pages = batch.pages.into_bytes()?;
        let count = batch.pfns.count();
        let in_order = match &batch.pfns {
            Pfns::Run { first, .. } => *first == self.next_pfn,
            Pfns::List(list) => list.iter().copied().eq((self.next_pfn..).take(count)),
        };
        if !in_order || pages.len() != count * PAGE_SIZE {
            let problem = format!("a flat dump's page {:#x} is missing", self.next_pfn);
            return Err(TapeError::Inconsistent(problem));
        }
        self.next_pfn += count as u64;
        self.sink.write(Vec::new(), Some(pages)).await
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), TapeError> {
        if self.tail.len() + bytes.len() >= PAGE_SIZE {
            let problem = "more than a page's bytes follow a flat dump's last page";
            return Err(TapeError::Inconsistent(problem.to_owned()));
        }
        self.tail.extend(bytes);
        Ok(())
    }
}

#[async_trait]
impl GuestWriter for RawWriter {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        match item {
            TapeItem::Batch(batch) => self.batch(batch).await,
            TapeItem::Frame(bytes) => self.frame(&bytes),
        }
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        self.sink.write(std::mem::take(&mut self.tail), None).await?;
        self.sink.finish().await
    }
}
