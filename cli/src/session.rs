//! What a command works with: workers, engine, progress, and the way to stop.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use comio_backends::pool::WorkerPool;
use comio_core::compute::Compute;
use comio_core::ecbc::Method;
use comio_core::engine::{Engine, EngineError, Phase, Progress, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::{EcbcCoder, SegmentCoder};
use comio_core::storage::Storage;
use indicatif::MultiProgress;

use crate::args::Resources;
use crate::location::{Location, Storages};
use crate::progress::{self, ProgressLine};
use crate::signals::Signals;
use crate::total::{Total, TotalLine};

/// After a stop an operation has this long to remove what it has written.
const STOP_LIMIT: Duration = Duration::from_millis(900);
/// And this long when a guest is in its hands: xl waits up to a minute for a guest to answer, and
/// only then can it be let run on.
const GUEST_STOP_LIMIT: Duration = Duration::from_secs(90);
/// The default memory budget: enough for one worker, and what each one takes.
const MEMORY_DEFAULT: usize = 64 << 20;
const MEMORY_A_WORKER: usize = 16 << 20;

/// One command's means.
pub(crate) struct Session {
    pub(crate) pool: Arc<WorkerPool>,
    pub(crate) engine: Engine,
    pub(crate) progress: Arc<Progress>,
    coder: Arc<EcbcCoder>,
    memory: usize,
    /// Where the progress lines of several operations at once stand.
    lines: MultiProgress,
    known: Arc<Storages>,
    /// The storages in use, asked why nothing moves.
    storages: Mutex<Vec<Arc<dyn Storage>>>,
}

impl Session {
    /// For reading images, or where the coder does not matter.
    pub(crate) fn new(resources: &Resources) -> anyhow::Result<Self> {
        Self::with_coder(resources, EcbcCoder::new(Method::Balanced, Placement::Hybrid))
    }

    /// For packing by `method`.
    pub(crate) fn with_coder(resources: &Resources, coder: EcbcCoder) -> anyhow::Result<Self> {
        let workers = match resources.workers {
            Some(workers) => workers.get(),
            None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let memory = resources.memory.map_or(MEMORY_DEFAULT.max(workers * MEMORY_A_WORKER), |size| size.0);
        if memory < Engine::MEMORY_MIN {
            bail!("--memory must be at least {} MiB", Engine::MEMORY_MIN.div_ceil(1 << 20));
        }
        let coder = coder.with_digests(uuid::Uuid::new_v4().into_bytes());
        let pool = Arc::new(WorkerPool::new(workers).context("cannot start the worker threads")?);
        let known = Arc::new(Storages::new(Arc::clone(&pool)));
        Ok(Self::of(pool, Arc::new(coder), memory, progress::lines(), known))
    }

    fn of(
        pool: Arc<WorkerPool>,
        coder: Arc<EcbcCoder>,
        memory: usize,
        lines: MultiProgress,
        known: Arc<Storages>,
    ) -> Self {
        let compute = Arc::clone(&pool) as Arc<dyn Compute>;
        let engine = Engine::new(compute, Arc::clone(&coder) as Arc<dyn SegmentCoder>, memory);
        Self {
            pool,
            engine,
            progress: Arc::default(),
            coder,
            memory,
            lines,
            known,
            storages: Mutex::default(),
        }
    }

    /// The means for one of `count` operations at once, which share workers, memory and connections.
    pub(crate) fn share(&self, count: usize) -> Self {
        let memory = (self.memory / count).max(Engine::MEMORY_MIN);
        let (pool, coder, known) = (&self.pool, &self.coder, &self.known);
        Self::of(Arc::clone(pool), Arc::clone(coder), memory, self.lines.clone(), Arc::clone(known))
    }

    /// The next operation's progress begins at nothing.
    pub(crate) fn begin_next(&mut self) {
        self.progress = Arc::default();
    }

    /// What `text`, a path or URL of an image, means.
    pub(crate) async fn image(&self, text: &str) -> anyhow::Result<Location> {
        let location = self.known.image(text).await?;
        self.watch(&location.storage);
        Ok(location)
    }

    /// The storage that `text`, a directory's path or URL, means.
    pub(crate) async fn directory(&self, text: &str) -> anyhow::Result<Arc<dyn Storage>> {
        let storage = self.known.directory(text).await?;
        self.watch(&storage);
        Ok(storage)
    }

    /// Shows how far `total` is, beside the progress lines of its operations.
    pub(crate) fn show(&self, total: &Arc<Total>) -> TotalLine {
        TotalLine::start(total, &self.lines)
    }

    fn watch(&self, storage: &Arc<dyn Storage>) {
        self.storages.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(storage));
    }

    /// What leads up to an operation, and has nothing in its hands: a stop drops it where it is.
    pub(crate) async fn unless_stopped<T>(
        &self,
        beginning: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            begun = beginning => begun,
            () = self.progress.stopped() => Err(EngineError::Stopped.into()),
        }
    }

    /// Runs `operation` with a progress line on a terminal. A signal, or whoever stops its
    /// progress, ends it: it may clean up for a moment, then it is dropped.
    pub(crate) async fn run<T>(
        &self,
        title: &str,
        operation: impl Future<Output = Result<T, EngineError>>,
    ) -> anyhow::Result<T> {
        let mut operation = std::pin::pin!(operation);
        if let Some(result) = self.until_stopped(title, operation.as_mut()).await? {
            return self.ended(result);
        }
        match within(STOP_LIMIT, operation).await {
            Some(result) => self.ended(result),
            None => Err(unanswered().into()),
        }
    }

    /// As [`run`](Self::run), for an operation that has `guest` in its hands: it is dropped only
    /// when the guest is what it was before, or nothing more can be done for it.
    pub(crate) async fn run_with_guest<T>(
        &self,
        doing: &str,
        guest: &str,
        operation: impl Future<Output = Result<T, EngineError>>,
    ) -> anyhow::Result<T> {
        let mut operation = std::pin::pin!(operation);
        if let Some(result) = self.until_stopped(&format!("{doing} {guest}"), operation.as_mut()).await? {
            return self.ended(result);
        }
        let stopped = now();
        while stopped.elapsed() < GUEST_STOP_LIMIT {
            // The guest was let go before; what is left is the storage's.
            let removing = self.progress.phase() == Phase::Removing;
            if let Some(result) = within(STOP_LIMIT, operation.as_mut()).await {
                return self.ended(result);
            }
            if removing {
                return Err(unanswered().into());
            }
        }
        bail!(
            "{guest} could not be let go within {} s and may be paused: run comio recover; what was written stays as a temporary file (see comio clean)",
            GUEST_STOP_LIMIT.as_secs()
        )
    }

    /// The result of an operation that ended by itself; what a failed one left is told.
    fn ended<T>(&self, result: Result<T, EngineError>) -> anyhow::Result<T> {
        if result.is_err() && self.progress.has_left_something() {
            tell_of_leftover();
        }
        Ok(result?)
    }

    /// Ends when an operation was told to stop, and has had its time to clean up.
    pub(crate) async fn stop_limit(&self) {
        self.progress.stopped().await;
        let _: Option<()> = within(STOP_LIMIT, std::future::pending()).await;
    }

    /// The result of `operation`, or nothing if it was told to stop before.
    async fn until_stopped<T>(
        &self,
        title: &str,
        operation: Pin<&mut impl Future<Output = Result<T, EngineError>>>,
    ) -> anyhow::Result<Option<Result<T, EngineError>>> {
        if self.progress.is_stopping() {
            // No guest must be asked to suspend for nothing.
            return Err(EngineError::Stopped.into());
        }
        let storages = self.storages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _line = ProgressLine::start(title, &self.progress, storages, &self.lines);
        let mut signals = Signals::listen()?;
        tokio::select! {
            result = operation => return Ok(Some(result)),
            () = signals.any() => self.progress.stop(),
            () = self.progress.stopped() => {}
        }
        Ok(None)
    }
}

#[expect(clippy::disallowed_methods, reason = "the program's own limit, after a stop")]
async fn within<T>(limit: Duration, operation: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, operation).await.ok()
}

#[expect(clippy::disallowed_methods, reason = "the program's own limit, after a stop")]
fn now() -> Instant {
    Instant::now()
}

/// The end of an operation whose storage is silent.
fn unanswered() -> EngineError {
    tell_of_leftover();
    EngineError::Stopped
}

fn tell_of_leftover() {
    crate::output::say(
        "comio: the storage did not answer in time; what was written stays as a temporary file (see comio clean)",
    );
}

/// Identity and time of a new image.
#[expect(clippy::disallowed_methods, reason = "core is told the time here")]
pub(crate) fn save_options(replace: bool) -> SaveOptions {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SaveOptions { uuid: uuid::Uuid::new_v4().into_bytes(), created_unix_s: now.as_secs(), replace }
}
