//! The one place where the NFS client reads the clock, waits and starts a task.

use std::future::Future;
use std::time::Duration;

pub(super) use tokio::time::Instant;

pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "deadlines of a network client are real time")]
pub(super) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// `None` when `future` did not end in time; it is dropped then.
#[expect(clippy::disallowed_methods, reason = "deadlines of a network client are real time")]
pub(super) async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Starts the owner task of a connection: it must live on when a caller is cancelled in the
/// middle of a record, or the connection would be poisoned.
#[expect(clippy::disallowed_methods, reason = "owner tasks are started here and nowhere else")]
pub(super) fn spawn_owner(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}
