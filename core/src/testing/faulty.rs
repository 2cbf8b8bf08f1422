//! Any storage, with one of its mutating calls failing, or the process dying there.
//!
//! A save is run with the first call failing, then with the second, and so on until a run
//! has no call left to fail: then every point of the commit protocol has been tried.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::buffer::{Buffer, Payload};
use crate::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
};

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has done nothing.
    Fail(StorageErrorKind),
    /// It did its work, but reports failure: a lost answer.
    FailAfter(StorageErrorKind),
    /// The process dies before it: it and every later call fails and does nothing.
    Die,
    /// The process dies right after it.
    DieAfter,
}

/// A storage with one fault in it. The mutating calls (create, `write_at`, sync, publish,
/// abandon, remove) are counted from 1.
#[derive(Clone, Debug)]
pub struct FaultyStorage<S> {
    inner: S,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    at_call: u64,
    fault: Fault,
    calls: AtomicU64,
    names: Mutex<Vec<&'static str>>,
}

/// What the plan says about a call that is about to be made.
enum Verdict {
    Proceed,
    Refuse(StorageError),
    ProceedThenFail(StorageError),
}

impl Plan {
    fn enter(&self, action: &'static str) -> Verdict {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(action);
        let error = |kind| StorageError::new(kind, action, "a faulty storage", "the test wants it so");
        let dead = || error(StorageErrorKind::Unreachable);
        match (self.fault, call.cmp(&self.at_call)) {
            (_, std::cmp::Ordering::Less)
            | (Fault::Fail(_) | Fault::FailAfter(_), std::cmp::Ordering::Greater) => Verdict::Proceed,
            (Fault::Die | Fault::DieAfter, std::cmp::Ordering::Greater)
            | (Fault::Die, std::cmp::Ordering::Equal) => Verdict::Refuse(dead()),
            (Fault::Fail(kind), std::cmp::Ordering::Equal) => Verdict::Refuse(error(kind)),
            (Fault::FailAfter(kind), std::cmp::Ordering::Equal) => Verdict::ProceedThenFail(error(kind)),
            (Fault::DieAfter, std::cmp::Ordering::Equal) => Verdict::ProceedThenFail(dead()),
        }
    }

    async fn run<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        match self.enter(action) {
            Verdict::Proceed => call.await,
            Verdict::Refuse(error) => Err(error),
            Verdict::ProceedThenFail(error) => call.await.and(Err(error)),
        }
    }
}

impl<S: Storage> FaultyStorage<S> {
    /// `inner`, whose mutating call number `at_call` meets `fault`.
    pub fn new(inner: S, at_call: u64, fault: Fault) -> Self {
        let plan = Plan { at_call, fault, calls: AtomicU64::new(0), names: Mutex::default() };
        Self { inner, plan: Arc::new(plan) }
    }

    /// Whether the fault was met: if not, the run had fewer mutating calls.
    pub fn was_met(&self) -> bool {
        self.plan.calls.load(Ordering::SeqCst) >= self.plan.at_call
    }

    /// The mutating calls so far, for messages.
    pub fn calls(&self) -> Vec<&'static str> {
        self.plan.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl<S: Storage> Storage for FaultyStorage<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        let inner = self.plan.run("create", self.inner.create(name, options)).await?;
        Ok(Box::new(FaultyWriter { inner, plan: Arc::clone(&self.plan) }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        self.inner.open(name).await
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.inner.list().await
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.plan.run("remove", self.inner.remove(name)).await
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.inner.leftovers().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.inner.free_bytes().await
    }

    fn waiting(&self) -> Option<String> {
        self.inner.waiting()
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    plan: Arc<Plan>,
}

#[async_trait]
impl ObjectWriter for FaultyWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        self.plan.run("write", self.inner.write_at(offset, data)).await
    }

    async fn sync(&self) -> Result<(), StorageError> {
        self.plan.run("sync", self.inner.sync()).await
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        self.inner.read_at(offset, len, buffer).await
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        self.plan.run("publish", self.inner.publish()).await
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        self.plan.run("abandon", self.inner.abandon()).await
    }
}

#[cfg(test)]
mod test {
    use futures::executor::block_on;

    use super::*;
    use crate::testing::MemoryStorage;

    fn options() -> CreateOptions {
        CreateOptions { replace: false, held_bytes_max: 4096, unique: 1 }
    }

    async fn save(storage: &dyn Storage) -> Result<(), StorageError> {
        let writer = storage.create("a", options()).await?;
        writer.write_at(0, Payload::Bytes(Buffer::unpooled(vec![7; 10]))).await?;
        writer.sync().await?;
        writer.publish().await
    }

    #[test]
    fn the_chosen_call_fails_and_has_done_nothing() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone(), 4, Fault::Fail(StorageErrorKind::NoSpace));
        assert_eq!(block_on(save(&storage)).unwrap_err().kind, StorageErrorKind::NoSpace);
        assert_eq!(storage.calls(), ["create", "write", "sync", "publish"]);
        assert!(memory.contents("a").is_none());
    }

    #[test]
    fn a_lost_answer_leaves_the_work_done() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone(), 4, Fault::FailAfter(StorageErrorKind::Unreachable));
        assert!(block_on(save(&storage)).is_err());
        assert_eq!(memory.contents("a").unwrap().len(), 10);
    }

    #[test]
    fn a_dead_process_calls_nothing_more() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone(), 2, Fault::DieAfter);
        let writer = block_on(storage.create("a", options())).unwrap();
        let data = Payload::Bytes(Buffer::unpooled(vec![7; 10]));
        assert!(block_on(writer.write_at(0, data)).is_err());
        assert!(block_on(writer.abandon()).is_err());
        assert_eq!(block_on(memory.leftovers()).unwrap().len(), 1);
        assert!(storage.was_met());
    }
}
