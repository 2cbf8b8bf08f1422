//! The NFS client against the embedded server, and the local directory.

use std::path::Path;
use std::sync::Arc;

use comio_backends::embedded::EmbeddedServer;
use comio_backends::local::LocalStorage;
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::compute::Inline;
use comio_core::storage::StorageErrorKind;
use comio_core::testing::conformance;

use crate::scratch;

async fn connect(server: &EmbeddedServer, options: &str) -> NfsStorage {
    let url = NfsUrl::parse(&format!("{}{options}", server.url())).unwrap();
    NfsStorage::connect(&url).await.unwrap()
}

#[tokio::test]
async fn the_local_directory_conforms() {
    let directory = scratch();
    let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
    conformance(&storage).await;
}

#[tokio::test]
async fn nfs_conforms_on_the_embedded_server() {
    let directory = scratch();
    let server = EmbeddedServer::start(directory.path(), 1).unwrap();
    for options in ["", "&nconnect=1", "&wsize=8192&rsize=4096&nconnect=3"] {
        conformance(&connect(&server, options).await).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_soon() {
    let directory = scratch();
    let server = EmbeddedServer::start(directory.path(), 1).unwrap();
    let url = NfsUrl::parse(&server.url()).unwrap();
    drop(server);
    let error = NfsStorage::connect(&url).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
}

#[test]
fn a_local_directory_that_is_not_there_is_not_found() {
    let error = LocalStorage::open(Path::new("/does/not/exist"), Arc::new(Inline)).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::NotFound);
}
