//! The tape: a guest as the engine sees it.
//!
//! An ordered sequence of *frame* bytes (everything that is not page contents, in a coding of
//! the source's own, opaque here) and *batches* of pages. Writing the same items back in the
//! same order gives the source's bytes again, bit for bit.

use async_trait::async_trait;

use crate::buffer::{BufferPool, Payload};

/// What produced a tape, recorded in the image so that the right writer puts it back together.
/// The engine does not interpret it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TapeFormat(pub u32);

impl TapeFormat {
    /// Of an image whose superblock was lost: pages can be extracted, the tape not restored.
    pub const UNKNOWN: Self = Self(0);
    /// A flat file of pages: page `n` is pfn `n`; frame bytes are what follows the last whole page.
    pub const RAW: Self = Self(1);
    /// A Xen save file as `xl save` writes it; frame coding version 1 of `backends::xen`.
    pub const XEN_XL: Self = Self(2);
}

/// The pfns of a batch, in the order of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pfns {
    /// `first, first + 1, …`
    Run {
        /// The first pfn.
        first: u64,
        /// How many.
        count: usize,
    },
    /// Any pfns in any order.
    List(Vec<u64>),
}

impl Pfns {
    /// A run where the list is one.
    pub fn from_list(list: Vec<u64>) -> Self {
        let first = list.first().copied().unwrap_or(0);
        let is_run = list.iter().zip(0u64..).all(|(&pfn, i)| first.checked_add(i) == Some(pfn));
        if is_run { Self::Run { first, count: list.len() } } else { Self::List(list) }
    }

    /// How many pages.
    pub fn count(&self) -> usize {
        match self {
            Self::Run { count, .. } => *count,
            Self::List(list) => list.len(),
        }
    }

    /// The pfn of page `index`.
    pub fn get(&self, index: usize) -> Option<u64> {
        match self {
            Self::Run { first, count } => (index < *count).then(|| first + index as u64),
            Self::List(list) => list.get(index).copied(),
        }
    }

    /// The pfns in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (first, run, list) = match self {
            Self::Run { first, count } => (*first, *count, &[][..]),
            Self::List(list) => (0, 0, list.as_slice()),
        };
        (0..run as u64).map(move |i| first + i).chain(list.iter().copied())
    }
}

/// Up to [`SEGMENT_PAGES`](crate::SEGMENT_PAGES) pages that are encoded together.
#[derive(Debug)]
pub struct Batch {
    /// Which pages.
    pub pfns: Pfns,
    /// Their contents, `pfns.count() × 4096` bytes.
    pub pages: Payload,
}

/// One step of the tape.
#[derive(Debug)]
pub enum TapeItem {
    /// Bytes that are not page contents. Small pieces are welcome: the engine gathers them.
    Frame(Vec<u8>),
    /// Page contents.
    Batch(Batch),
}

/// The reading end of a guest: a hypervisor's save stream, a file, a recorded trace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait GuestReader: Send {
    /// What the tape is made of.
    fn format(&self) -> TapeFormat;

    /// Guest memory in bytes if known beforehand, for progress and free-space checks.
    fn size_hint(&self) -> Option<u64>;

    /// The next item, its page contents in a slot of `pool`; `None` at the end. An end that
    /// comes too early for the source's format is an error, not `None`.
    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError>;
}

/// The writing end: takes the items of a [`GuestReader`] back in the same order.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait GuestWriter: Send {
    /// Takes the next item.
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError>;

    /// The tape is complete: flushes whatever is held back.
    async fn finish(&mut self) -> Result<(), TapeError>;
}

/// A tape that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapeError {
    /// The source is not what its format says.
    #[error("the {format} is damaged at byte {offset}, in {record}: {problem}")]
    Malformed {
        /// The format's name, for people.
        format: &'static str,
        /// Byte offset in the source.
        offset: u64,
        /// Which part or record.
        record: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The source ended too early.
    #[error("the {format} ends at byte {offset}, inside {record}")]
    Truncated {
        /// The format's name, for people.
        format: &'static str,
        /// Where it ended.
        offset: u64,
        /// Which part or record was being read.
        record: String,
    },
    /// Items came in an order that the format does not allow (a damaged image's frame).
    #[error("the tape cannot be put together again: {0}")]
    Inconsistent(String),
    /// The operating system refused.
    #[error("cannot {action} {target}")]
    Io {
        /// What was tried ("read", "write", …).
        action: &'static str,
        /// On what.
        target: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The memory budget cannot hold one batch.
    #[error(transparent)]
    Budget(#[from] crate::buffer::BudgetTooSmall),
    /// A simulated payload reached a real writer.
    #[error(transparent)]
    NotBytes(#[from] crate::buffer::NotBytes),
    /// The tape is another image's, and that cannot be read.
    #[error(transparent)]
    Image(Box<crate::engine::EngineError>),
    /// The worker pool is gone.
    #[error(transparent)]
    Compute(#[from] crate::compute::ComputeError),
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn consecutive_pfns_become_a_run() {
        assert_eq!(Pfns::from_list(vec![7, 8, 9]), Pfns::Run { first: 7, count: 3 });
        assert_eq!(Pfns::from_list(vec![7, 9]), Pfns::List(vec![7, 9]));
        assert_eq!(Pfns::from_list(vec![u64::MAX, 0]), Pfns::List(vec![u64::MAX, 0]));
    }

    #[test]
    fn iter_gives_pfns_in_order() {
        assert_eq!(Pfns::Run { first: 3, count: 2 }.iter().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(Pfns::List(vec![9, 1]).iter().collect::<Vec<_>>(), [9, 1]);
    }
}
