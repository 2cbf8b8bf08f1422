//! Image format, version 1: what is where in the file. `docs/format.md` is the specification.
//!
//! ```text
//! superblock | segments and frame chunks, any order, 4 KiB aligned | directory | footer
//! ```
//!
//! This module knows bytes and their meaning; it reads and writes no storage.

pub mod ancestor;
pub mod directory;
pub mod entry;
pub mod footer;
pub mod frame;
pub mod placement;
pub mod reference;
pub mod segment;
pub mod superblock;

use crate::PAGE_SIZE;

/// Alignment of everything an image consists of, in bytes.
pub const BLOCK: usize = PAGE_SIZE;

/// Identity of an image, random (RFC 9562 version 4).
pub type ImageUuid = [u8; 16];

/// An image, or bytes said to be one, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are of something else.
    #[error("not a ComIO image: {0}")]
    NotAnImage(String),
    /// Made by a newer ComIO, or with a feature this one lacks.
    #[error("the image needs a newer ComIO: {0}")]
    Unsupported(String),
    /// The bytes differ from what was written.
    #[error("the image is damaged at byte {offset}, in {part}: {problem}")]
    Damaged {
        /// Byte offset in the image.
        offset: u64,
        /// Which part.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Bytes of an ancestor differ from what was written.
    #[error("{part} of its {ancestor} is damaged, at byte {offset} there: {problem}")]
    AncestorDamaged {
        /// Which.
        ancestor: String,
        /// Byte offset in it.
        offset: u64,
        /// Which part.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl FormatError {
    pub(crate) fn damaged(offset: u64, part: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged { offset, part: part.into(), problem: problem.into() }
    }

    /// Whether the bytes are damaged, as opposed to foreign or too new.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::AncestorDamaged { .. })
    }
}

/// Blocks that `len` bytes take.
pub(crate) fn blocks_of(len: usize) -> usize {
    len.div_ceil(BLOCK)
}
