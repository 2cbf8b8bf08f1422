//! Guests whose pages are made from a trace when they are read, and compared with it when
//! they come back.

use std::sync::Arc;

use async_trait::async_trait;
use comio_core::buffer::{Buffer, BufferPool, Payload};
use comio_core::compute::{self, Compute, Work};
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use crate::hypervisor::{ComparingWriter, Replay};
use crate::trace::SyntheticGuest;

/// A guest with real bytes.
pub struct ReplayedGuest {
    memory: Arc<SyntheticGuest>,
    compute: Arc<dyn Compute>,
}

impl ReplayedGuest {
    /// A guest of that memory. Pages are copied and compared on `compute`, as a real
    /// hypervisor's copying takes a core's time.
    pub fn new(memory: SyntheticGuest, compute: &Arc<dyn Compute>) -> Self {
        Self { memory: Arc::new(memory), compute: Arc::clone(compute) }
    }
}

impl std::fmt::Debug for ReplayedGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayedGuest").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Replay for ReplayedGuest {
    fn page_count(&self) -> usize {
        self.memory.page_count()
    }

    fn reader(&self) -> Box<dyn GuestReader> {
        Box::new(Reader { memory: Arc::clone(&self.memory), compute: Arc::clone(&self.compute), next: 0 })
    }

    fn writer(&self) -> Box<dyn ComparingWriter> {
        Box::new(Comparer {
            memory: Arc::clone(&self.memory),
            compute: Arc::clone(&self.compute),
            next: 0,
            same: true,
            finished: false,
        })
    }
}

struct Reader {
    memory: Arc<SyntheticGuest>,
    compute: Arc<dyn Compute>,
    next: usize,
}

#[async_trait]
impl GuestReader for Reader {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        Some((self.memory.page_count() * PAGE_SIZE) as u64)
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let first = self.next;
        let count = SEGMENT_PAGES.min(self.memory.page_count() - first);
        if count == 0 {
            return Ok(None);
        }
        let buffer = pool.take_slot().await?;
        let memory = Arc::clone(&self.memory);
        let pages =
            compute::run(&*self.compute, move || (read_pages(&memory, first, count, buffer), Work::Other))
                .await?;
        self.next = first + count;
        let pfns = Pfns::Run { first: first as u64, count };
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(pages) })))
    }
}

fn read_pages(memory: &SyntheticGuest, first: usize, count: usize, mut buffer: Buffer) -> Buffer {
    let pages = buffer.spare()[..count * PAGE_SIZE].chunks_exact_mut(PAGE_SIZE);
    for (pfn, page) in (first..).zip(pages) {
        memory.read(pfn, page);
    }
    buffer.set_len(count * PAGE_SIZE);
    buffer
}

/// Compares what comes back with what the guest had. The tape must come back in its order, so
/// a page out of place counts as a difference.
struct Comparer {
    memory: Arc<SyntheticGuest>,
    compute: Arc<dyn Compute>,
    next: usize,
    same: bool,
    finished: bool,
}

#[async_trait]
impl GuestWriter for Comparer {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        let Batch { pfns, pages } = match item {
            TapeItem::Batch(batch) => batch,
            TapeItem::Frame(frame) => {
                // Replayed guests have no frame: any byte of one is a difference.
                self.same &= frame.is_empty();
                return Ok(());
            }
        };
        let (first, count) = (self.next, pfns.count());
        let in_order = pfns.iter().zip(first as u64..).all(|(pfn, expected)| pfn == expected);
        let bytes = pages.into_bytes()?;
        if bytes.len() != count * PAGE_SIZE {
            let problem = format!("{} bytes for {count} pages", bytes.len());
            return Err(TapeError::Inconsistent(problem));
        }
        let memory = Arc::clone(&self.memory);
        let same = compute::run(&*self.compute, move || {
            let mut pages = (first..).zip(bytes.chunks_exact(PAGE_SIZE));
            (pages.all(|(pfn, page)| memory.matches(pfn, page)), Work::Other)
        })
        .await?;
        self.same &= in_order && same;
        self.next = first + count;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        self.finished = true;
        Ok(())
    }
}

impl ComparingWriter for Comparer {
    fn identical(&self) -> bool {
        self.same && self.finished && self.next == self.memory.page_count()
    }

    fn as_writer(&mut self) -> &mut dyn GuestWriter {
        self
    }
}
