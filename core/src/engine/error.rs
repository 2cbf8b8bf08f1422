//! What can go wrong in the engine.

use super::consumed::Consumed;
use super::lineage::AncestorProblem;
use crate::buffer::{BudgetTooSmall, NotBytes};
use crate::compute::ComputeError;
use crate::format::FormatError;
use crate::format::ancestor::Ancestor;
use crate::hypervisor::HypervisorError;
use crate::segment::SegmentError;
use crate::storage::{StorageError, StorageErrorKind};
use crate::tape::TapeError;

/// A save, restore or other operation on an image that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The guest's tape.
    #[error(transparent)]
    Tape(TapeError),
    /// The image.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The batch does not fit its segment.
    #[error(transparent)]
    Segment(SegmentError),
    /// The memory budget.
    #[error(transparent)]
    Budget(#[from] BudgetTooSmall),
    /// The worker pool.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// A simulated payload where bytes are needed.
    #[error(transparent)]
    NotBytes(#[from] NotBytes),
    /// More than the format can count.
    #[error("the guest has more than 2^32 segments")]
    TooLarge,
    /// The image holds no such page.
    #[error("the image has no page {pfn}")]
    NoSuchPage {
        /// The pfn asked for.
        pfn: u64,
    },
    /// The image was recovered from a damaged one and lacks parts.
    #[error("the image is incomplete: {0}")]
    Incomplete(String),
    /// Pages are kept in an ancestor that cannot be used.
    #[error("pages of the image are kept in its {ancestor}: {problem}")]
    Ancestor {
        /// Which.
        ancestor: Box<Ancestor>,
        /// Why not.
        problem: AncestorProblem,
    },
    /// The image given as a template is none.
    #[error("{0}")]
    NotATemplate(String),
    /// The image of this name was restored before, or its guest went on after it was taken.
    #[error(
        "{0} must not be restored: {1}. Two guests on one disk corrupt it; if the other one is gone for good, and its disk is as it was when the image was taken, --force restores it"
    )]
    AlreadyConsumed(String, Box<Consumed>),
    /// The user stopped it.
    #[error("stopped")]
    Stopped,
    /// The guest could not be put back to running after another failure.
    #[error("{failure}; and then the guest could not be resumed: {resume}")]
    StillHeld {
        /// The first failure.
        failure: Box<EngineError>,
        /// Why it was not resumed.
        resume: HypervisorError,
    },
    /// What there was of a guest could not be removed after its restore had failed.
    #[error("{failure}; and then what there was of the guest could not be removed: {discard}")]
    HalfMade {
        /// The first failure.
        failure: Box<EngineError>,
        /// Why it was not removed.
        discard: HypervisorError,
    },
}

impl EngineError {
    /// Whether the image is damaged, as opposed to any other failure.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Format(error) => error.is_damage(),
            Self::Incomplete(_) => true,
            Self::HalfMade { failure, .. } => failure.is_damage(),
            Self::Ancestor { problem, .. } => problem.is_damage(),
            // The frame is part of the image: a tape that cannot be put together is damage.
            Self::Tape(error) => matches!(error, TapeError::Inconsistent(_)),
            Self::Storage(error) => {
                matches!(error.kind, StorageErrorKind::UnexpectedEnd | StorageErrorKind::Corrupt)
            }
            _ => false,
        }
    }
}

impl From<TapeError> for EngineError {
    fn from(error: TapeError) -> Self {
        match error {
            TapeError::Image(error) => *error,
            other => Self::Tape(other),
        }
    }
}

impl From<SegmentError> for EngineError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Format(error) => Self::Format(error),
            SegmentError::NotBytes(error) => Self::NotBytes(error),
            other @ SegmentError::WrongBatch { .. } => Self::Segment(other),
        }
    }
}
