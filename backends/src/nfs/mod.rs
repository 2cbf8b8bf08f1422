//! NFSv3 in user space as a storage.
//!
//! A directory on a server, named by a [URL](NfsUrl). The layers, from the wire up:
//! `transport` (TCP), `records` and `message` and `xdr` (bytes), `connection` (one TCP
//! connection, several calls under way), `server` (several connections, repeated calls,
//! limits), `calls` (NFS procedures), `directory`, `writer` and `reader` (objects).
//!
//! What is written is UNSTABLE until COMMIT, and kept in memory until the server has
//! confirmed it over the connection that it was written over: see `held` and `writer`, and
//! `docs/nfs.md` for the whole protocol.

mod calls;
mod connection;
mod directory;
mod errors;
mod held;
mod message;
mod mount;
mod reader;
mod records;
mod server;
mod status;
mod throttle;
mod time;
mod transport;
mod url;
mod writer;
mod xdr;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
    check_name, is_temporary_name, temporary_name,
};
use nfs3_types::nfs3::{ftype3, nfs_fh3, nfsstat3};
use nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_types::xdr_codec::Opaque;

use directory::Directory;
use errors::Trouble;
use reader::NfsReader;
use server::{Backoff, Server};
pub use throttle::Throttle;
use time::now;
use transport::Peer;
pub use url::{NfsOptions, NfsUrl, Retry};
use writer::NfsWriter;

/// How long a server may be unreachable at first: later it is waited for as the URL says, but
/// a mistyped name should not be.
const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(5);
/// Transfers no larger than this unless the URL says so: larger ones gain nothing, and a lost
/// connection costs more.
const TRANSFER_BYTES_USUAL: u32 = 1 << 20;
const TRANSFER_BYTES_MIN: u32 = 4096;
/// Groups in an `AUTH_SYS` credential, at most.
const GROUPS_MAX: usize = 16;

/// A directory on an NFS server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct NfsStorage {
    directory: Arc<Directory>,
}

impl NfsStorage {
    /// Connects to the server and finds the directory that `url` names. Needs a tokio
    /// runtime, here and later.
    ///
    /// # Errors
    /// By kind: the server is not reachable, nothing of the path is exported (to this host),
    /// the directory does not exist.
    pub async fn connect(url: &NfsUrl) -> Result<Self, StorageError> {
        let throttle = url.options.bandwidth_bytes_per_s.map(Throttle::new);
        Self::connect_within(url, throttle.map(Arc::new)).await
    }

    /// As [`connect`](Self::connect), within a bandwidth limit that others may share, instead of
    /// the URL's.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_within(url: &NfsUrl, throttle: Option<Arc<Throttle>>) -> Result<Self, StorageError> {
        let (credential, who) = credential(url);
        let privileged_port =
            url.options.privileged_port.unwrap_or_else(|| rustix::process::geteuid().is_root());
        let first = Peer { addresses: addresses(url).await?, privileged_port };
        let ports = first_contact(|| mount::find_ports(url, &first)).await?;
        let mount_peer = first.at_port(ports.mount);
        let export = first_contact(|| mount::mount(url, &mount_peer, &credential)).await?;
        let name = format!("{}:{}", url.host, ports.nfs);
        let server = Server::new(first.at_port(ports.nfs), name, credential, &url.options, throttle);
        first_contact(|| async {
            server.connect_first().await.map_err(|error| {
                let problem = format!("its NFS service on port {} does not answer: {error}", ports.nfs);
                StorageError::new(StorageErrorKind::Unreachable, "reach", url.to_string(), problem)
            })
        })
        .await?;
        let found = find_directory(&server, url, export.root, export.components).await;
        let (handle, sizes) =
            found.map_err(|trouble| trouble.into_error("open directory", &url.to_string(), &who))?;
        let directory = Directory {
            server: Arc::new(server),
            handle,
            location: url.to_string(),
            who,
            read_bytes: sizes.0,
            write_bytes: sizes.1,
        };
        Ok(Self { directory: Arc::new(directory) })
    }
}

async fn addresses(url: &NfsUrl) -> Result<Vec<SocketAddr>, StorageError> {
    first_contact(|| async {
        transport::resolve(&url.host).await.map_err(|error| {
            let problem = format!("the host name cannot be resolved: {error}");
            StorageError::new(StorageErrorKind::Unreachable, "reach", url.to_string(), problem)
        })
    })
    .await
}

