//! A local directory as a storage.
//!
//! Objects are files. One that is being written has a temporary name, mode 0600; publishing
//! is fsync of the file (the engine's [`sync`](ObjectWriter::sync)), rename, fsync of the
//! directory. Blocking calls run as jobs on the caller's [`Compute`], so that no thread is
//! added to those the user allowed.

mod errors;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::compute::{self, Compute, Work};
use comio_core::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
    check_name, is_temporary_name, temporary_name,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use errors::Failed;

/// A read call and handing it to a worker take as long as copying so many bytes.
const REQUEST_BYTES: usize = 32 << 10;

/// A directory whose files are images.
#[derive(Clone)]
pub struct LocalStorage {
    directory: Arc<Directory>,
    compute: Arc<dyn Compute>,
}

/// The directory itself, held open: renaming it or mounting over it changes nothing here.
#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl std::fmt::Debug for LocalStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStorage").field("path", &self.directory.path).finish_non_exhaustive()
    }
}

impl LocalStorage {
    /// Opens the directory at `path`, which must exist.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] and others as the system gives them.
    pub fn open(path: &Path, compute: Arc<dyn Compute>) -> Result<Self, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Failed::new("open directory", path.display()).because(errno))?;
        Ok(Self { directory: Arc::new(Directory { fd, path: path.to_owned() }), compute })
    }

    /// Runs `job` on the worker pool with the directory.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Directory) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let directory = Arc::clone(&self.directory);
        run(&*self.compute, move || job(&directory)).await
    }
}

async fn run<T: Send + 'static>(
    compute: &dyn Compute,
    job: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    compute::run(compute, move || (job(), Work::Other)).await.map_err(|error| {
        StorageError::new(StorageErrorKind::Other, "use", "a local directory", error.to_string())
            .with_source(error)
    })?
}

impl Directory {
    fn failed(&self, action: &'static str, name: &str) -> Failed {
        Failed::new(action, self.path.join(name).display())
    }

    fn open_file(&self, action: &'static str, name: &str, flags: OFlags) -> Result<File, StorageError> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| self.failed(action, name).because(errno))
    }

