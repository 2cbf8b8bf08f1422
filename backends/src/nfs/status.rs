//! Whether the server answers: kept for progress lines, for `soft` and for the log.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::time::{Instant, now};

/// From when on a silence is worth a word.
const SILENCE_WORTH_TELLING: Duration = Duration::from_secs(2);

/// How long calls are tried on a server that was given up, unless it answers.
const SECOND_LIMIT: Duration = Duration::from_secs(1);

/// What is known about one server, shared by its connections and callers.
#[derive(Debug)]
pub(super) struct Status {
    server: String,
    origin: Instant,
    /// When a byte last went in either direction, in milliseconds after `origin`.
    moved_ms: AtomicU64,
    /// Calls that wait for an answer, and since when there is at least one.
    outstanding: AtomicUsize,
    busy_since_ms: AtomicU64,
    /// Since when every answer is "try again later", in milliseconds after `origin`; 0 for not.
    put_off_since_ms: AtomicU64,
    /// A call was given up, and none was served since.
    given_up: AtomicBool,
    /// Why the last connection was lost, while none has answered since.
    trouble: Mutex<Option<String>>,
}

impl Status {
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            origin: now(),
            moved_ms: AtomicU64::new(0),
            outstanding: AtomicUsize::new(0),
            busy_since_ms: AtomicU64::new(0),
            put_off_since_ms: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            trouble: Mutex::new(None),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes went to or came from the server.
    fn moved(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// A reply came: whatever was wrong with the connections is over.
    pub(super) fn answered(&self) {
        if let Some(trouble) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::info!(server = self.server, was = trouble, "the NFS server answers again");
        }
    }

    /// The server asked to try a call again later.
    pub(super) fn put_off(&self) {
        let now_ms = self.now_ms().max(1);
        let _ = self.put_off_since_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The server did what a call asked for, or said why not.
    pub(super) fn served(&self) {
        self.given_up.store(false, Ordering::Relaxed);
        self.put_off_since_ms.store(0, Ordering::Relaxed);
    }

    /// A connection was lost or could not be made.
    pub(super) fn failed(&self, why: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            tracing::warn!(server = self.server, why, "no connection to the NFS server; trying again");
        }
        *trouble = Some(why.to_owned());
    }

    #[cfg(test)]
    pub(super) fn is_troubled(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why there is no connection, as far as that is known.
    pub(super) fn last_trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone().unwrap_or_else(|| "it is connected, but silent".to_owned())
    }

    /// Counts a call as outstanding until the guard is dropped.
    pub(super) fn begin(&self) -> Outstanding<'_> {
        if self.outstanding.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        Outstanding(self)
    }

    /// How long nothing has moved although there were calls to answer.
    pub(super) fn silence(&self) -> Duration {
        let since_ms = self.moved_ms.load(Ordering::Relaxed).max(self.busy_since_ms.load(Ordering::Relaxed));
        Duration::from_millis(self.now_ms().saturating_sub(since_ms))
    }

    /// How long nothing has moved since then.
    pub(super) fn silence_since(&self, since: Instant) -> Duration {
        let moved = self.origin + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        moved.max(since).elapsed()
    }

    /// A call was given up.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// What a caller that allows `limit` has to bear: not as much again after a call was given up,
    /// or what follows would double the time.
    pub(super) fn limit(&self, limit: Duration) -> Duration {
        if self.given_up.load(Ordering::Relaxed) { limit.min(SECOND_LIMIT) } else { limit }
    }

    /// How much more silence that is.
    pub(super) fn patience_left(&self, limit: Duration) -> Duration {
        self.limit(limit).saturating_sub(self.silence())
    }

    /// See [`Storage::waiting`](comio_core::storage::Storage::waiting).
    pub(super) fn waiting(&self) -> Option<String> {
        if self.outstanding.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let silence = self.silence();
        if silence < SILENCE_WORTH_TELLING {
            return self.putting_off();
        }
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let why = trouble.as_deref().map_or(String::new(), |why| format!(" ({why})"));
        Some(format!("waiting for the NFS server {} for {} s{why}", self.server, silence.as_secs()))
    }
}

impl Status {
    fn putting_off(&self) -> Option<String> {
        let since_ms = self.put_off_since_ms.load(Ordering::Relaxed);
        let put_off = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        let tell = since_ms != 0 && put_off >= SILENCE_WORTH_TELLING;
        tell.then(|| {
            format!("the NFS server {} has asked to try again later for {} s", self.server, put_off.as_secs())
        })
    }
}

/// The same for one connection: others of the server may be well while this one hangs.
#[derive(Debug)]
pub(super) struct Moves {
    pub(super) status: Arc<Status>,
    moved_ms: AtomicU64,
    /// When something last came over it; 0 for never.
    heard_ms: AtomicU64,
    /// A reply has begun and not ended.
    receiving: AtomicBool,
}

impl Moves {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self {
            moved_ms: AtomicU64::new(status.now_ms()),
            heard_ms: AtomicU64::new(0),
            receiving: AtomicBool::new(false),
            status,
        }
    }

    /// Bytes went to the server. Over a connection from which nothing has come yet that says
    /// nothing of the server: the system takes and acknowledges bytes for a program that hangs,
    /// anew with every connection.
    pub(super) fn sent(&self) {
        self.moved_ms.store(self.status.now_ms(), Ordering::Relaxed);
        if self.heard_ms.load(Ordering::Relaxed) != 0 {
            self.status.moved();
        }
    }

    /// Bytes came from the server.
    pub(super) fn received(&self) {
        let now_ms = self.status.now_ms().max(1);
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        self.moved_ms.store(now_ms, Ordering::Relaxed);
        self.status.moved();
    }

    /// A reply has begun, or ended.
    pub(super) fn set_receiving(&self, receiving: bool) {
        self.receiving.store(receiving, Ordering::Relaxed);
    }

    /// How long nothing has come of a reply that has begun: what goes to the server meanwhile does not
    /// bring it on.
    pub(super) fn reply_stands_still(&self) -> Option<Duration> {
        let silence_ms = self.status.now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed));
        self.receiving.load(Ordering::Relaxed).then(|| Duration::from_millis(silence_ms))
    }

    /// How long nothing has moved on it, seen by a call sent at `since`.
    pub(super) fn silence_since(&self, since: Instant) -> Duration {
        let moved = self.status.origin + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        moved.max(since).elapsed()
    }
}

/// A call that waits for its answer.
pub(super) struct Outstanding<'a>(&'a Status);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
