//! An NFS server that misbehaves as told.
//!
//! Two halves share one [`Plan`]: a file system on `nfs3_server`'s traits that answers with
//! errors, late, and forgets what was not committed ([`files`]); and a proxy before it that
//! breaks connections and records ([`proxy`]). The client under test connects to the proxy.

mod files;
mod plan;
mod proxy;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use comio_backends::embedded::{DirectoryFiles, EmbeddedServer};
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::storage::StorageError;

use proxy::Proxy;

pub(crate) use plan::{Fault, Operation, Plan, Rule, When};

/// A running misbehaving server.
pub(crate) struct MisbehavingServer {
    pub(crate) plan: Arc<Plan>,
    files: Arc<files::Forgetful>,
    _server: EmbeddedServer,
    proxy: Proxy,
}

impl MisbehavingServer {
    /// Serves `directory` with the faults of `rules`.
    pub(crate) async fn start(directory: &Path, rules: Vec<Rule>) -> Self {
        let plan = Arc::new(Plan::new(rules));
        let files = DirectoryFiles::open(directory).unwrap();
        let files = Arc::new(files::Forgetful::new(files, Arc::clone(&plan)));
        let server = EmbeddedServer::serve(files::Shared(Arc::clone(&files)), 0, 1).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let proxy = Proxy::start(address, Some(Arc::clone(&files)), Arc::clone(&plan)).await;
        Self { plan, files, _server: server, proxy }
    }

    /// The server dies: what was not committed is gone.
    pub(crate) async fn forget(&self) {
        self.files.forget().await;
    }

    /// Returns when a call was held, or the client has died.
    pub(crate) async fn held(&self) {
        self.proxy.held().await;
    }

    /// Its URL with `options` ("&timeo=5").
    pub(crate) fn url(&self, options: &str) -> NfsUrl {
        let port = self.proxy.port;
        NfsUrl::parse(&format!("nfs://127.0.0.1:{port}/?mountport={port}&noresvport{options}")).unwrap()
    }

    pub(crate) async fn connect(&self, options: &str) -> Result<NfsStorage, StorageError> {
        NfsStorage::connect(&self.url(options)).await
    }
}

/// The same faults of the wire before a real server: MOUNT and NFS through proxies of one plan.
pub(crate) struct MisbehavingWire {
    pub(crate) plan: Arc<Plan>,
    nfs: Proxy,
    mount: Proxy,
}

impl MisbehavingWire {
    pub(crate) async fn start(nfs: SocketAddr, mount: SocketAddr, rules: Vec<Rule>) -> Self {
        let plan = Arc::new(Plan::new(rules));
        let nfs = Proxy::start(nfs, None, Arc::clone(&plan)).await;
        let mount = Proxy::start(mount, None, Arc::clone(&plan)).await;
        Self { plan, nfs, mount }
    }

    /// Returns when a call was held, or the client has died.
    pub(crate) async fn held(&self) {
        self.nfs.held().await;
    }

    pub(crate) fn url(&self, path: &str) -> NfsUrl {
        let (nfs, mount) = (self.nfs.port, self.mount.port);
        NfsUrl::parse(&format!("nfs://127.0.0.1{path}?nfsport={nfs}&mountport={mount}")).unwrap()
    }
}
