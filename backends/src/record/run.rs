//! A recording from its first step to its last.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::tape::GuestReader;

use super::{LiveGuest, RecordError, Recorder, Step};
use crate::pool::WorkerPool;
use crate::tape;

/// When steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// From one step to the next.
    pub every: Duration,
    /// From when the first step, the whole guest, is written; a step at the very end is taken.
    pub lasts: Duration,
}

/// Time, for a recording.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Time since any fixed moment.
    fn now(&self) -> Duration;

    /// Waits until then, if it is not past; `false` if there shall be no further step.
    async fn sleep_until(&self, moment: Duration) -> bool;
}

/// Where steps go.
#[async_trait]
pub trait StepSink: Send {
    /// Writes a step that was taken so long after the first one (`at`); `reader` gives all of the
    /// guest's memory.
    async fn write(
        &mut self,
        step: &Step,
        at: Duration,
        reader: &mut dyn GuestReader,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Records step after step until the plan is done. What blocks is done on `thread`, which
/// serves nothing else; pages are read back on `workers`. When writing takes longer than
/// `plan.every`, the next step comes as soon as it is done.
///
/// However it ends, the guest runs and is not tracked any more.
///
/// # Errors
/// Any of [`RecordError`]; the steps that the sink has taken are whole.
pub async fn run<G: LiveGuest + 'static>(
    recorder: Recorder<G>,
    thread: &WorkerPool,
    workers: &Arc<WorkerPool>,
    sink: &mut dyn StepSink,
    pace: &dyn Pace,
    plan: Plan,
) -> Result<(), RecordError> {
    let mut recorder = recorder;
    let mut first = None;
    let (mut begun, mut due, mut number) = (pace.now(), Duration::ZERO, 0);
    while due <= plan.lasts && pace.sleep_until(begun + due).await {
        let (back, taken) = thread
            .submit_io(move || {
                let taken = recorder.step();
                (recorder, taken)
            })
            .await?;
        recorder = back;
        let step = taken?;
        let at = step.moment.saturating_sub(*first.get_or_insert(step.moment));
        let mut reader = tape::flat_file(recorder.file(), recorder.page_count(), workers);
        sink.write(&step, at, &mut *reader)
            .await
            .map_err(|problem| RecordError::Sink { step: number, problem })?;
        if number == 0 {
            begun = pace.now();
        }
        number += 1;
        due = (due + plan.every).max(pace.now().saturating_sub(begun));
    }
    thread.submit_io(move || recorder.end()).await?
}
