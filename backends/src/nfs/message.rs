//! RPC messages: a call's bytes, and what a reply's header says.

use nfs3_types::nfs3::{NFS_PROGRAM, PROGRAM, VERSION};
use nfs3_types::rpc::{RPC_VERSION_2, auth_stat, call_body, msg_body, opaque_auth, rpc_msg};
use nfs3_types::xdr_codec::Pack;

use super::xdr::{Cursor, Malformed};

/// Bytes of the record mark before each record.
pub(super) const MARK_BYTES: usize = 4;
/// Set in the mark of a record's last fragment.
pub(super) const LAST_FRAGMENT: u32 = 0x8000_0000;
/// The longest verifier that RPC allows.
const VERIFIER_BYTES_MAX: usize = 400;

/// A call up to its opaque data: room for the record mark, header, arguments. The
/// connection sets mark and transaction number.
pub(super) fn encode_call(
    procedure: NFS_PROGRAM,
    credential: &opaque_auth<'static>,
    args: &impl Pack,
) -> Vec<u8> {
    let header = rpc_msg {
        xid: 0,
        body: msg_body::CALL(call_body {
            rpcvers: RPC_VERSION_2,
            prog: PROGRAM,
            vers: VERSION,
            proc: procedure as u32,
            cred: credential.borrow(),
            verf: opaque_auth::default(),
        }),
    };
    let mut bytes = Vec::with_capacity(MARK_BYTES + header.packed_size() + args.packed_size());
    bytes.extend_from_slice(&[0; MARK_BYTES]);
    header
        .pack(&mut bytes)
        .and_then(|_| args.pack(&mut bytes))
        .expect("packing into memory fails only beyond 4 GiB");
    bytes
}

/// Completes a call: its transaction number, and the length of the record that it begins.
pub(super) fn address_call(head: &mut [u8], xid: u32, data_len: usize) {
    let record_len = head.len() - MARK_BYTES + data_len.next_multiple_of(4);
    let record_len = u32::try_from(record_len).expect("transfers are bounded to some MiB");
    head[..4].copy_from_slice(&(record_len | LAST_FRAGMENT).to_be_bytes());
    head[4..8].copy_from_slice(&xid.to_be_bytes());
}

/// A call that the server understood to be a call, and did not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the server does not accept the credential ({0:?})")]
    Credential(auth_stat),
    #[error("the server does not speak this version of RPC or NFS")]
    Version,
    #[error("the server does not implement this operation")]
    NotImplemented,
    #[error("the server could not read the call's arguments")]
    Arguments,
    #[error("the server reports an internal error")]
    Internal,
}

/// Reads a reply's header after the transaction number; the results follow if it is `Ok`.
pub(super) fn read_reply_header(cursor: &mut Cursor<'_>) -> Result<Result<(), Refusal>, Malformed> {
    if cursor.u32()? != 1 {
        return Err(Malformed("a call where a reply is due"));
    }
    match cursor.u32()? {
        0 => read_accepted(cursor),
        1 => read_denied(cursor).map(Err),
        _ => Err(Malformed("neither accepted nor denied")),
    }
}

fn read_accepted(cursor: &mut Cursor<'_>) -> Result<Result<(), Refusal>, Malformed> {
    let _flavor = cursor.u32()?;
    cursor.opaque(VERIFIER_BYTES_MAX)?;
    Ok(match cursor.u32()? {
        0 => Ok(()),
        1 | 2 => Err(Refusal::Version),
        3 => Err(Refusal::NotImplemented),
        4 => Err(Refusal::Arguments),
        5 => Err(Refusal::Internal),
        _ => return Err(Malformed("an unknown acceptance")),
    })
}

fn read_denied(cursor: &mut Cursor<'_>) -> Result<Refusal, Malformed> {
    Ok(match cursor.u32()? {
        0 => Refusal::Version,
        1 => Refusal::Credential(cursor.unpack().unwrap_or(auth_stat::AUTH_FAILED)),
        _ => return Err(Malformed("an unknown denial")),
    })
}
