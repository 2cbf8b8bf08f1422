//! The directory that is the storage: names, and what is done to them when an answer is lost.
//!
//! CREATE, RENAME, LINK and REMOVE are not the same when done twice. When the first answer
//! was lost and the repeated call fails in a way that its own first success explains, the
//! names and file numbers tell which it was.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use comio_core::storage::{
    CreateOptions, ObjectInfo, StorageError, StorageErrorKind, is_temporary_name, temporary_name,
};
use nfs3_types::nfs3::{cookieverf3, fattr3, ftype3, nfs_fh3, nfsstat3};

use super::calls::{Entry, Found, Repeatable};
use super::errors::Trouble;
use super::server::Server;
use super::time::sleep;
use super::xdr::Malformed;

/// The number in the temporary name that is a claim to the name itself.
const CLAIM: u64 = u64::MAX;
/// A claim is held for two calls: after five seconds its owner is taken for dead.
const CLAIM_PAUSE: Duration = Duration::from_millis(50);
const CLAIM_PAUSES_MAX: u32 = 100;

/// A directory on a server.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) server: Arc<Server>,
    pub(super) handle: nfs_fh3,
    pub(super) location: String,
    /// The user that the server sees, for messages.
    pub(super) who: String,
    /// Most bytes in a READ and in a WRITE.
    pub(super) read_bytes: usize,
    pub(super) write_bytes: usize,
}

impl Directory {
    pub(super) fn target(&self, name: &str) -> String {
        format!("{}/{name}", self.location)
    }

    pub(super) fn error(&self, trouble: Trouble, action: &'static str, name: &str) -> StorageError {
        trouble.into_error(action, &self.target(name), &self.who)
    }

    /// Adds to an error about space how much is needed and how much is free.
    pub(super) async fn with_free_space(&self, mut error: StorageError, needed_bytes: u64) -> StorageError {
        if error.kind == StorageErrorKind::NoSpace
            && let Ok(stat) = self.server.fsstat(&self.handle).await
        {
            error.problem = format!(
                "{} (the image needs at least {needed_bytes} bytes, {} are free)",
                error.problem, stat.abytes
            );
        }
        error
    }

    pub(super) async fn free_bytes(&self) -> Result<u64, StorageError> {
        let stat = self.server.fsstat(&self.handle).await;
        Ok(stat.map_err(|trouble| self.error(trouble, "ask the free space of", ""))?.abytes)
    }

    /// The file of that name with its attributes, if there is one.
    async fn find(&self, name: &str) -> Result<Option<(nfs_fh3, fattr3)>, Trouble> {
        let Found { handle, attributes } = match self.server.lookup(&self.handle, name).await {
            Err(trouble) if trouble.is(nfsstat3::NFS3ERR_NOENT) => return Ok(None),
            result => result?,
        };
        let attributes = match attributes {
            Some(attributes) => attributes,
            None => self.server.get_attributes(&handle).await?,
        };
        Ok(Some((handle, attributes)))
    }

    /// The regular file of that name.
    pub(super) async fn open(&self, name: &str) -> Result<(nfs_fh3, u64), StorageError> {
        let found = self.find(name).await.map_err(|trouble| self.error(trouble, "open", name))?;
        match found {
            Some((handle, attributes)) if attributes.type_ == ftype3::NF3REG => Ok((handle, attributes.size)),
            Some(_) => Err(StorageError::new(
                StorageErrorKind::InvalidName,
                "open",
                self.target(name),
                "it is not a regular file",
            )),
            None => Err(self.error(Trouble::Status(nfsstat3::NFS3ERR_NOENT), "open", name)),
        }
    }

    pub(super) async fn exists(&self, name: &str) -> Result<bool, StorageError> {
        let found = self.find(name).await;
        Ok(found.map_err(|trouble| self.error(trouble, "look up", name))?.is_some())
    }

    /// Creates a file of a name that nobody has, mode 0600; or leaves none.
    pub(super) async fn create(&self, name: &str, unique: u64) -> Result<nfs_fh3, Trouble> {
        let created = self.try_create(name, unique).await;
        if let Err(trouble) = &created
            && !trouble.is(nfsstat3::NFS3ERR_EXIST)
        {
            // The CREATE itself may have succeeded; the name is nobody else's.
            let _ = self.clean_up(name).await;
        }
        created
    }

