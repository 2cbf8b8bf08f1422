//! The worker pool: the threads on which encoding, decoding and file I/O run.
//!
//! A fixed number of named threads takes jobs from two queues. File I/O goes first: its jobs
//! are short (one batch at most) and every read that waits behind encoding is encoding that
//! cannot begin.
//!
//! The threads are bounded, the queues are not: every job works on a buffer of a
//! [`BufferPool`](comio_core::buffer::BufferPool), which bounds how many there can be. A limit
//! here would be a trap besides: its places could be held by futures that nobody polls while
//! their owner waits for one more.
//!
//! A job that panics fails its own caller with [`ComputeError`]; the thread goes on.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use comio_core::compute::{Compute, ComputeError, Job};
use futures::channel::oneshot;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queues {
    io: VecDeque<Task>,
    compute: VecDeque<Task>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Tasks run outside the lock, so a poisoned queue is still a whole one.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; `None` once the pool is closed.
    fn next(&self) -> Option<Task> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(task) = queues.io.pop_front() {
                return Some(task);
            }
            if let Some(task) = queues.compute.pop_front() {
                return Some(task);
            }
            queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            // The task's channel is dropped by the panic, which is how its caller learns of it.
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
    }
}

/// Threads that run jobs. Dropping the pool forgets the jobs that have not begun and waits for
/// those that have.
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    workers: usize,
}

