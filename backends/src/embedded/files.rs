//! A flat local directory as the file system of an embedded server.
//!
//! A file's handle is its inode number, so it outlives renames and restarts.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nfs3_server::nfs3_types::nfs3::{
    Nfs3Option, createverf3, fattr3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3, specdata3,
    stable_how,
};
use nfs3_server::vfs::{
    DirEntryPlus, FileHandleU64, NextResult, NfsFileSystem, NfsReadFileSystem, ReadDirPlusIterator,
};

/// Handle of the directory; no file has inode number 1 (the kernel uses it for bad blocks).
const ROOT: u64 = 1;
/// Files kept open: more are opened again when they are used again.
const OPEN_MAX: usize = 256;

/// The files of one directory.
#[derive(Debug)]
pub struct DirectoryFiles {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    open: BTreeMap<u64, Arc<File>>,
    /// Verifiers of exclusive creates, so that a repeated one succeeds.
    verifiers: BTreeMap<u64, createverf3>,
}

impl DirectoryFiles {
    /// The files of `path`, which must be a directory.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        std::fs::read_dir(&path)?;
        Ok(Self { path, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, name: &filename3<'_>) -> Result<PathBuf, nfsstat3> {
        let name: &[u8] = name.as_ref();
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err(nfsstat3::NFS3ERR_INVAL);
        }
        Ok(self.path.join(std::ffi::OsStr::from_bytes(name)))
    }

    /// Opens a file and remembers it.
    fn open_path(&self, path: &Path) -> Result<u64, nfsstat3> {
        let meta = path.symlink_metadata().map_err(status)?;
        if !meta.is_file() {
            return Err(nfsstat3::NFS3ERR_INVAL);
        }
        let id = meta.ino();
        if self.known().open.contains_key(&id) {
            return Ok(id);
        }
        let both = OpenOptions::new().read(true).write(true).open(path);
        let file = both.or_else(|_| File::open(path)).map_err(status)?;
        self.remember(&file)
    }

    fn remember(&self, file: &File) -> Result<u64, nfsstat3> {
        let id = file.metadata().map_err(status)?.ino();
        let file = Arc::new(file.try_clone().map_err(status)?);
        let mut known = self.known();
        if known.open.len() >= OPEN_MAX {
            known.open.pop_first();
        }
        known.open.insert(id, file);
        Ok(id)
    }

    fn file(&self, handle: FileHandleU64) -> Result<Arc<File>, nfsstat3> {
        let id = handle.as_u64();
        if id == ROOT {
            return Err(nfsstat3::NFS3ERR_ISDIR);
        }
        if let Some(file) = self.known().open.get(&id) {
            return Ok(Arc::clone(file));
        }
        for entry in std::fs::read_dir(&self.path).map_err(status)?.flatten() {
            if entry.metadata().is_ok_and(|meta| meta.ino() == id) {
                self.open_path(&entry.path())?;
            }
        }
        self.known().open.get(&id).cloned().ok_or(nfsstat3::NFS3ERR_STALE)
    }

    fn attributes(&self, handle: FileHandleU64) -> Result<fattr3, nfsstat3> {
        if handle.as_u64() == ROOT {
            return Ok(attributes(ROOT, &self.path.metadata().map_err(status)?));
        }
        let meta = self.file(handle)?.metadata().map_err(status)?;
        Ok(attributes(meta.ino(), &meta))
    }

    /// The handle of a name that is about to go away: its file is to be closed then.
    fn forget(&self, path: &Path) {
        let Ok(meta) = path.symlink_metadata() else { return };
        let mut known = self.known();
        known.open.remove(&meta.ino());
        known.verifiers.remove(&meta.ino());
    }

    fn names(&self) -> Result<Vec<(u64, PathBuf)>, nfsstat3> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(status)?.flatten() {
            // Removed meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            names.push((meta.ino(), entry.path()));
        }
        names.sort();
        Ok(names)
    }
}

/// By value, as `map_err` gives it.
#[expect(clippy::needless_pass_by_value, reason = "it is always the end of an error")]
fn status(error: io::Error) -> nfsstat3 {
    match error.kind() {
        io::ErrorKind::NotFound => nfsstat3::NFS3ERR_NOENT,
        io::ErrorKind::AlreadyExists => nfsstat3::NFS3ERR_EXIST,
        io::ErrorKind::PermissionDenied => nfsstat3::NFS3ERR_ACCES,
        io::ErrorKind::StorageFull => nfsstat3::NFS3ERR_NOSPC,
        io::ErrorKind::QuotaExceeded => nfsstat3::NFS3ERR_DQUOT,
        io::ErrorKind::ReadOnlyFilesystem => nfsstat3::NFS3ERR_ROFS,
        io::ErrorKind::InvalidFilename => nfsstat3::NFS3ERR_NAMETOOLONG,
        io::ErrorKind::IsADirectory => nfsstat3::NFS3ERR_ISDIR,
        io::ErrorKind::FileTooLarge => nfsstat3::NFS3ERR_FBIG,
        _ => nfsstat3::NFS3ERR_IO,
    }
}

fn attributes(id: u64, meta: &Metadata) -> fattr3 {
    let time = |seconds: i64, nanos: i64| nfstime3 {
        seconds: u32::try_from(seconds).unwrap_or(0),
        nseconds: u32::try_from(nanos).unwrap_or(0),
    };
    fattr3 {
        type_: if meta.is_dir() { ftype3::NF3DIR } else { ftype3::NF3REG },
        mode: meta.mode() & 0o7777,
        nlink: u32::try_from(meta.nlink()).unwrap_or(u32::MAX),
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.len(),
        used: meta.blocks() * 512,
        rdev: specdata3::default(),
        fsid: meta.dev(),
        fileid: id,
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
    }
}

