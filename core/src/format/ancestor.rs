//! Ancestors: the images that pages of this one are kept in.
//!
//! The superblock has a table of them; page entries and differences name one by its place
//! there. An ancestor is known by its uuid and by its footer's hash, which through directory
//! and table hashes stands for every entry in it: an ancestor that was replaced or changed is
//! told from the one meant before a page of it is used.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, ImageUuid};

/// The most ancestors an image can have: four bits of an entry name one.
pub const ANCESTORS_MAX: usize = 16;
/// Bytes of the table in the superblock.
pub(crate) const TABLE_LEN: usize = ANCESTORS_MAX * ENTRY_LEN;
/// The longest name that is recorded, in bytes.
pub const NAME_MAX: usize = 96;
const ENTRY_LEN: usize = 128;

/// What an ancestor is to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The guest's earlier image that this one was compared with.
    Parent,
    /// An ancestor of the parent, which still holds pages of this image.
    Ancestor,
    /// A template, whose pages were found by contents.
    Template,
}

impl Role {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Ancestor => "ancestor",
            Self::Template => "template",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Parent => 1,
            Self::Ancestor => 2,
            Self::Template => 3,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Parent),
            2 => Some(Self::Ancestor),
            3 => Some(Self::Template),
            _ => None,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its identity.
    pub uuid: ImageUuid,
    /// The hash in its footer, which stands for its index and through it for its pages.
    pub footer_check: u64,
    /// What it is to the image.
    pub role: Role,
    /// Its name beside the image, where it is looked for first; empty if that was too long.
    pub name: String,
}

impl fmt::Display for Ancestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} (uuid ", self.role.name(), self.name)?;
        for (i, byte) in self.uuid.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        f.write_str(")")
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    uuid: ImageUuid,
    footer_check: U64,
    role: u8,
    name_len: u8,
    reserved: U16,
    reserved_too: U32,
    name: [u8; NAME_MAX],
}

/// The table as it stands in the superblock; rows beyond the sixteenth are left out.
#[expect(clippy::cast_possible_truncation, reason = "names are at most 96 bytes")]
pub(crate) fn to_bytes(ancestors: &[Ancestor]) -> [u8; TABLE_LEN] {
    let mut table = [0; TABLE_LEN];
    for (ancestor, out) in ancestors.iter().zip(table.chunks_exact_mut(ENTRY_LEN)) {
        let recorded = if ancestor.name.len() > NAME_MAX { "" } else { ancestor.name.as_str() };
        let mut name = [0; NAME_MAX];
        name[..recorded.len()].copy_from_slice(recorded.as_bytes());
        let raw = Raw {
            uuid: ancestor.uuid,
            footer_check: U64::new(ancestor.footer_check),
            role: ancestor.role.number(),
            name_len: recorded.len() as u8,
            reserved: U16::ZERO,
            reserved_too: U32::ZERO,
            name,
        };
        out.copy_from_slice(raw.as_bytes());
    }
    table
}

/// Reads `count` rows.
///
/// # Errors
/// Rows that no version writes.
pub(crate) fn parse(table: &[u8], count: u32) -> Result<Vec<Ancestor>, FormatError> {
    let damaged = |problem: &str| FormatError::damaged(0, "the superblock's ancestors", problem);
    let count = usize::try_from(count).ok().filter(|&count| count <= ANCESTORS_MAX);
    let count = count.ok_or_else(|| damaged("there are more than sixteen"))?;
    let rows = table.chunks_exact(ENTRY_LEN).take(count).map(|row| {
        let raw = Raw::read_from_bytes(row).map_err(|_| damaged("cut off"))?;
        let role = Role::from_number(raw.role)
            .ok_or_else(|| FormatError::Unsupported(format!("ancestors of role {}", raw.role)))?;
        let name = raw.name.get(..usize::from(raw.name_len)).ok_or_else(|| damaged("a name is too long"))?;
        let name = std::str::from_utf8(name).map_err(|_| damaged("a name is not UTF-8"))?;
        Ok(Ancestor { uuid: raw.uuid, footer_check: raw.footer_check.get(), role, name: name.to_owned() })
    });
    rows.collect()
}