/// Tries again for a few seconds while the server is unreachable: it may just be starting.
async fn first_contact<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, StorageError>
where
    F: Future<Output = Result<T, StorageError>>,
{
    let begin = now();
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Err(error)
                if error.kind == StorageErrorKind::Unreachable && begin.elapsed() < FIRST_CONTACT_LIMIT =>
            {
                backoff.wait().await;
            }
            result => return result,
        }
    }
}

/// The `AUTH_SYS` credential, and the user in words.
fn credential(url: &NfsUrl) -> (opaque_auth<'static>, String) {
    let uid = url.options.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let gid = url.options.gid.unwrap_or_else(|| rustix::process::getegid().as_raw());
    // Other groups are the process's own: of no meaning for a user that the URL names.
    let groups = match url.options.uid {
        None => rustix::process::getgroups().unwrap_or_default(),
        Some(_) => Vec::new(),
    };
    let unix = auth_unix {
        stamp: 0,
        machinename: Opaque::owned(rustix::system::uname().nodename().to_bytes().to_vec()),
        uid,
        gid,
        gids: groups.into_iter().take(GROUPS_MAX).map(rustix::process::Gid::as_raw).collect(),
    };
    (opaque_auth::auth_unix(&unix), format!("user {uid} (group {gid})"))
}

/// Walks from the export to the directory; gives it and the sizes of READ and WRITE.
async fn find_directory(
    server: &Server,
    url: &NfsUrl,
    root: nfs_fh3,
    components: usize,
) -> Result<(nfs_fh3, (usize, usize)), Trouble> {
    let mut handle = root;
    for component in &url.path[components..] {
        handle = server.lookup(&handle, component).await?.handle;
    }
    if server.get_attributes(&handle).await?.type_ != ftype3::NF3DIR {
        return Err(Trouble::Status(nfsstat3::NFS3ERR_NOTDIR));
    }
    let info = server.fsinfo(&handle).await?;
    let read_bytes = transfer_bytes(url.options.read_bytes, info.rtpref, info.rtmax);
    let write_bytes = transfer_bytes(url.options.write_bytes, info.wtpref, info.wtmax);
    Ok((handle, (read_bytes, write_bytes)))
}

/// The user's choice or the server's preference, within what the server can.
fn transfer_bytes(wanted: Option<u32>, preferred: u32, max: u32) -> usize {
    let max = max.max(TRANSFER_BYTES_MIN);
    let bytes = wanted.unwrap_or_else(|| preferred.clamp(TRANSFER_BYTES_MIN, TRANSFER_BYTES_USUAL)).min(max);
    // Whole pages, so that the server's cache never has to read for a WRITE.
    (bytes as usize / 4096 * 4096).max(TRANSFER_BYTES_MIN as usize)
}

#[async_trait]
impl Storage for NfsStorage {
    fn location(&self) -> String {
        self.directory.location.clone()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        check_name(name, "create")?;
        let directory = &self.directory;
        if !options.replace && directory.exists(name).await? {
            return Err(directory.error(Trouble::Status(nfsstat3::NFS3ERR_EXIST), "create", name));
        }
        let temporary = temporary_name(name, options.unique);
        let created = directory.create(&temporary, options.unique).await;
        let file = created.map_err(|trouble| directory.error(trouble, "create", name))?;
        Ok(Box::new(NfsWriter::new(Arc::clone(directory), file, name, temporary, options)))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        check_name(name, "open")?;
        let (file, len) = self.directory.open(name).await?;
        let directory = Arc::clone(&self.directory);
        let window = directory.server.read_window();
        Ok(Box::new(NfsReader { directory, file, name: name.to_owned(), len, window }))
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.directory.files(false).await
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        if !is_temporary_name(name) {
            check_name(name, "remove")?;
        }
        self.directory.remove(name).await
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.directory.files(true).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.directory.free_bytes().await.map(Some)
    }

    fn waiting(&self) -> Option<String> {
        self.directory.server.status.waiting()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn transfer_sizes_follow_the_server_within_reason() {
        assert_eq!(transfer_bytes(None, 64 << 20, 64 << 20), 1 << 20);
        assert_eq!(transfer_bytes(None, 32 << 10, 64 << 10), 32 << 10);
        assert_eq!(transfer_bytes(Some(2 << 20), 32 << 10, 64 << 10), 64 << 10);
        assert_eq!(transfer_bytes(Some(5000), 1 << 20, 1 << 20), 4096);
        assert_eq!(transfer_bytes(None, 0, 0), 4096);
    }
}