impl NfsReadFileSystem for DirectoryFiles {
    type Handle = FileHandleU64;

    fn root_dir(&self) -> FileHandleU64 {
        FileHandleU64::new(ROOT)
    }

    async fn lookup(
        &self,
        directory: &FileHandleU64,
        name: &filename3<'_>,
    ) -> Result<FileHandleU64, nfsstat3> {
        if directory.as_u64() != ROOT {
            return Err(nfsstat3::NFS3ERR_NOTDIR);
        }
        self.open_path(&self.path_of(name)?).map(FileHandleU64::new)
    }

    async fn getattr(&self, id: &FileHandleU64) -> Result<fattr3, nfsstat3> {
        self.attributes(*id)
    }

    async fn read(&self, id: &FileHandleU64, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let file = self.file(*id)?;
        let len = file.metadata().map_err(status)?.len();
        let wanted = u64::from(count).min(len.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(wanted).map_err(|_| nfsstat3::NFS3ERR_INVAL)?];
        file.read_exact_at(&mut bytes, offset).map_err(status)?;
        Ok((bytes, offset + wanted >= len))
    }

    async fn readdirplus(
        &self,
        _directory: &FileHandleU64,
        cookie: u64,
    ) -> Result<impl ReadDirPlusIterator<FileHandleU64>, nfsstat3> {
        // A cookie is the inode number of the last file given: names may come and go meanwhile.
        let names = self.names()?.into_iter().filter(|(id, _)| *id > cookie).collect::<Vec<_>>();
        Ok(Names { rest: names.into_iter() })
    }

    async fn readlink(&self, _id: &FileHandleU64) -> Result<nfspath3<'_>, nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }
}

struct Names {
    rest: std::vec::IntoIter<(u64, PathBuf)>,
}

impl ReadDirPlusIterator<FileHandleU64> for Names {
    async fn next(&mut self) -> NextResult<DirEntryPlus<FileHandleU64>> {
        for (id, path) in self.rest.by_ref() {
            let (Some(name), Ok(meta)) = (path.file_name(), path.symlink_metadata()) else { continue };
            return NextResult::Ok(DirEntryPlus {
                fileid: id,
                name: name.as_bytes().to_vec().into(),
                cookie: id,
                name_attributes: Some(attributes(id, &meta)),
                name_handle: Some(FileHandleU64::new(id)),
            });
        }
        NextResult::Eof
    }
}

impl NfsFileSystem for DirectoryFiles {
    async fn setattr(&self, id: &FileHandleU64, new: sattr3) -> Result<fattr3, nfsstat3> {
        let file = self.file(*id)?;
        if let Nfs3Option::Some(mode) = new.mode {
            file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777)).map_err(status)?;
        }
        if let Nfs3Option::Some(len) = new.size {
            file.set_len(len).map_err(status)?;
        }
        self.attributes(*id)
    }

    async fn write(
        &self,
        id: &FileHandleU64,
        offset: u64,
        data: &[u8],
        stable: stable_how,
    ) -> Result<(fattr3, stable_how), nfsstat3> {
        let file = self.file(*id)?;
        file.write_all_at(data, offset).map_err(status)?;
        if stable != stable_how::UNSTABLE {
            file.sync_all().map_err(status)?;
        }
        Ok((self.attributes(*id)?, stable))
    }

    async fn create(
        &self,
        _directory: &FileHandleU64,
        name: &filename3<'_>,
        attributes: sattr3,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        let path = self.path_of(name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let id = FileHandleU64::new(self.remember(&options.open(path).map_err(status)?)?);
        let attributes = self.setattr(&id, attributes).await?;
        Ok((id, attributes))
    }

    async fn create_exclusive(
        &self,
        _directory: &FileHandleU64,
        name: &filename3<'_>,
        verifier: createverf3,
    ) -> Result<FileHandleU64, nfsstat3> {
        let path = self.path_of(name)?;
        let mut options = OpenOptions::new();
        match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                let id = self.remember(&file)?;
                self.known().verifiers.insert(id, verifier);
                Ok(FileHandleU64::new(id))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let id = self.open_path(&path)?;
                let same = self.known().verifiers.get(&id) == Some(&verifier);
                if same { Ok(FileHandleU64::new(id)) } else { Err(nfsstat3::NFS3ERR_EXIST) }
            }
            Err(error) => Err(status(error)),
        }
    }

    async fn mkdir(
        &self,
        _directory: &FileHandleU64,
        _name: &filename3<'_>,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn remove(&self, _directory: &FileHandleU64, name: &filename3<'_>) -> Result<(), nfsstat3> {
        let path = self.path_of(name)?;
        self.forget(&path);
        std::fs::remove_file(path).map_err(status)
    }

    async fn rename<'a>(
        &self,
        _from_directory: &FileHandleU64,
        from: &filename3<'a>,
        _to_directory: &FileHandleU64,
        to: &filename3<'a>,
    ) -> Result<(), nfsstat3> {
        let (from, to) = (self.path_of(from)?, self.path_of(to)?);
        from.symlink_metadata().map_err(status)?;
        self.forget(&to);
        std::fs::rename(from, to).map_err(status)
    }

    async fn symlink<'a>(
        &self,
        _directory: &FileHandleU64,
        _name: &filename3<'a>,
        _path: &nfspath3<'a>,
        _attributes: &sattr3,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn commit(&self, id: &FileHandleU64, _offset: u64, _count: u32) -> Result<(), nfsstat3> {
        self.file(*id)?.sync_all().map_err(status)
    }
}
