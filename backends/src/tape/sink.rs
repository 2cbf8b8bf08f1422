//! Where rebuilt tapes are written: a regular file, by several jobs at once, or a pipe, in
//! order.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comio_core::buffer::Buffer;
use comio_core::compute::Compute;
use comio_core::tape::TapeError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{io_error, is_stdio, pipe_thread};
use crate::pool::{JobHandle, WorkerPool};

/// Writes under way at once; each may hold a batch's buffer.
const WRITES_MAX: usize = 4;

/// Temporary names tried.
const ATTEMPTS_MAX: u32 = 100;

#[derive(Debug)]
pub(super) struct Sink {
    name: String,
    file: Arc<File>,
    threads: Arc<WorkerPool>,
    /// A regular file is written under a temporary name, at offsets.
    regular: Option<Regular>,
    writes: VecDeque<JobHandle<io::Result<()>>>,
    writes_max: usize,
}

#[derive(Debug)]
struct Regular {
    temporary: Temporary,
    target: PathBuf,
    replace: bool,
    offset: u64,
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Sink {
    pub(super) async fn open(path: &Path, replace: bool, pool: &Arc<WorkerPool>) -> Result<Self, TapeError> {
        let owned = path.to_owned();
        if is_stdio(path) {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let name = "standard output";
            let file = File::from(stdout.map_err(io_error("open", name))?);
            return Ok(Self::new(name.to_owned(), file, pipe_thread(name)?, None));
        }
        let name = path.display().to_string();
        let special = pool.submit_io(move || fs::metadata(owned).is_ok_and(|metadata| !metadata.is_file()));
        let owned = path.to_owned();
        if special.await? {
            // Opening a FIFO waits for its reader.
            let thread = pipe_thread(&name)?;
            let opened = thread.submit_io(move || OpenOptions::new().write(true).open(owned)).await?;
            return Ok(Self::new(name.clone(), opened.map_err(io_error("open", &name))?, thread, None));
        }
        let created = pool.submit_io(move || create(&owned, replace)).await?;
        let (file, regular) = created.map_err(io_error("create", &name))?;
        Ok(Self::new(name, file, Arc::clone(pool), Some(regular)))
    }

    /// Into a pipe.
    pub(super) fn pipe(name: String, file: File) -> Result<Self, TapeError> {
        let thread = pipe_thread(&name)?;
        Ok(Self::new(name, file, thread, None))
    }

    fn new(name: String, file: File, threads: Arc<WorkerPool>, regular: Option<Regular>) -> Self {
        let writes_max = threads.workers().clamp(2, WRITES_MAX);
        Self { name, file: Arc::new(file), threads, regular, writes: VecDeque::new(), writes_max }
    }

    /// Begins writing `head` and then `pages` after all that was written before, and waits only
    /// if too much is under way. The error may be an earlier write's.
    pub(super) async fn write(&mut self, head: Vec<u8>, pages: Option<Buffer>) -> Result<(), TapeError> {
        self.wait_until(self.writes_max - 1).await?;
        let len = head.len() + pages.as_ref().map_or(0, |pages| pages.len());
        if len == 0 {
            return Ok(());
        }
        let offset = self.regular.as_mut().map(|regular| {
            let offset = regular.offset;
            regular.offset += len as u64;
            offset
        });
        let file = Arc::clone(&self.file);
        self.writes.push_back(self.threads.submit_io(move || {
            let pages = pages.as_deref().unwrap_or_default();
            match offset {
                Some(offset) => {
                    file.write_all_at(&head, offset)?;
                    file.write_all_at(pages, offset + head.len() as u64)
                }
                None => (&*file).write_all(&head).and_then(|()| (&*file).write_all(pages)),
            }
        }));
        Ok(())
    }

    /// Waits for all writes; a regular file then gets its name.
    pub(super) async fn finish(&mut self) -> Result<(), TapeError> {
        self.wait_until(0).await?;
        if let Some(regular) = self.regular.take() {
            let renamed = self.threads.submit_io(move || regular.publish()).await?;
            renamed.map_err(io_error("create", &self.name))?;
        }
        Ok(())
    }

    async fn wait_until(&mut self, count: usize) -> Result<(), TapeError> {
        while self.writes.len() > count
            && let Some(write) = self.writes.front_mut()
        {
            let written = write.await;
            self.writes.pop_front();
            written?.map_err(io_error("write", &self.name))?;
        }
        Ok(())
    }
}

impl Regular {
    fn publish(mut self) -> io::Result<()> {
        let (from, to) = (&self.temporary.path, &self.target);
        if self.replace {
            fs::rename(from, to)?;
            self.temporary.renamed = true;
            return Ok(());
        }
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => self.temporary.renamed = true,
            // File systems without it (NFS): the link fails if the name is taken, and dropping
            // the temporary removes its other name.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::hard_link(from, to)?,
            Err(Errno::EXIST) => return Err(exists_error()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn create(path: &Path, replace: bool) -> io::Result<(File, Regular)> {
    // Through a symbolic link (such as /dev/stdout) the file is meant, not the link.
    let exists = path.exists();
    let target = if exists { path.canonicalize()? } else { path.to_owned() };
    if exists && !replace {
        return Err(exists_error());
    }
    let (file, temporary) = create_temporary(&target)?;
    Ok((file, Regular { temporary, target, replace, offset: 0 }))
}

fn exists_error() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "it exists; leave out --no-clobber to replace it")
}

/// A new file beside `target`. Names may be taken by a crashed process that had our number, so
/// a few are tried.
fn create_temporary(target: &Path) -> io::Result<(File, Temporary)> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    for attempt in 0..ATTEMPTS_MAX {
        let mut temporary_name = OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}-{attempt}.comio-part", std::process::id()));
        let path = target.with_file_name(temporary_name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((file, Temporary { path, renamed: false })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
