//! The journal: which guests are in our hands, for whoever comes after a crash.
//!
//! One small file for each guest, made durable before anything is done to it and removed when
//! nothing needs to be undone any more.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The kernel's name for this boot: domain numbers mean nothing after another one.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is being done to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A save that destroys the guest.
    Save,
    /// A save after which the guest runs on.
    Checkpoint,
    /// A save after which the guest stays paused.
    Hold,
    /// A restore.
    Restore,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// xl reads the guest out, or in.
    Streaming,
    /// The guest is paused and all of it was read, or written.
    Held,
}

/// A process, told from a later one of the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the kernel's start.
    pub started: u64,
}

impl Process {
    /// The process `pid`, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let dead = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.parse().ok()?;
        (!dead).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// A guest in our hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What is being done.
    pub operation: Operation,
    /// How far it is.
    pub step: Step,
    /// The guest's number; none yet for a guest that is being restored.
    pub domid: Option<u32>,
    /// The guest's uuid.
    pub uuid: String,
    /// The guest's name.
    pub name: String,
    /// Where its image is or will be, as the user wrote it.
    pub image: String,
    /// The image's uuid.
    pub image_uuid: String,
    /// Processor time used when it was held, in tenths of a second.
    pub cpu_deciseconds: Option<u64>,
    /// The same in nanoseconds, if the hypervisor could be asked.
    #[serde(default)]
    pub cpu_ns: Option<u64>,
    /// Who does it.
    pub process: Process,
    /// The xl that does it.
    pub xl: Option<Process>,
    /// This boot's name.
    pub boot: String,
}

impl Entry {
    /// Whether a process still works on it.
    pub fn is_in_work(&self) -> bool {
        self.is_of_this_boot() && self.process.is_alive()
    }

    /// Whether its process is gone, but the xl that it had started has not come to its end.
    pub fn is_ending(&self) -> bool {
        self.is_of_this_boot() && !self.process.is_alive() && self.xl.is_some_and(|xl| xl.is_alive())
    }

    /// Whether the host was not started anew since.
    pub fn is_of_this_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
    }
}

/// This boot's name.
///
/// # Errors
/// When the kernel does not tell.
pub fn boot() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The directory of entries.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal in `state_directory`, which is made if need be, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(state_directory: &Path) -> io::Result<Self> {
        let directory = state_directory.join("journal");
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory })
    }

    /// All entries, and the names of files that cannot be read as one.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> io::Result<(Vec<Entry>, Vec<PathBuf>)> {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
                Ok(Ok(entry)) => entries.push(entry),
                // Removed meanwhile by whoever ended it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => unreadable.push(path),
            }
        }
        entries.sort_by(|a: &Entry, b: &Entry| a.name.cmp(&b.name));
        Ok((entries, unreadable))
    }

    /// The entry of the guest `uuid`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entry(&self, uuid: &str) -> io::Result<Option<Entry>> {
        match fs::read(self.path(uuid)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the first entry of an operation on a guest, durably, unless the guest is in hand
    /// already: then gives the entry that says so. Of two processes that try, one succeeds.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn claim(&self, entry: &Entry) -> io::Result<Option<Entry>> {
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = lock.open(self.directory.join("lock"))?;
        // Held until the file is closed, and never for longer than it takes to write an entry.
        flock(&lock, FlockOperation::LockExclusive)?;
        match self.entry(&entry.uuid)?.filter(Entry::is_of_this_boot) {
            Some(there) => Ok(Some(there)),
            None => self.write(entry).map(|()| None),
        }
    }

    /// Writes `entry`, durably, in place of an older one of the same guest.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let path = self.path(&entry.uuid);
        let temporary = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(entry)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        self.sync()
    }

    /// Removes the entry of the guest `uuid`.
    ///
    /// # Errors
    /// When it cannot be removed; none when there is none.
    pub fn remove(&self, uuid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uuid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// A uuid from a hostile image must not name a file elsewhere: callers give checked uuids.
    fn path(&self, uuid: &str) -> PathBuf {
        self.directory.join(uuid).with_extension("json")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn entry() -> Entry {
        Entry {
            operation: Operation::Save,
            step: Step::Streaming,
            domid: Some(3),
            uuid: "9a4f3b2c-0000-4000-8000-000000000007".to_owned(),
            name: "guest".to_owned(),
            image: "/images/guest.comio".to_owned(),
            image_uuid: "9a4f3b2c-0000-4000-8000-000000000008".to_owned(),
            cpu_deciseconds: None,
            cpu_ns: None,
            process: Process::of(std::process::id()).expect("we run"),
            xl: None,
            boot: boot().expect("the kernel tells"),
        }
    }

    #[test]
    fn what_is_written_is_read_until_it_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(directory.path()).expect("opens");
        let mut entry = entry();
        journal.write(&entry).expect("writes");
        entry.step = Step::Held;
        journal.write(&entry).expect("writes again");
        fs::write(directory.path().join("journal/x.json"), "{").expect("writes");
        let (entries, unreadable) = journal.entries().expect("reads");
        assert_eq!((entries, unreadable.len()), (vec![entry.clone()], 1));
        journal.remove(&entry.uuid).expect("removes");
        journal.remove(&entry.uuid).expect("is gone already");
        assert_eq!(journal.entry(&entry.uuid).expect("reads"), None);
    }

    #[test]
    fn a_guest_is_in_one_hand_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(directory.path()).expect("opens");
        let first = entry();
        assert_eq!(journal.claim(&first).expect("writes"), None);
        let second = Entry { operation: Operation::Restore, ..first.clone() };
        assert_eq!(journal.claim(&second).expect("reads"), Some(first.clone()));
        assert_eq!(journal.entry(&first.uuid).expect("reads"), Some(first.clone()));
        // Another boot's guests are nobody's.
        journal.write(&Entry { boot: "another".to_owned(), ..first }).expect("writes");
        assert_eq!(journal.claim(&second).expect("writes"), None);
    }

    #[test]
    fn a_process_is_its_number_and_its_beginning() {
        let entry = entry();
        assert!(entry.is_in_work());
        let mut other = entry.clone();
        other.process.started += 1;
        assert!(!other.is_in_work());
        other = entry;
        other.boot = "another".to_owned();
        assert!(!other.is_in_work());
    }
}
