//! What the server says, by meaning and with what to do about it.

use comio_core::storage::{StorageError, StorageErrorKind as Kind};
use nfs3_types::nfs3::nfsstat3;
use nfs3_types::rpc::auth_stat;

use super::message::Refusal;
use super::server::ServerError;
use super::xdr::Malformed;

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Status(nfsstat3),
    /// Somebody is giving an image the name, or died while doing so.
    #[error("the name is claimed by {0}")]
    Claimed(String),
    /// Whether the file has its name now could not be found out.
    #[error("{0}")]
    InDoubt(String),
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Self {
        Self::Server(malformed.into())
    }
}

impl Trouble {
    pub(super) fn is(&self, status: nfsstat3) -> bool {
        matches!(self, Self::Status(this) if *this == status)
    }

    /// Whether the server has no such operation at all.
    pub(super) fn is_not_implemented(&self) -> bool {
        matches!(
            self,
            Self::Status(nfsstat3::NFS3ERR_NOTSUPP)
                | Self::Server(ServerError::Refused(Refusal::NotImplemented))
        )
    }

    /// Whether the server has no hard links, or its file system has none: knfsd says then, as the
    /// system does, that it is not permitted. A directory in which we may not write would have
    /// refused the CREATE.
    pub(super) fn is_without_links(&self) -> bool {
        self.is_not_implemented() || self.is(nfsstat3::NFS3ERR_PERM)
    }

    /// The error for people; `who` is the user the server sees.
    pub(super) fn into_error(self, action: &'static str, target: &str, who: &str) -> StorageError {
        let (kind, problem) = match &self {
            Self::Status(status) => status_meaning(*status, who),
            Self::Claimed(claim) => (
                Kind::AlreadyExists,
                format!(
                    "another comio is just taking the name; if none is, one died there: `comio clean` \
                     removes its {claim} an hour later, with --all now"
                ),
            ),
            Self::InDoubt(why) => (
                Kind::InDoubt,
                format!(
                    "{why}; the server may have done it all the same: look with `comio ls` when it answers"
                ),
            ),
            Self::Server(error) => (server_kind(error), server_problem(error)),
        };
        let error = StorageError::new(kind, action, target, problem);
        // The others would say the same once more.
        if let Self::Status(_) = self { error.with_source(self) } else { error }
    }
}

fn server_problem(error: &ServerError) -> String {
    match error {
        ServerError::Refused(Refusal::Credential(auth_stat::AUTH_TOOWEAK)) => format!("{error}; {LOW_PORT}"),
        _ => error.to_string(),
    }
}

/// What servers mean that find a credential too weak.
const LOW_PORT: &str = "it may want calls to come from a port below 1024: run comio as root, without \
                        noresvport in the URL, or export the directory with `insecure` (nfs-ganesha: \
                        PrivilegedPort = false)";

fn server_kind(error: &ServerError) -> Kind {
    match error {
        ServerError::GaveUp { .. } | ServerError::StillDelayed(_) | ServerError::StillLost { .. } => {
            Kind::Unreachable
        }
        ServerError::Refused(Refusal::Credential(_)) => Kind::Permission,
        ServerError::Malformed(_) | ServerError::Refused(_) => Kind::Protocol,
    }
}

fn status_meaning(status: nfsstat3, who: &str) -> (Kind, String) {
    use nfsstat3::{
        NFS3ERR_ACCES, NFS3ERR_BADHANDLE, NFS3ERR_DQUOT, NFS3ERR_EXIST, NFS3ERR_FBIG, NFS3ERR_ISDIR,
        NFS3ERR_NAMETOOLONG, NFS3ERR_NOENT, NFS3ERR_NOSPC, NFS3ERR_NOTDIR, NFS3ERR_PERM, NFS3ERR_ROFS,
        NFS3ERR_STALE,
    };
    let (kind, problem) = match status {
        NFS3ERR_NOENT => (Kind::NotFound, "there is no such file or directory on the server"),
        NFS3ERR_NOTDIR => (Kind::NotFound, "a part of the path is not a directory"),
        NFS3ERR_EXIST => (Kind::AlreadyExists, "the name is in use; remove it, or ask to replace it"),
        NFS3ERR_NOSPC => (Kind::NoSpace, "the server's file system is full; make room there"),
        NFS3ERR_DQUOT => {
            (Kind::NoSpace, "the user's quota on the server is used up; have it raised, or make room")
        }
        NFS3ERR_FBIG => (Kind::NoSpace, "the server's file system allows no file so large"),
        NFS3ERR_ACCES | NFS3ERR_PERM => return (Kind::Permission, permission(who)),
        NFS3ERR_ROFS => (Kind::ReadOnly, "the export is read-only; export it read-write, or use another"),
        NFS3ERR_STALE | NFS3ERR_BADHANDLE => (
            Kind::Stale,
            "the server does not know the file any more: somebody has removed it, or the export changed",
        ),
        NFS3ERR_ISDIR => (Kind::InvalidName, "it is a directory"),
        NFS3ERR_NAMETOOLONG => (Kind::InvalidName, "the name is too long for the server"),
        _ => return (Kind::Other, format!("the server answers {status}; its log may say more")),
    };
    (kind, problem.to_owned())
}

fn permission(who: &str) -> String {
    let squash = if who.starts_with("user 0 ") {
        "; servers turn root into nobody unless the export has no_root_squash"
    } else {
        ""
    };
    format!(
        "the server does not allow {who} to do this{squash}; check owner and mode of the directory, or give \
         another uid= and gid= in the URL"
    )
}