    async fn try_create(&self, name: &str, unique: u64) -> Result<nfs_fh3, Trouble> {
        let created = match self.server.create_exclusive(&self.handle, name, unique).await {
            Err(trouble) if trouble.is_not_implemented() => {
                let guarded = self.server.create_guarded(&self.handle, name).await;
                match guarded.result {
                    // Ours: the name holds a number that nobody else uses.
                    Err(trouble) if guarded.repeated && trouble.is(nfsstat3::NFS3ERR_EXIST) => None,
                    result => result?.handle,
                }
            }
            result => result?.handle,
        };
        let handle = match created {
            Some(handle) => handle,
            None => self.server.lookup(&self.handle, name).await?.handle,
        };
        self.server.make_private(&handle).await?;
        Ok(handle)
    }

    /// Gives the file its name. Without `replace`, a name in use stays what it is.
    pub(super) async fn publish(
        &self,
        file: &nfs_fh3,
        temporary: &str,
        name: &str,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        let published = if options.replace {
            self.rename(file, temporary, name).await
        } else {
            self.link_and_remove(file, temporary, name, options.unique).await
        };
        published.map_err(|trouble| match trouble {
            // The temporary name is what is not there.
            Trouble::Status(nfsstat3::NFS3ERR_NOENT) => {
                self.error(Trouble::Status(nfsstat3::NFS3ERR_STALE), "publish", temporary)
            }
            trouble => self.error(trouble, "publish", name),
        })
    }

    async fn rename(&self, file: &nfs_fh3, from: &str, to: &str) -> Result<(), Trouble> {
        let renamed = self.server.rename(&self.handle, from, to).await;
        self.named(renamed, to, file).await
    }

