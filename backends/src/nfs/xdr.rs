//! Reading XDR from a peer that may lie.
//!
//! `nfs3_types` allocates whatever length an opaque field announces. Replies with such fields
//! are therefore read with this cursor, which knows how many bytes there are.

use nfs3_types::nfs3::{fattr3, nfsstat3, post_op_attr};
use nfs3_types::xdr_codec::Unpack;

/// A reply that is not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed reply: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// The bytes of a reply not yet read.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.unpack()
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.unpack()
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a boolean is neither 0 nor 1")),
        }
    }

    /// A counted field of at most `len_max` bytes, with its padding.
    pub(super) fn opaque(&mut self, len_max: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if len > len_max {
            return Err(Malformed("a field is longer than the protocol allows"));
        }
        let bytes = self.take(len)?;
        self.take(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }

    /// A value without fields of variable length.
    pub(super) fn unpack<T: Unpack>(&mut self) -> Result<T, Malformed> {
        let (value, _) = T::unpack(&mut self.rest).map_err(|_| Malformed("a value is out of its range"))?;
        Ok(value)
    }

    pub(super) fn attributes(&mut self) -> Result<Option<fattr3>, Malformed> {
        Ok(match self.unpack()? {
            post_op_attr::Some(attributes) => Some(attributes),
            post_op_attr::None => None,
        })
    }

    /// The status every reply begins with.
    pub(super) fn status(&mut self) -> Result<nfsstat3, Malformed> {
        let code = self.u32()?;
        let mut bytes: &[u8] = &code.to_be_bytes();
        // A status that RFC 1813 does not know is an error all the same.
        Ok(nfsstat3::unpack(&mut bytes).map_or(nfsstat3::NFS3ERR_SERVERFAULT, |(status, _)| status))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_announced_length_is_not_believed() {
        let mut cursor = Cursor::new(&[0xff, 0xff, 0xff, 0xf0, 1, 2, 3, 4]);
        assert!(cursor.opaque(usize::MAX).is_err());
        let mut cursor = Cursor::new(&[0, 0, 0, 2, 7, 8, 0, 0, 9]);
        assert_eq!(cursor.opaque(64).unwrap(), [7, 8]);
        assert_eq!(cursor.remaining(), 1);
    }

    #[test]
    fn a_field_longer_than_allowed_is_malformed() {
        let mut cursor = Cursor::new(&[0, 0, 0, 4, 1, 2, 3, 4]);
        assert!(cursor.opaque(3).is_err());
    }

    #[test]
    fn an_unknown_status_is_an_error_of_the_server() {
        let mut cursor = Cursor::new(&[0, 0, 0x77, 0x77]);
        assert_eq!(cursor.status().unwrap(), nfsstat3::NFS3ERR_SERVERFAULT);
    }
}
