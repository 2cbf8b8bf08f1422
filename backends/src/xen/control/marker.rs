//! What a recording leaves in `/run/comio` while it lasts: which domain it tracks, and whether
//! it holds it paused. A recording that was killed cannot set that right itself; the next one
//! finds its marker, without anybody's lock on it, and does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::interface::Control;

const DIRECTORY: &str = "/run/comio";
const PREFIX: &str = "record-";
const RUNNING: &[u8; 1] = b"r";
const PAUSED: &[u8; 1] = b"p";

/// A marker of ours, locked.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    path: PathBuf,
}

impl Marker {
    /// Makes the marker of a domain, before anything is done to it.
    ///
    /// # Errors
    /// `WouldBlock` while another recording has it.
    pub(super) fn make(domain: u32, uuid: &[u8; 16]) -> io::Result<Self> {
        Self::make_in(Path::new(DIRECTORY), domain, uuid)
    }

    fn make_in(directory: &Path, domain: u32, uuid: &[u8; 16]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{PREFIX}{domain}"));
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        file.write_all(RUNNING)?;
        file.write_all(uuid)?;
        Ok(Self { file, path })
    }

    /// Notes that the domain is, or is about to be, paused by us, or is no more.
    pub(super) fn note(&mut self, paused: bool) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(if paused { PAUSED } else { RUNNING })
    }

    /// Removes it: the domain is as it was.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// A marker that nobody holds.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    domain: u32,
    uuid: [u8; 16],
    paused: bool,
    path: PathBuf,
}

fn left_in(directory: &Path) -> io::Result<Vec<Left>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut left = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let Some(domain) = number else { continue };
        let file = OpenOptions::new().read(true).write(true).open(entry.path())?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let mut bytes = Vec::new();
        (&file).take(64).read_to_end(&mut bytes)?;
        let (state, uuid) = bytes.split_at(bytes.len().min(1));
        // One that was cut off while it was made: nothing was done to the domain yet.
        let Ok(uuid) = uuid.try_into() else {
            fs::remove_file(entry.path())?;
            continue;
        };
        left.push(Left { domain, uuid, paused: state == PAUSED, path: entry.path() });
    }
    Ok(left)
}

/// Whether recordings were killed whose domains nobody has freed yet.
///
/// # Errors
/// When the markers cannot be read.
pub fn are_some_left() -> io::Result<bool> {
    Ok(!left_in(Path::new(DIRECTORY))?.is_empty())
}

/// Frees the domains of recordings that were killed: those that were paused run on, and none is
/// tracked any more. Gives what was done, for people.
///
/// # Errors
/// When the markers cannot be read, or the hypervisor refuses.
pub fn free_those_of_killed(control: &Control) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    for left in left_in(Path::new(DIRECTORY))? {
        let same = control.domain(left.domain)?.filter(|domain| domain.uuid == left.uuid && !domain.dying);
        if let Some(domain) = same {
            let mut words = format!("domain {}, whose recording was killed,", domain.id);
            if left.paused && domain.paused {
                control.unpause(domain.id)?;
                words.push_str(" was still paused and runs on, and");
            }
            // If its tracking was not on, or could never be, this says so and changes nothing.
            let _ = control.end_dirty(domain.id);
            done.push(words + " is not tracked any more");
        }
        fs::remove_file(&left.path)?;
    }
    Ok(done)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_marker_is_left_by_who_cannot_remove_it() {
        let directory = tempfile::tempdir().unwrap();
        let (place, uuid) = (directory.path(), [7; 16]);
        let mut marker = Marker::make_in(place, 5, &uuid).unwrap();
        marker.note(true).unwrap();
        // While it is held it is nobody else's business.
        assert_eq!(left_in(place).unwrap(), []);
        assert_eq!(Marker::make_in(place, 5, &uuid).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(marker);
        let path = place.join("record-5");
        assert_eq!(left_in(place).unwrap(), [Left { domain: 5, uuid, paused: true, path: path.clone() }]);
        let mut marker = Marker::make_in(place, 5, &uuid).unwrap();
        marker.remove().unwrap();
        drop(marker);
        fs::write(&path, "r").unwrap();
        assert_eq!(left_in(place).unwrap(), [], "one that was cut off");
        assert_eq!(left_in(&place.join("nowhere")).unwrap(), []);
    }
}