    /// Whether `file` has its name now. A call that has no answer may have been carried out, and so
    /// may the first of one that was repeated: the name tells, and if it cannot be asked, nobody knows.
    async fn named(&self, call: Repeatable<()>, name: &str, file: &nfs_fh3) -> Result<(), Trouble> {
        match call.result {
            Err(Trouble::Server(error)) if error.leaves_doubt() => Err(Trouble::InDoubt(error.to_string())),
            Err(trouble) if call.repeated => match self.is_file(name, file).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(trouble),
                Err(why) => Err(Trouble::InDoubt(why.to_string())),
            },
            result => result,
        }
    }

    async fn link_and_remove(
        &self,
        file: &nfs_fh3,
        temporary: &str,
        name: &str,
        unique: u64,
    ) -> Result<(), Trouble> {
        let linked = self.server.link(file, &self.handle, name).await;
        match self.named(linked, name, file).await {
            Ok(()) => {}
            Err(trouble) if trouble.is_without_links() => {
                return self.rename_if_free(file, temporary, name, unique).await;
            }
            Err(trouble) => return Err(trouble),
        }
        // It is published. A temporary name that cannot be removed is a leftover, no more.
        if let Err(trouble) = self.try_remove(temporary).await {
            tracing::warn!(%trouble, temporary, "a temporary name is left over");
        }
        Ok(())
    }

    /// For servers without hard links: only who holds the name's claim looks whether the name is
    /// free, and takes it.
    async fn rename_if_free(
        &self,
        file: &nfs_fh3,
        temporary: &str,
        name: &str,
        unique: u64,
    ) -> Result<(), Trouble> {
        let claim = temporary_name(name, CLAIM);
        let mut pauses = 0;
        while !self.try_claim(&claim, unique).await? {
            if self.find(name).await?.is_some() {
                return Err(Trouble::Status(nfsstat3::NFS3ERR_EXIST));
            }
            if pauses == CLAIM_PAUSES_MAX {
                return Err(Trouble::Claimed(claim));
            }
            pauses += 1;
            sleep(CLAIM_PAUSE).await;
        }
        let renamed = match self.find(name).await {
            Ok(Some(_)) => Err(Trouble::Status(nfsstat3::NFS3ERR_EXIST)),
            Ok(None) => self.rename(file, temporary, name).await,
            Err(trouble) => Err(trouble),
        };
        // The name is given or not, whatever comes of the claim: it is a leftover, no more.
        if let Err(trouble) = self.try_remove(&claim).await {
            tracing::warn!(%trouble, claim, "a claim to a name is left over");
        }
        renamed
    }

    /// Whether the claim is ours now. Without exclusive creates, one whose answer was lost is
    /// taken for somebody else's.
    async fn try_claim(&self, claim: &str, unique: u64) -> Result<bool, Trouble> {
        let claimed = match self.server.create_exclusive(&self.handle, claim, unique).await {
            Err(trouble) if trouble.is_not_implemented() => {
                self.server.create_guarded(&self.handle, claim).await.result
            }
            result => result,
        };
        match claimed {
            Ok(_) => Ok(true),
            Err(trouble) if trouble.is(nfsstat3::NFS3ERR_EXIST) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Whether `name` is that very file.
    async fn is_file(&self, name: &str, file: &nfs_fh3) -> Result<bool, Trouble> {
        let Some((found, attributes)) = self.find(name).await? else { return Ok(false) };
        if found == *file {
            return Ok(true);
        }
        let ours = self.server.get_attributes(file).await?;
        Ok((ours.fsid, ours.fileid) == (attributes.fsid, attributes.fileid))
    }

    /// Removes a temporary name if the server does so soon; what stays is a leftover, no more.
    pub(super) async fn clean_up(&self, temporary: &str) -> Result<(), StorageError> {
        match self.server.briefly(self.try_remove(temporary)).await {
            // Nothing was created, or somebody else has cleaned up already.
            Some(Err(trouble)) if trouble.is(nfsstat3::NFS3ERR_NOENT) => Ok(()),
            Some(removed) => removed.map_err(|trouble| self.error(trouble, "remove", temporary)),
            None => Err(StorageError::new(
                StorageErrorKind::Unreachable,
                "remove",
                self.target(temporary),
                "the server does not answer; `comio clean` removes it when it does",
            )),
        }
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.try_remove(name).await.map_err(|trouble| self.error(trouble, "remove", name))
    }

    async fn try_remove(&self, name: &str) -> Result<(), Trouble> {
        let removed = self.server.remove_name(&self.handle, name).await;
        match removed.result {
            Err(trouble) if removed.repeated && trouble.is(nfsstat3::NFS3ERR_NOENT) => Ok(()),
            result => result,
        }
    }

    /// Regular files, those being written or the others.
    pub(super) async fn files(&self, temporary: bool) -> Result<Vec<ObjectInfo>, StorageError> {
        let mut files = Vec::new();
        for entry in self.entries().await.map_err(|trouble| self.error(trouble, "list", ""))? {
            // Names that are not UTF-8 are no image of ours.
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            if name == "." || name == ".." || is_temporary_name(&name) != temporary {
                continue;
            }
            let attributes = match entry.attributes {
                Some(attributes) => Some(attributes),
                None => match self.find(&name).await {
                    Ok(found) => found.map(|(_, attributes)| attributes),
                    Err(trouble) => return Err(self.error(trouble, "list", &name)),
                },
            };
            if let Some(attributes) = attributes.filter(|attributes| attributes.type_ == ftype3::NF3REG) {
                files.push(ObjectInfo {
                    name,
                    len: attributes.size,
                    modified_unix_s: Some(u64::from(attributes.mtime.seconds)),
                });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Every name, page by page; from the beginning if the directory changed meanwhile.
    async fn entries(&self) -> Result<Vec<Entry>, Trouble> {
        loop {
            match self.try_entries().await {
                Err(trouble) if trouble.is(nfsstat3::NFS3ERR_BAD_COOKIE) => {}
                result => return result,
            }
        }
    }

    async fn try_entries(&self) -> Result<Vec<Entry>, Trouble> {
        let (mut cookie, mut verifier) = (0, cookieverf3::default());
        let mut entries = Vec::new();
        let mut cookies = BTreeSet::new();
        loop {
            let page = self.server.read_directory(&self.handle, cookie, verifier).await?;
            let last = page.entries.last().map(|entry| entry.cookie);
            entries.extend(page.entries);
            if page.end {
                return Ok(entries);
            }
            // A server that gives the same page again and again would fill the memory.
            cookie = last.ok_or(Malformed("an empty directory page that is not the last"))?;
            if !cookies.insert(cookie) {
                return Err(Malformed("a directory that goes in circles").into());
            }
            verifier = page.verifier;
        }
    }
}
