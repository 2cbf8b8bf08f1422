//! One step of a recording: rounds of copying while the guest runs, the last while it stands still.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comio_core::PAGE_SIZE;
use comio_core::page_set::PageSet;

use super::shadow::Shadow;
use super::{LiveGuest, RecordError, Tracking};

/// Pages that are copied at once: 1 MiB.
const CHUNK_PAGES: usize = 256;
/// After a round that left so few pages dirty, the guest is paused for the next.
const FEW_PAGES: u64 = 512;
/// Rounds while the guest runs: one that writes faster than it is copied is paused all the same.
const ROUNDS_MAX: u32 = 4;

/// What a step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When the guest was paused, by the recorder's clock.
    pub moment: Duration,
    /// How long the guest stood still.
    pub paused: Duration,
    /// Pages copied, in all rounds.
    pub copied_pages: u64,
    /// Pages whose contents differ from the step before; all, for the first.
    pub changed: PageSet,
}

/// A guest being recorded.
pub struct Recorder<G: LiveGuest> {
    guest: G,
    tracking: Tracking,
    shadow: Shadow,
    buffer: Vec<u8>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    steps: u32,
    copied_pages: u64,
    is_paused: bool,
    is_tracked: bool,
}

/// Time since any fixed moment.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

impl<G: LiveGuest> Recorder<G> {
    /// Begins to record `guest`. Its memory is kept in `file`, whose contents are lost; `clock`
    /// gives the time, as the recording's [`Pace`](super::Pace) does; once `stop` is set, steps fail with
    /// [`RecordError::Stopped`] within a few milliseconds of copying.
    ///
    /// # Errors
    /// [`RecordError::Guest`] when its memory cannot be tracked, [`RecordError::Shadow`].
    pub fn begin(mut guest: G, file: File, clock: Clock, stop: Arc<AtomicBool>) -> Result<Self, RecordError> {
        let shadow = Shadow::new(file, guest.page_count()).map_err(RecordError::Shadow)?;
        let tracking = guest.begin()?;
        Ok(Self {
            guest,
            tracking,
            shadow,
            buffer: vec![0; CHUNK_PAGES * PAGE_SIZE],
            clock,
            stop,
            steps: 0,
            copied_pages: 0,
            is_paused: false,
            is_tracked: true,
        })
    }

    /// How changed pages are found.
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// How many pages the guest has.
    pub fn page_count(&self) -> u64 {
        self.shadow.page_count()
    }

    /// The file with the guest's memory, which holds still between steps.
    pub fn file(&self) -> &Arc<File> {
        self.shadow.file()
    }

    /// Brings the shadow to what the guest's memory is now.
    ///
    /// # Errors
    /// Any of [`RecordError`]; the shadow is of no moment then, and there can be no further step.
    pub fn step(&mut self) -> Result<Step, RecordError> {
        self.copied_pages = 0;
        match self.tracking {
            Tracking::Dirty => self.copy_while_it_runs()?,
            // So that little is written while it stands still.
            Tracking::Compare if self.steps == 0 => self.copy(&PageSet::all(self.page_count()))?,
            Tracking::Compare => {}
        }
        if self.steps == 0 {
            self.shadow.settle().map_err(RecordError::Shadow)?;
        }
        let (moment, paused) = self.copy_while_it_stands()?;
        let changed = self.shadow.take_changed();
        let changed = if self.steps == 0 { PageSet::all(self.page_count()) } else { changed };
        self.steps += 1;
        Ok(Step { moment, paused, copied_pages: self.copied_pages, changed })
    }

    fn copy_while_it_runs(&mut self) -> Result<(), RecordError> {
        let mut waiting = if self.steps == 0 {
            // Writes from here on are in the next set.
            self.guest.take_dirty()?;
            PageSet::all(self.page_count())
        } else {
            self.guest.take_dirty()?
        };
        for _ in 0..ROUNDS_MAX {
            self.copy(&waiting)?;
            let before = waiting.len();
            waiting = self.guest.take_dirty()?;
            if waiting.len() <= FEW_PAGES || waiting.len() >= before {
                break;
            }
        }
        // They are noted no more, so they must be copied.
        self.copy(&waiting)
    }

    /// Gives when the guest was paused, and for how long.
    fn copy_while_it_stands(&mut self) -> Result<(Duration, Duration), RecordError> {
        let begun = (self.clock)();
        self.guest.pause()?;
        self.is_paused = true;
        let copied = self.copy_rest();
        let unpaused = self.guest.unpause();
        let paused = (self.clock)().saturating_sub(begun);
        match (copied, unpaused) {
            (copied, Ok(())) => {
                self.is_paused = false;
                copied.map(|()| (begun, paused))
            }
            (copied, Err(unpause)) => {
                Err(RecordError::StillPaused { unpause, failure: copied.err().map(Box::new) })
            }
        }
    }

    fn copy_rest(&mut self) -> Result<(), RecordError> {
        let rest = match self.tracking {
            Tracking::Dirty => self.guest.take_dirty()?,
            Tracking::Compare => PageSet::all(self.page_count()),
        };
        self.copy(&rest)?;
        Ok(self.guest.check()?)
    }

    fn copy(&mut self, pages: &PageSet) -> Result<(), RecordError> {
        let mut pfns = pages.iter();
        loop {
            let chunk: Vec<u64> = pfns.by_ref().take(CHUNK_PAGES).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            if self.stop.load(Ordering::Acquire) {
                return Err(RecordError::Stopped);
            }
            let bytes = &mut self.buffer[..chunk.len() * PAGE_SIZE];
            self.guest.copy(&chunk, bytes)?;
            self.shadow.absorb(&chunk, bytes).map_err(RecordError::Shadow)?;
            self.copied_pages += chunk.len() as u64;
        }
    }

    /// Ends the recording: the guest runs on as if nobody had looked.
    ///
    /// # Errors
    /// The guest's, for tracking that could not be switched off.
    pub fn end(mut self) -> Result<(), RecordError> {
        self.is_tracked = false;
        Ok(self.guest.end()?)
    }
}

impl<G: LiveGuest> Drop for Recorder<G> {
    fn drop(&mut self) {
        // Whatever went wrong was or will be told; this is what must be tried all the same.
        if self.is_paused {
            let _ = self.guest.unpause();
        }
        if self.is_tracked {
            let _ = self.guest.end();
        }
    }
}

impl<G: LiveGuest> std::fmt::Debug for Recorder<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("tracking", &self.tracking)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
