//! Superblock: the first 4 KiB, what the image is.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ancestor::{self, Ancestor, TABLE_LEN};
use super::{BLOCK, FormatError, ImageUuid};
use crate::PAGE_SIZE;
use crate::tape::TapeFormat;

/// First bytes of every image.
pub const MAGIC: [u8; 8] = *b"ComIOimg";
/// The version of the format that this module is.
pub const VERSION: u32 = 1;

/// What the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Identity, random.
    pub uuid: ImageUuid,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub created_unix_s: u64,
    /// What the tape is made of.
    pub tape_format: TapeFormat,
    /// Who made it, at most 32 bytes of UTF-8.
    pub generator: String,
    /// The images that pages of it are kept in, at most
    /// [`ANCESTORS_MAX`](super::ancestor::ANCESTORS_MAX).
    pub ancestors: Vec<Ancestor>,
}

/// Where the table of ancestors stands.
const TABLE_AT: usize = 1024;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    /// Features a reader must know; none in this version of the reader.
    flags: U32,
    uuid: ImageUuid,
    created_unix_s: U64,
    page_size: U32,
    tape_format: U32,
    generator: [u8; 32],
    /// How many ancestors the table names.
    ancestor_count: U32,
    reserved: [u8; TABLE_AT - 84],
    ancestors: [u8; TABLE_LEN],
    reserved_too: [u8; BLOCK - TABLE_AT - TABLE_LEN - 8],
    check: U64,
}

const _: () = assert!(size_of::<Raw>() == BLOCK);

impl Superblock {
    /// The block as it stands in the file.
    #[expect(clippy::cast_possible_truncation, reason = "4096, and at most 16 ancestors")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut generator = [0; 32];
        for (to, from) in generator.iter_mut().zip(self.generator.bytes()) {
            *to = from;
        }
        let mut raw = Raw {
            magic: MAGIC,
            version: U32::new(VERSION),
            flags: U32::ZERO,
            uuid: self.uuid,
            created_unix_s: U64::new(self.created_unix_s),
            page_size: U32::new(PAGE_SIZE as u32),
            tape_format: U32::new(self.tape_format.0),
            generator,
            ancestor_count: U32::new(self.ancestors.len() as u32),
            reserved: [0; TABLE_AT - 84],
            ancestors: ancestor::to_bytes(&self.ancestors),
            reserved_too: [0; BLOCK - TABLE_AT - TABLE_LEN - 8],
            check: U64::ZERO,
        };
        raw.check = U64::new(xxh3_64(&raw.as_bytes()[..BLOCK - 8]));
        raw.as_bytes().to_vec()
    }

    /// Reads the block.
    ///
    /// # Errors
    /// When it is no superblock, is damaged, or needs features this version lacks.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(FormatError::NotAnImage("it does not begin with a superblock".into()));
        }
        let damaged = |problem: &str| FormatError::damaged(0, "the superblock", problem);
        let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| damaged("cut off"))?;
        if raw.check.get() != xxh3_64(&raw.as_bytes()[..BLOCK - 8]) {
            return Err(damaged("its hash differs"));
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Unsupported(format!("format version {}", raw.version)));
        }
        if raw.flags.get() != 0 {
            return Err(FormatError::Unsupported(format!("features {:#x}", raw.flags)));
        }
        if raw.page_size.get() as usize != PAGE_SIZE {
            return Err(FormatError::Unsupported(format!("pages of {} bytes", raw.page_size)));
        }
        let ancestors = ancestor::parse(&raw.ancestors, raw.ancestor_count.get())?;
        let generator = String::from_utf8_lossy(&raw.generator).trim_end_matches('\0').to_owned();
        Ok(Self {
            uuid: raw.uuid,
            created_unix_s: raw.created_unix_s.get(),
            tape_format: TapeFormat(raw.tape_format.get()),
            generator,
            ancestors,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::format::ancestor::Role;

    fn example() -> Superblock {
        Superblock {
            uuid: [9; 16],
            created_unix_s: 1_800_000_000,
            tape_format: TapeFormat::XEN_XL,
            generator: "comio 0.1.0".into(),
            ancestors: vec![
                Ancestor { uuid: [1; 16], footer_check: 2, role: Role::Parent, name: "yesterday".into() },
                Ancestor { uuid: [3; 16], footer_check: 4, role: Role::Template, name: "t".repeat(96) },
            ],
        }
    }

    #[test]
    fn comes_back() {
        assert_eq!(Superblock::parse(&example().to_bytes()), Ok(example()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = example().to_bytes();
        assert_eq!(bytes.len(), BLOCK);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::parse(&bytes).is_err(), "bit {bit}");
        }
    }
}
