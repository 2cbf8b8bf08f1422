//! Modelled cores, and the engine's worker pool on them.

use std::sync::Arc;

use async_trait::async_trait;
use comio_core::compute::{Compute, ComputeError, Job};
use tokio::sync::Semaphore;

use super::clock::Clock;
use super::cost::CodingCosts;
use super::fluid::{Class, Fluid, Link};
use super::usage::Usage;

/// The cores of one machine, shared fairly by all that runs on it.
#[derive(Debug)]
pub struct Cores {
    fluid: Arc<Fluid>,
    link: Link,
    thread: Class,
    count: usize,
}

impl Cores {
    /// That many cores.
    #[expect(clippy::cast_precision_loss, reason = "cores of a machine")]
    pub fn new(clock: &Clock, count: usize) -> Self {
        let fluid = Fluid::new(clock);
        let link = fluid.link(count as f64);
        // A thread runs on one core at a time.
        let thread = fluid.class(&[link], 1.0, 1.0);
        Self { fluid, link, thread, count }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes that many seconds of a core's time, as one thread.
    pub async fn work(&self, seconds: f64) {
        self.fluid.flow(self.thread, seconds).await;
    }

    /// What they were used for, in seconds of a core.
    pub fn usage(&self) -> Usage {
        self.fluid.usage(self.link)
    }
}

/// The engine's worker pool on modelled cores: jobs wait in order for a worker, and take what
/// the cost table says.
pub struct ModelCompute {
    cores: Arc<Cores>,
    costs: CodingCosts,
    workers: Semaphore,
    worker_count: usize,
}

impl ModelCompute {
    /// As many workers as cores.
    pub fn new(cores: Arc<Cores>, costs: CodingCosts) -> Self {
        let worker_count = cores.count();
        Self { cores, costs, workers: Semaphore::new(worker_count), worker_count }
    }
}

impl ModelCompute {
    /// A job that takes that many seconds of a core.
    pub async fn occupy(&self, seconds: f64) {
        // The semaphore is never closed.
        let _worker = self.workers.acquire().await;
        self.cores.work(seconds).await;
    }
}

impl std::fmt::Debug for ModelCompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelCompute").field("workers", &self.worker_count).finish_non_exhaustive()
    }
}

#[async_trait]
impl Compute for ModelCompute {
    fn workers(&self) -> usize {
        self.worker_count
    }

    async fn run(&self, job: Job) -> Result<(), ComputeError> {
        let _worker = self.workers.acquire().await.map_err(|_| ComputeError)?;
        let work = job();
        self.cores.work(self.costs.seconds(&work)).await;
        Ok(())
    }
}
