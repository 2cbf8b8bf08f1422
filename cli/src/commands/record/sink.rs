//! Steps of a recording as images of a trace.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_backends::record::{Step, StepSink};
use comio_core::engine::{self, Engine};
use comio_core::storage::Storage;
use comio_core::tape::GuestReader;
use serde::Serialize;

use super::super::pack;
use super::stopping::Stopping;
use crate::output;
use crate::progress::{self, ProgressLine};
use crate::session::save_options;
use crate::traces::{Recorded, TraceWriter};

/// What became of a step.
#[derive(Serialize)]
pub(super) struct StepReport {
    file: String,
    at_s: f64,
    #[serde(flatten)]
    recorded: Recorded,
    #[serde(flatten)]
    saved: pack::Report,
}

/// Writes steps, and tells of each.
pub(super) struct ImageSink {
    pub(super) writer: TraceWriter,
    pub(super) engine: Engine,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) stopping: Stopping,
    pub(super) quiet: bool,
    pub(super) steps: Vec<StepReport>,
}

#[async_trait]
impl StepSink for ImageSink {
    async fn write(
        &mut self,
        step: &Step,
        at: Duration,
        reader: &mut dyn GuestReader,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let file = self.writer.next_name();
        let foundation = self.writer.foundation().await?;
        let unchanged = Arc::new(step.changed.others());
        let foundation = foundation.map(|foundation| foundation.with_unchanged(unchanged));
        let (upon, options, moved) = (foundation.as_ref(), save_options(false), self.stopping.begin_step());
        let line = ProgressLine::start(&file, &moved, vec![Arc::clone(&self.storage)], &progress::lines());
        let saving = engine::save_upon(&self.engine, upon, reader, &*self.storage, &file, &options, &moved);
        let report = saving.await?;
        drop(line);
        let recorded = Recorded {
            paused_ms: step.paused.as_secs_f64() * 1e3,
            copied_pages: step.copied_pages,
            changed_pages: step.changed.len(),
        };
        self.writer.add(&report, Some(at.as_secs_f64()), Some(recorded)).await?;
        let step = StepReport { file, at_s: at.as_secs_f64(), recorded, saved: report.into() };
        if !self.quiet {
            output::say(&step.words());
        }
        self.steps.push(step);
        Ok(())
    }
}

impl StepReport {
    fn words(&self) -> String {
        let Recorded { paused_ms, copied_pages, changed_pages } = self.recorded;
        format!(
            "{} at {:.1} s: {changed_pages} pages changed, {copied_pages} copied, paused {paused_ms:.1} ms; {}",
            self.file,
            self.at_s,
            self.saved.words()
        )
    }

    /// For how long the guest stood still, in milliseconds.
    pub(super) fn paused_ms(&self) -> f64 {
        self.recorded.paused_ms
    }
}
