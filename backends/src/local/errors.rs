//! The system's errors, by meaning and with what to do about them.

use std::fmt::Display;
use std::io;

use comio_core::storage::{StorageError, StorageErrorKind as Kind};
use rustix::io::Errno;

/// An operation that failed; give it the reason and it is an error.
pub(super) struct Failed {
    action: &'static str,
    target: String,
}

impl Failed {
    pub(super) fn new(action: &'static str, target: impl Display) -> Self {
        Self { action, target: target.to_string() }
    }

    pub(super) fn because(self, errno: Errno) -> StorageError {
        let (kind, problem) = meaning(errno);
        let problem = problem.map_or_else(|| errno.to_string(), str::to_owned);
        StorageError::new(kind, self.action, self.target, problem).with_source(io::Error::from(errno))
    }

    pub(super) fn corrupt(self, problem: &str) -> StorageError {
        StorageError::new(Kind::Corrupt, self.action, self.target, problem)
    }

    pub(super) fn io(self, error: io::Error) -> StorageError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let problem = "it ends before the bytes that were asked for";
            return StorageError::new(Kind::UnexpectedEnd, self.action, self.target, problem);
        }
        match Errno::from_io_error(&error) {
            Some(errno) => self.because(errno),
            None => {
                StorageError::new(Kind::Other, self.action, self.target, error.to_string()).with_source(error)
            }
        }
    }
}

/// A name was given, but nobody knows whether that lasts.
pub(super) fn in_doubt(mut error: StorageError) -> StorageError {
    error.kind = Kind::InDoubt;
    error
        .problem
        .push_str("; the image may be there all the same, now or after a power cut: look with `comio ls`");
    error
}

fn meaning(errno: Errno) -> (Kind, Option<&'static str>) {
    match errno {
        Errno::NOENT => (Kind::NotFound, Some("there is no such file or directory")),
        Errno::NOTDIR => (Kind::NotFound, Some("it is not a directory")),
        Errno::EXIST => (Kind::AlreadyExists, Some("the name is in use; remove it, or ask to replace it")),
        Errno::NOSPC => (Kind::NoSpace, Some("the file system is full; make room or choose another place")),
        Errno::DQUOT => (Kind::NoSpace, Some("the disk quota is used up; have it raised, or make room")),
        Errno::ACCESS | Errno::PERM => {
            (Kind::Permission, Some("permission denied; check owner and mode of the directory"))
        }
        Errno::ROFS => (Kind::ReadOnly, Some("the file system is mounted read-only")),
        Errno::STALE => (Kind::Stale, Some("somebody has removed the file meanwhile")),
        Errno::ISDIR => (Kind::InvalidName, Some("it is not a regular file")),
        Errno::LOOP => (Kind::InvalidName, Some("it is a symbolic link; name the file itself")),
        Errno::NAMETOOLONG => (Kind::InvalidName, Some("the name is too long for this file system")),
        Errno::FBIG => (Kind::NoSpace, Some("the file system or a limit allows no file so large")),
        Errno::IO => {
            (Kind::Other, Some("input/output error: look into the kernel log for the disk's trouble"))
        }
        _ => (Kind::Other, None),
    }
}