    fn exists(&self, action: &'static str, name: &str) -> Result<bool, StorageError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed(action, name).because(errno)),
        }
    }

    fn unlink(&self, action: &'static str, name: &str) -> Result<(), StorageError> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
            .map_err(|errno| self.failed(action, name).because(errno))
    }

    /// Makes what was done to names durable.
    fn sync(&self, action: &'static str, name: &str) -> Result<(), StorageError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| self.failed(action, name).because(errno))
    }

    fn rename(&self, from: &str, to: &str, replace: bool) -> Result<(), Errno> {
        if replace {
            return rustix::fs::renameat(&self.fd, from, &self.fd, to);
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, flags) {
            // Not every file system knows the flag: a link refuses a name in use just as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())?;
                // It has its name. A temporary one that stays is a leftover, no more.
                let _ = rustix::fs::unlinkat(&self.fd, from, AtFlags::empty());
                Ok(())
            }
            result => result,
        }
    }

    /// Regular files, those being written or the others.
    fn files(&self, temporary: bool) -> Result<Vec<ObjectInfo>, StorageError> {
        let failed = |errno| self.failed("list", "").because(errno);
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Names that are not UTF-8 are no image of ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if is_temporary_name(name) != temporary {
                continue;
            }
            match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    let len = u64::try_from(stat.st_size).unwrap_or(0);
                    let modified_unix_s = u64::try_from(stat.st_mtime).ok();
                    files.push(ObjectInfo { name: name.to_owned(), len, modified_unix_s });
                }
                // Removed meanwhile, or not a file.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("list", name).because(errno)),
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn free_bytes(&self) -> Result<u64, StorageError> {
        let stat = rustix::fs::fstatvfs(&self.fd)
            .map_err(|errno| self.failed("ask the free space of", "").because(errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.directory.path.display().to_string()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        check_name(name, "create")?;
        let name = name.to_owned();
        let temporary = temporary_name(&name, options.unique);
        let replace = options.replace;
        let (wanted, created) = (name.clone(), temporary.clone());
        let file = self
            .run(move |directory| {
                if !replace && directory.exists("create", &wanted)? {
                    return Err(directory.failed("create", &wanted).because(Errno::EXIST));
                }
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                directory.open_file("create", &created, flags)
            })
            .await?;
        let file = Arc::new(file);
        let failed = Arc::default();
        Ok(Box::new(LocalWriter { storage: self.clone(), file, name, temporary, replace, failed }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        check_name(name, "open")?;
        let wanted = name.to_owned();
        let (file, len) = self
            .run(move |directory| {
                // Without waiting for a writer if it is a FIFO: that is refused below.
                let file = directory.open_file("open", &wanted, OFlags::RDONLY | OFlags::NONBLOCK)?;
                let meta = file.metadata().map_err(|e| directory.failed("open", &wanted).io(e))?;
                if !meta.is_file() {
                    return Err(directory.failed("open", &wanted).because(Errno::ISDIR));
                }
                Ok((file, meta.len()))
            })
            .await?;
        let target = self.directory.path.join(name).display().to_string();
        Ok(Box::new(LocalReader { file: Arc::new(file), len, target, compute: Arc::clone(&self.compute) }))
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.run(|directory| directory.files(false)).await
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        if !is_temporary_name(name) {
            check_name(name, "remove")?;
        }
        let name = name.to_owned();
        self.run(move |directory| {
            directory.unlink("remove", &name)?;
            directory.sync("remove", &name)
        })
        .await
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.run(|directory| directory.files(true)).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.run(|directory| directory.free_bytes().map(Some)).await
    }
}

struct LocalWriter {
    storage: LocalStorage,
    file: Arc<File>,
    name: String,
    temporary: String,
    replace: bool,
    /// An fsync failed. The kernel reports such a failure once and may then call the lost
    /// pages clean, so that the next fsync succeeds: nothing here can be trusted any more.
    failed: Arc<AtomicBool>,
}

#[async_trait]
impl ObjectWriter for LocalWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        let data = data.into_bytes()?;
        let (file, name) = (Arc::clone(&self.file), self.name.clone());
        self.storage
            .run(move |directory| {
                file.write_all_at(&data, offset).map_err(|error| {
                    let failed = directory.failed("write", &name).io(error);
                    say_free_space(directory, failed, offset + data.len() as u64)
                })
            })
            .await
    }

    async fn sync(&self) -> Result<(), StorageError> {
        let (file, name, failed) = (Arc::clone(&self.file), self.name.clone(), Arc::clone(&self.failed));
        self.storage
            .run(move |directory| {
                if failed.load(Ordering::Relaxed) {
                    let problem = "an earlier sync failed: what is on the disk cannot be trusted";
                    return Err(directory.failed("sync", &name).corrupt(problem));
                }
                file.sync_all().map_err(|error| {
                    failed.store(true, Ordering::Relaxed);
                    let len = file.metadata().map_or(0, |meta| meta.len());
                    say_free_space(directory, directory.failed("sync", &name).io(error), len)
                })
            })
            .await
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        let target = self.storage.directory.path.join(&self.name).display().to_string();
        read(&*self.storage.compute, Arc::clone(&self.file), target, offset, len, buffer).await
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let Self { storage, name, temporary, replace, .. } = *self;
        storage
            .run(move |directory| {
                directory.rename(&temporary, &name, replace).map_err(|errno| {
                    // The writer is gone with this call: nobody else would clean up. What could
                    // not be removed is a leftover.
                    let _ = directory.unlink("remove", &temporary);
                    match errno {
                        Errno::NOENT => directory.failed("publish", &temporary).because(Errno::STALE),
                        errno => directory.failed("publish", &name).because(errno),
                    }
                })?;
                directory.sync("publish", &name).map_err(|error| {
                    if !replace {
                        let _ = directory.unlink("remove", &name);
                    }
                    errors::in_doubt(error)
                })
            })
            .await
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        let temporary = self.temporary;
        self.storage
            .run(move |directory| match directory.unlink("remove", &temporary) {
                // Somebody else cleaned up already.
                Err(error) if error.kind == StorageErrorKind::NotFound => Ok(()),
                result => result,
            })
            .await
    }
}

/// Adds to an error about space how much was needed and how much is free.
fn say_free_space(directory: &Directory, mut error: StorageError, needed_bytes: u64) -> StorageError {
    if let (StorageErrorKind::NoSpace, Ok(free_bytes)) = (error.kind, directory.free_bytes()) {
        error.problem = format!(
            "{} (the image needs at least {needed_bytes} bytes, {free_bytes} are free)",
            error.problem
        );
    }
    error
}

struct LocalReader {
    file: Arc<File>,
    len: u64,
    target: String,
    compute: Arc<dyn Compute>,
}

#[async_trait]
impl ObjectReader for LocalReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn request_bytes(&self) -> usize {
        REQUEST_BYTES
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        read(&*self.compute, Arc::clone(&self.file), self.target.clone(), offset, len, buffer).await
    }
}

async fn read(
    compute: &dyn Compute,
    file: Arc<File>,
    target: String,
    offset: u64,
    len: usize,
    mut buffer: Buffer,
) -> Result<Payload, StorageError> {
    run(compute, move || {
        file.read_exact_at(&mut buffer.spare()[..len], offset)
            .map_err(|error| Failed::new("read", &target).io(error))?;
        buffer.set_len(len);
        Ok(Payload::Bytes(buffer))
    })
    .await
}

#[cfg(test)]
mod test {
    use comio_core::compute::Inline;

    use super::*;

    /// A directory whose names can be changed, but never made durable.
    fn unsyncable(path: &Path) -> LocalStorage {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        LocalStorage {
            directory: Arc::new(Directory { fd, path: path.to_owned() }),
            compute: Arc::new(Inline),
        }
    }

    #[test]
    fn a_name_that_could_not_be_made_durable_is_in_doubt() {
        let place = tempfile::tempdir().unwrap();
        let storage = unsyncable(place.path());
        for replace in [false, true] {
            let options = CreateOptions { replace, held_bytes_max: 4096, unique: 1 };
            let error = futures::executor::block_on(async {
                storage.create("image", options).await.unwrap().publish().await.unwrap_err()
            });
            assert_eq!(error.kind, StorageErrorKind::InDoubt, "{error}");
            // One that took nothing's place is taken back.
            assert_eq!(place.path().join("image").exists(), replace);
        }
    }

    #[test]
    fn who_removes_a_file_being_written_is_told_of_at_its_end() {
        let place = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(place.path(), Arc::new(Inline)).unwrap();
        let options = CreateOptions { replace: true, held_bytes_max: 4096, unique: 1 };
        let error = futures::executor::block_on(async {
            let writer = storage.create("image", options).await.unwrap();
            storage.remove(&temporary_name("image", 1)).await.unwrap();
            writer.publish().await.unwrap_err()
        });
        assert_eq!(error.kind, StorageErrorKind::Stale);
        assert!(error.to_string().contains("somebody has removed"), "{error}");
    }
}
