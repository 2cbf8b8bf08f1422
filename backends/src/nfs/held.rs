//! What was written and is not known to be durable: kept in memory so that it can be sent
//! again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use comio_core::buffer::Buffer;
use nfs3_types::nfs3::writeverf3;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::connection::Connection;

/// A part of a buffer.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) buffer: Arc<Buffer>,
    pub(super) range: Range<usize>,
    /// The buffer's share of what may be held; goes back with its last part.
    pub(super) room: Arc<Room>,
}

/// A share of the bytes that a writer may hold.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Told when the share is free again.
    pub(super) freed: Arc<Notify>,
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_waiters();
    }
}

impl Part {
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// The part of it from `start` on, at most `len_max` bytes.
    pub(super) fn piece(&self, start: usize, len_max: usize) -> Self {
        let start = self.range.start + start;
        let end = self.range.end.min(start + len_max);
        Self { buffer: Arc::clone(&self.buffer), range: start..end, room: Arc::clone(&self.room) }
    }
}

/// A part that the server has taken, UNSTABLE.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) offset: u64,
    pub(super) part: Part,
    /// What the server said when it took it.
    pub(super) verifier: writeverf3,
    /// The connection it was written over. A COMMIT counts for it only if its answer came
    /// over the same: then no restart lies between, even if two lives of the server show
    /// the same verifier (nfs-ganesha's is the second in which it was started).
    pub(super) connection: Arc<Connection>,
}

/// What was written over one connection: numbers and verifiers.
pub(super) type Group = (Arc<Connection>, Vec<(u64, writeverf3)>);

/// All that was written and is not known to be durable, by a number of its own.
#[derive(Debug, Default)]
pub(super) struct Held {
    written: BTreeMap<u64, Written>,
    next_id: u64,
}

impl Held {
    pub(super) fn add(&mut self, written: Written) -> u64 {
        self.next_id += 1;
        self.written.insert(self.next_id, written);
        self.next_id
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.written.keys().copied().collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<Written> {
        self.written.get(&id).cloned()
    }

    /// It is durable, or was written again.
    pub(super) fn release(&mut self, id: u64) {
        self.written.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Those of `ids` by the connection they were written over.
    pub(super) fn by_connection(&self, ids: &[u64]) -> Vec<Group> {
        let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
        for id in ids {
            let Some(written) = self.written.get(id) else { continue };
            let connection = &written.connection;
            let group = groups.entry(connection.id).or_insert_with(|| (Arc::clone(connection), Vec::new()));
            group.1.push((*id, written.verifier));
        }
        groups.into_values().collect()
    }
}
