//! The `Compute` port: where CPU work runs.
//!
//! Really on a bounded pool of threads, or in the testbed on modelled cores that are charged
//! what the job says it did. If compression were free in virtual time, the testbed would
//! answer the wrong question.

use async_trait::async_trait;
use futures::channel::oneshot;

use crate::ecbc::Tally;

/// What a job did, so that a model can charge for it.
#[derive(Debug, Clone, Default)]
pub enum Work {
    /// Pages classified and encoded.
    Encode(Tally),
    /// Pages fetched from an encoded segment and decoded.
    Decode(Tally),
    /// Anything small beside these.
    #[default]
    Other,
}

/// A CPU job, boxed.
pub type Job = Box<dyn FnOnce() -> Work + Send>;

/// A bounded set of cores.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Compute: Send + Sync {
    /// How many jobs run at once.
    fn workers(&self) -> usize;

    /// Runs `job` to its end. Dropping the future does not stop a job that has begun.
    ///
    /// # Errors
    /// [`ComputeError`] when the job panicked or the pool is gone.
    async fn run(&self, job: Job) -> Result<(), ComputeError>;
}

/// A job that did not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a compute job did not finish: it panicked, or the worker pool was shut down")]
pub struct ComputeError;

/// Runs `job` on `compute` and gives its result.
///
/// # Errors
/// As [`Compute::run`].
pub async fn run<T: Send + 'static>(
    compute: &dyn Compute,
    job: impl FnOnce() -> (T, Work) + Send + 'static,
) -> Result<T, ComputeError> {
    let (sender, receiver) = oneshot::channel();
    let boxed: Job = Box::new(move || {
        let (result, work) = job();
        // The receiver is gone only when the caller was cancelled: nobody wants the result.
        let _ = sender.send(result);
        work
    });
    compute.run(boxed).await?;
    receiver.await.map_err(|_| ComputeError)
}

/// Runs every job at once on the calling thread: for tests and for callers without a pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

#[async_trait]
impl Compute for Inline {
    fn workers(&self) -> usize {
        1
    }

    async fn run(&self, job: Job) -> Result<(), ComputeError> {
        job();
        Ok(())
    }
}
