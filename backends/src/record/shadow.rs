//! The guest's memory as of the last step, in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use comio_core::PAGE_SIZE;
use comio_core::page_set::PageSet;

/// The file: page `n` of the guest at offset `n × 4096`. It belongs to the recorder alone, and
/// is best one without a name, so that nothing of the guest stays behind.
#[derive(Debug)]
pub(super) struct Shadow {
    file: Arc<File>,
    page_count: u64,
    /// Pages whose contents changed since [`take_changed`](Self::take_changed).
    changed: PageSet,
    /// What stood there before, while pages are compared.
    before: Vec<u8>,
}

impl Shadow {
    /// A guest of zeros.
    pub(super) fn new(file: File, page_count: u64) -> io::Result<Self> {
        file.set_len(0)?;
        file.set_len(page_count * PAGE_SIZE as u64)?;
        let changed = PageSet::none(page_count);
        Ok(Self { file: Arc::new(file), page_count, changed, before: Vec::new() })
    }

    pub(super) fn page_count(&self) -> u64 {
        self.page_count
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Takes the contents of the pages `pfns`, which are in ascending order.
    pub(super) fn absorb(&mut self, pfns: &[u64], pages: &[u8]) -> io::Result<()> {
        let mut done = 0;
        for run in pfns.chunk_by(|one, next| one + 1 == *next) {
            let bytes = &pages[done * PAGE_SIZE..(done + run.len()) * PAGE_SIZE];
            self.absorb_run(run[0], bytes)?;
            done += run.len();
        }
        Ok(())
    }

    fn absorb_run(&mut self, first: u64, pages: &[u8]) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.before);
        before.resize(pages.len(), 0);
        self.file.read_exact_at(&mut before, first * PAGE_SIZE as u64)?;
        let pairs = before.chunks(PAGE_SIZE).zip(pages.chunks(PAGE_SIZE));
        for (pfn, (before, now)) in (first..).zip(pairs) {
            if before != now {
                self.file.write_all_at(now, pfn * PAGE_SIZE as u64)?;
                self.changed.insert(pfn);
            }
        }
        self.before = before;
        Ok(())
    }

    /// Writes to the disk what waits for it: a file system that is behind with that makes
    /// writers wait.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The pages that changed since the last call.
    pub(super) fn take_changed(&mut self) -> PageSet {
        std::mem::replace(&mut self.changed, PageSet::none(self.page_count))
    }
}