impl WorkerPool {
    /// A pool of `workers` threads (at least one).
    ///
    /// # Errors
    /// When the operating system gives no more threads.
    pub fn new(workers: usize) -> io::Result<Self> {
        let mut pool = Self::empty(workers.max(1));
        for number in 0..pool.workers {
            let thread = pool.spawn(format!("comio-worker-{number}"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// One thread for a pipe, on which a job may hang for as long as the other end likes:
    /// dropping this pool does not wait for it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_pipe() -> io::Result<Self> {
        let pool = Self::empty(1);
        drop(pool.spawn("comio-pipe".to_owned())?);
        Ok(pool)
    }

    fn empty(workers: usize) -> Self {
        Self { shared: Arc::default(), threads: Vec::new(), workers }
    }

    fn spawn(&self, name: String) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(name).spawn(move || shared.work())
    }

    /// Queues blocking file I/O at once, before any compute job; the handle gives its result.
    ///
    /// A job whose handle is dropped before it began does not run.
    pub fn submit_io<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JobHandle<T> {
        let (task, handle) = with_result(job);
        self.push(|queues| queues.io.push_back(task));
        handle
    }

    fn push(&self, add: impl FnOnce(&mut Queues)) {
        add(&mut self.shared.lock());
        self.shared.wake.notify_one();
    }
}

fn with_result<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> (Task, JobHandle<T>) {
    let (sender, receiver) = oneshot::channel();
    let task = Box::new(move || {
        if !sender.is_canceled() {
            // A caller that went away meanwhile does not want the result.
            let _ = sender.send(job());
        }
    });
    (task, JobHandle { receiver })
}

#[async_trait]
impl Compute for WorkerPool {
    fn workers(&self) -> usize {
        self.workers
    }

    async fn run(&self, job: Job) -> Result<(), ComputeError> {
        let (task, handle) = with_result(job);
        self.push(|queues| queues.compute.push_back(task));
        handle.await.map(|_work| ())
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        let forgotten = {
            let mut queues = self.shared.lock();
            queues.closed = true;
            (std::mem::take(&mut queues.io), std::mem::take(&mut queues.compute))
        };
        drop(forgotten);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A job may own the last reference to its pool; a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                // Panics of jobs were caught, so there is none to learn of.
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPool").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// The result of a job under way.
#[derive(Debug)]
pub struct JobHandle<T> {
    receiver: oneshot::Receiver<T>,
}

impl<T> Future for JobHandle<T> {
    type Output = Result<T, ComputeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map_err(|_| ComputeError)
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use comio_core::compute::{Work, run};
    use futures::FutureExt;
    use futures::executor::block_on;
    use futures::future::join_all;

    use super::*;

    /// Blocks a worker until the sender is dropped.
    fn stopper(pool: &WorkerPool) -> (mpsc::Sender<()>, JobHandle<()>) {
        let (begun_sender, begun) = mpsc::channel();
        let (release, stop) = mpsc::channel();
        let handle = pool.submit_io(move || {
            begun_sender.send(()).unwrap();
            let _ = stop.recv();
        });
        begun.recv().unwrap();
        (release, handle)
    }

    #[test]
    fn jobs_give_their_results() {
        let pool = WorkerPool::new(3).unwrap();
        assert_eq!(pool.workers(), 3);
        let results = block_on(join_all((0..100).map(|i| run(&pool, move || (i * 2, Work::Other)))));
        let results: Vec<i32> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, (0..100).map(|i| i * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_fails_its_job_and_the_pool_survives() {
        let pool = WorkerPool::new(1).unwrap();
        let failed: Result<(), _> = block_on(run(&pool, || panic!("on purpose")));
        assert_eq!(failed, Err(ComputeError));
        assert_eq!(block_on(pool.submit_io(|| -> u8 { panic!("on purpose") })), Err(ComputeError));
        assert_eq!(block_on(pool.submit_io(|| 7)), Ok(7));
    }

    #[test]
    fn never_more_jobs_at_once_than_workers() {
        let pool = WorkerPool::new(2).unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        block_on(join_all((0..50).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            run(&pool, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                ((), Work::Other)
            })
        })));
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn finished_jobs_that_nobody_asks_after_hold_up_no_other() {
        let pool = WorkerPool::new(1).unwrap();
        let mut begun: Vec<_> = (0..100).map(|i| Box::pin(run(&pool, move || (i, Work::Other)))).collect();
        for job in &mut begun {
            // Whether it is done by now does not matter: it is never asked again.
            let _ = job.as_mut().now_or_never();
        }
        assert_eq!(block_on(run(&pool, || (7, Work::Other))), Ok(7));
    }

    #[test]
    fn io_overtakes_waiting_compute_jobs() {
        let pool = WorkerPool::new(1).unwrap();
        let (release, stopped) = stopper(&pool);
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().unwrap().push(name)
        };
        let compute_note = note("compute");
        let mut compute = Box::pin(run(&pool, move || (compute_note(), Work::Other)));
        assert!((&mut compute).now_or_never().is_none());
        let io = pool.submit_io(note("io"));
        drop(release);
        block_on(async {
            stopped.await.unwrap();
            io.await.unwrap();
            compute.await.unwrap();
        });
        assert_eq!(*order.lock().unwrap(), ["io", "compute"]);
    }

    #[test]
    fn a_job_whose_handle_is_dropped_before_it_began_does_not_run() {
        let pool = WorkerPool::new(1).unwrap();
        let (release, stopped) = stopper(&pool);
        let ran = Arc::new(AtomicUsize::new(0));
        let in_job = Arc::clone(&ran);
        drop(pool.submit_io(move || in_job.fetch_add(1, Ordering::SeqCst)));
        drop(release);
        block_on(stopped).unwrap();
        block_on(pool.submit_io(|| ())).unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn dropping_the_pool_fails_waiting_jobs_and_joins_running_ones() {
        let pool = WorkerPool::new(1).unwrap();
        let (release, stopped) = stopper(&pool);
        let waiting = pool.submit_io(|| 1);
        let releasing = thread::Builder::new().spawn(move || drop(release)).unwrap();
        drop(pool);
        // The drop returned, so the running job has ended by now.
        assert_eq!(stopped.now_or_never(), Some(Ok(())));
        // Either it was forgotten, or the worker got to it before the pool was closed.
        assert!(matches!(waiting.now_or_never(), Some(Err(ComputeError) | Ok(1))));
        releasing.join().unwrap();
    }

    #[test]
    fn a_stuck_pipe_does_not_hold_up_its_pools_end() {
        let pool = WorkerPool::for_pipe().unwrap();
        let (release, stopped) = stopper(&pool);
        drop(pool);
        drop(release);
        assert_eq!(block_on(stopped), Ok(()));
    }

    #[test]
    fn a_job_may_hold_the_last_reference_to_its_pool() {
        let pool = Arc::new(WorkerPool::new(1).unwrap());
        let (release, stop) = mpsc::channel::<()>();
        let last = Arc::clone(&pool);
        let handle = pool.submit_io(move || {
            let _ = stop.recv();
            drop(last);
        });
        drop(pool);
        drop(release);
        assert_eq!(block_on(handle), Ok(()));
    }
}
