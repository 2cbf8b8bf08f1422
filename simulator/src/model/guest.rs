//! Guests without bytes: names for contents, and the time a hypervisor takes for them.

use std::sync::Arc;

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use super::coder::contents_id;
use super::cost::HypervisorCosts;
use super::machine::{Cores, ModelCompute};
use crate::hypervisor::{ComparingWriter, Replay};

/// A guest of a modelled host.
#[derive(Debug, Clone)]
pub struct ModelGuest {
    /// Its number, which names its contents.
    pub number: usize,
    /// Its pages.
    pub page_count: usize,
    /// Who copies its pages.
    pub copier: Copier,
    /// What a page costs.
    pub costs: HypervisorCosts,
}

/// Who copies a guest's pages.
#[derive(Debug, Clone)]
pub enum Copier {
    /// A hypervisor, on the cores of its host.
    Cores(Arc<Cores>),
    /// The engine's workers, as in real mode: guests are replayed there.
    Workers(Arc<ModelCompute>),
}

impl Copier {
    async fn copy(&self, seconds: f64) {
        match self {
            Self::Cores(cores) => cores.work(seconds).await,
            Self::Workers(workers) => workers.occupy(seconds).await,
        }
    }
}

impl Replay for ModelGuest {
    fn page_count(&self) -> usize {
        self.page_count
    }

    fn reader(&self) -> Box<dyn GuestReader> {
        Box::new(Tape { guest: self.clone(), next: 0, same: true, finished: false })
    }

    fn writer(&self) -> Box<dyn ComparingWriter> {
        Box::new(Tape { guest: self.clone(), next: 0, same: true, finished: false })
    }
}

/// The tape of a guest, read or compared.
struct Tape {
    guest: ModelGuest,
    next: usize,
    same: bool,
    finished: bool,
}

impl Tape {
    /// The batch that comes next; empty at the end.
    fn expected(&self) -> (Pfns, u64) {
        let count = SEGMENT_PAGES.min(self.guest.page_count.saturating_sub(self.next));
        let first = self.next as u64;
        (Pfns::Run { first, count }, contents_id(self.guest.number, first))
    }
}

#[expect(clippy::cast_precision_loss, reason = "pages of a batch")]
fn seconds(pages: usize, page_ns: f64) -> f64 {
    pages as f64 * page_ns * 1e-9
}

#[async_trait]
impl GuestReader for Tape {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        Some((self.guest.page_count * PAGE_SIZE) as u64)
    }

    async fn next(&mut self, _pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let (pfns, contents) = self.expected();
        let count = pfns.count();
        if count == 0 {
            return Ok(None);
        }
        self.guest.copier.copy(seconds(count, self.guest.costs.read_ns)).await;
        self.next += count;
        let pages = Payload::Modelled { len: count * PAGE_SIZE, contents };
        Ok(Some(TapeItem::Batch(Batch { pfns, pages })))
    }
}

#[async_trait]
impl GuestWriter for Tape {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        let TapeItem::Batch(batch) = item else { return Ok(()) };
        let (pfns, expected) = self.expected();
        let count = batch.pfns.count();
        self.guest.copier.copy(seconds(count, self.guest.costs.write_ns)).await;
        let contents = match batch.pages {
            Payload::Modelled { contents, .. } => Some(contents),
            Payload::Bytes(_) => None,
        };
        self.same &= batch.pfns == pfns && contents == Some(expected);
        self.next += count;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        self.finished = true;
        Ok(())
    }
}

impl ComparingWriter for Tape {
    fn identical(&self) -> bool {
        self.same && self.finished && self.next == self.guest.page_count
    }

    fn as_writer(&mut self) -> &mut dyn GuestWriter {
        self
    }
}
