//! The file system of the misbehaving server: a directory that forgets what was not
//! committed, and answers what the plan says.

use std::sync::{Arc, Mutex, PoisonError};

use comio_backends::embedded::DirectoryFiles;
use nfs3_server::vfs::{FileHandleU64, NfsFileSystem, NfsReadFileSystem, ReadDirPlusIterator};
use nfs3_types::nfs3::{Nfs3Option, createverf3, fattr3, filename3, nfspath3, nfsstat3, sattr3, stable_how};

use super::plan::{Fault, Operation, Plan};

/// How to undo a write: the file had that length, and these bytes stood there.
struct Undo {
    file: FileHandleU64,
    len: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// [`DirectoryFiles`] with faults.
pub(super) struct Forgetful {
    inner: DirectoryFiles,
    plan: Arc<Plan>,
    uncommitted: Mutex<Vec<Undo>>,
}

impl Forgetful {
    pub(super) fn new(inner: DirectoryFiles, plan: Arc<Plan>) -> Self {
        Self { inner, plan, uncommitted: Mutex::default() }
    }

    fn take_uncommitted(&self) -> Vec<Undo> {
        std::mem::take(&mut self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The server dies: what was not committed is gone.
    pub(super) async fn forget(&self) {
        for undo in self.take_uncommitted().into_iter().rev() {
            // A file that was removed meanwhile has nothing to forget.
            let _ = self.inner.write(&undo.file, undo.offset, &undo.bytes, stable_how::UNSTABLE).await;
            let shorter = sattr3 { size: Nfs3Option::Some(undo.len), ..sattr3::default() };
            let _ = self.inner.setattr(&undo.file, shorter).await;
        }
    }

    async fn meet(&self, operation: Operation) -> Result<(), nfsstat3> {
        match self.plan.meet(operation, true) {
            Some(Fault::Status(status)) => Err(status),
            Some(Fault::Late(delay)) => {
                super::proxy::sleep(delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn remember(&self, file: FileHandleU64, offset: u64, len: usize) -> Result<(), nfsstat3> {
        let before = self.inner.getattr(&file).await?.size;
        let count = u32::try_from(len).unwrap();
        let (bytes, _) = self.inner.read(&file, offset, count).await?;
        let undo = Undo { file, len: before, offset, bytes };
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).push(undo);
        Ok(())
    }
}

/// The server's share of the files; the proxy has the other.
pub(super) struct Shared(pub(super) Arc<Forgetful>);

impl NfsReadFileSystem for Shared {
    type Handle = FileHandleU64;

    fn root_dir(&self) -> FileHandleU64 {
        self.0.inner.root_dir()
    }

    async fn lookup(&self, dir: &FileHandleU64, name: &filename3<'_>) -> Result<FileHandleU64, nfsstat3> {
        self.0.meet(Operation::Lookup).await?;
        self.0.inner.lookup(dir, name).await
    }

    async fn getattr(&self, id: &FileHandleU64) -> Result<fattr3, nfsstat3> {
        self.0.inner.getattr(id).await
    }

    async fn read(&self, id: &FileHandleU64, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        self.0.meet(Operation::Read).await?;
        self.0.inner.read(id, offset, count).await
    }

    async fn readdirplus(
        &self,
        dir: &FileHandleU64,
        cookie: u64,
    ) -> Result<impl ReadDirPlusIterator<FileHandleU64>, nfsstat3> {
        self.0.meet(Operation::ReadDirectory).await?;
        self.0.inner.readdirplus(dir, cookie).await
    }

    async fn readlink(&self, id: &FileHandleU64) -> Result<nfspath3<'_>, nfsstat3> {
        self.0.inner.readlink(id).await
    }
}

impl NfsFileSystem for Shared {
    async fn setattr(&self, id: &FileHandleU64, new: sattr3) -> Result<fattr3, nfsstat3> {
        self.0.meet(Operation::SetAttributes).await?;
        self.0.inner.setattr(id, new).await
    }

    async fn write(
        &self,
        id: &FileHandleU64,
        offset: u64,
        data: &[u8],
        stable: stable_how,
    ) -> Result<(fattr3, stable_how), nfsstat3> {
        self.0.meet(Operation::Write).await?;
        self.0.remember(*id, offset, data.len()).await?;
        self.0.inner.write(id, offset, data, stable).await
    }

    async fn create(
        &self,
        dir: &FileHandleU64,
        name: &filename3<'_>,
        new: sattr3,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        self.0.meet(Operation::Create).await?;
        self.0.inner.create(dir, name, new).await
    }

    async fn create_exclusive(
        &self,
        dir: &FileHandleU64,
        name: &filename3<'_>,
        verifier: createverf3,
    ) -> Result<FileHandleU64, nfsstat3> {
        self.0.meet(Operation::Create).await?;
        self.0.inner.create_exclusive(dir, name, verifier).await
    }

    async fn mkdir(
        &self,
        dir: &FileHandleU64,
        name: &filename3<'_>,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        self.0.inner.mkdir(dir, name).await
    }

    async fn remove(&self, dir: &FileHandleU64, name: &filename3<'_>) -> Result<(), nfsstat3> {
        self.0.meet(Operation::Remove).await?;
        self.0.inner.remove(dir, name).await
    }

    async fn rename<'a>(
        &self,
        from_dir: &FileHandleU64,
        from: &filename3<'a>,
        to_dir: &FileHandleU64,
        to: &filename3<'a>,
    ) -> Result<(), nfsstat3> {
        self.0.meet(Operation::Rename).await?;
        self.0.inner.rename(from_dir, from, to_dir, to).await
    }

    async fn symlink<'a>(
        &self,
        dir: &FileHandleU64,
        name: &filename3<'a>,
        path: &nfspath3<'a>,
        new: &sattr3,
    ) -> Result<(FileHandleU64, fattr3), nfsstat3> {
        self.0.inner.symlink(dir, name, path, new).await
    }

    async fn commit(&self, id: &FileHandleU64, offset: u64, count: u32) -> Result<(), nfsstat3> {
        self.0.meet(Operation::Commit).await?;
        self.0.inner.commit(id, offset, count).await?;
        let mut uncommitted = self.0.uncommitted.lock().unwrap_or_else(PoisonError::into_inner);
        uncommitted.retain(|undo| undo.file != *id);
        Ok(())
    }
}
