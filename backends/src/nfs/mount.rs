//! Finding the export: which ports, and how much of the URL's path the server exports.
//!
//! Done with `nfs3_client`, over our own stream, on connections of their own that are thrown
//! away afterwards.

use std::time::Duration;

use comio_core::storage::{StorageError, StorageErrorKind as Kind};
use nfs3_client::{MountClient, MountError, PortmapperClient, RpcError};
use nfs3_types::mount::dirpath;
use nfs3_types::nfs3::nfs_fh3;
use nfs3_types::rpc::opaque_auth;
use nfs3_types::xdr_codec::Opaque;
use nfs3_types::{mount, nfs3, portmap};

use super::time::timeout;
use super::transport::{CrateIo, Peer};
use super::url::NfsUrl;

/// How long one of these calls may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const NFS_PORT: u16 = 2049;
const HANDLE_BYTES_MAX: usize = 64;

/// Where the services are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) nfs: u16,
    pub(super) mount: u16,
}

/// The part of the path that is exported, and its handle.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) root: nfs_fh3,
    /// How many components of the URL's path it takes.
    pub(super) components: usize,
}

/// The ports from the URL, or from the server's portmapper.
pub(super) async fn find_ports(url: &NfsUrl, peer: &Peer) -> Result<Ports, StorageError> {
    let options = &url.options;
    if let (Some(nfs), Some(mount)) = (options.nfs_port, options.mount_port) {
        return Ok(Ports { nfs, mount });
    }
    // NFS has a port of its own; MOUNT has none, so there the portmapper must answer.
    let nfs = match options.nfs_port {
        Some(port) => port,
        None => ask_portmapper(peer, nfs3::PROGRAM, nfs3::VERSION).await.unwrap_or(NFS_PORT),
    };
    let mount = match options.mount_port {
        Some(port) => port,
        None => ask_portmapper(peer, mount::PROGRAM, mount::VERSION).await.map_err(|why| {
            let problem = format!(
                "its portmapper (port {}) does not tell the port of the MOUNT service: {why}; give it as \
                 mountport= in the URL",
                portmap::PMAP_PORT
            );
            StorageError::new(Kind::Unreachable, "reach", url.to_string(), problem)
        })?,
    };
    Ok(Ports { nfs, mount })
}

async fn ask_portmapper(peer: &Peer, program: u32, version: u32) -> Result<u16, String> {
    let peer = Peer { privileged_port: false, ..peer.at_port(portmap::PMAP_PORT) };
    let stream = peer.connect().await.map_err(|error| error.to_string())?;
    let mut client = PortmapperClient::new(CrateIo(stream));
    timeout(CALL_LIMIT, client.getport(program, version, portmap::IPPROTO_TCP))
        .await
        .ok_or("no answer")?
        .map_err(|error| error.to_string())
}

type Client = MountClient<CrateIo>;

/// Mounts the longest prefix of the URL's path that the server accepts.
pub(super) async fn mount(
    url: &NfsUrl,
    peer: &Peer,
    credential: &opaque_auth<'static>,
) -> Result<Export, StorageError> {
    let unreachable = |why: String| {
        let problem = format!("its MOUNT service does not answer: {why}");
        StorageError::new(Kind::Unreachable, "mount", url.to_string(), problem)
    };
    let stream = peer.connect().await.map_err(|error| unreachable(error.to_string()))?;
    let mut client = MountClient::new_with_auth(CrateIo(stream), credential.clone(), opaque_auth::default());
    for components in (0..=url.path.len()).rev() {
        let path = format!("/{}", url.path[..components].join("/"));
        let call = client.mnt(dirpath(Opaque::borrowed(path.as_bytes())));
        match timeout(CALL_LIMIT, call).await.ok_or_else(|| unreachable("no answer".to_owned()))? {
            Ok(mounted) if mounted.fhandle.0.len() <= HANDLE_BYTES_MAX => {
                return Ok(Export { root: nfs_fh3 { data: mounted.fhandle.0 }, components });
            }
            Ok(_) => return Err(unreachable("its file handle is too long for NFSv3".to_owned())),
            Err(MountError::Denied(status)) => tracing::debug!(path, %status, "not to be mounted"),
            Err(MountError::Rpc(RpcError::Auth(_))) => return Err(denied(url)),
            Err(error) => return Err(unreachable(error.to_string())),
        }
    }
    Err(no_export(url, &mut client).await)
}

fn denied(url: &NfsUrl) -> StorageError {
    let problem = "the server does not let this host and user mount it: it may want a source port below 1024 (run \
                   as root, or export it with the option insecure), or other hosts";
    StorageError::new(Kind::Permission, "mount", url.to_string(), problem)
}

/// No prefix was accepted. Servers answer "access" for what they do not export at all, too: only
/// their list of exports tells one from the other.
async fn no_export(url: &NfsUrl, client: &mut Client) -> StorageError {
    let exports = exports(client).await;
    if exports.iter().any(|export| contains(export, url)) {
        return denied(url);
    }
    let list = match &exports[..] {
        [] => String::new(),
        exports => format!("; it exports {}", exports[..exports.len().min(SHOWN_MAX)].join(", ")),
    };
    let problem = format!("the server exports no part of this path, or not to this host{list}");
    StorageError::new(Kind::NotFound, "mount", url.to_string(), problem)
}

/// Whether the URL's path is within the export.
fn contains(export: &str, url: &NfsUrl) -> bool {
    let mut path = url.path.iter();
    export.split('/').filter(|part| !part.is_empty()).all(|part| path.next().is_some_and(|own| own == part))
}

/// How many exports a message names.
const SHOWN_MAX: usize = 10;

/// The server's exports, as far as it tells.
async fn exports(client: &mut Client) -> Vec<String> {
    match timeout(CALL_LIMIT, client.export()).await {
        Some(Ok(exports)) => {
            exports.0.iter().map(|export| String::from_utf8_lossy(&export.ex_dir.0).into_owned()).collect()
        }
        _ => Vec::new(),
    }
}
