//! The NFS client against the embedded server, and the local directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use comio_backends::embedded::EmbeddedServer;
use comio_backends::local::LocalStorage;
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::compute::Inline;
use comio_core::engine::{Consumed, ConsumedBy, EngineError, consume, consumed};
use comio_core::storage::{CreateOptions, Storage, StorageErrorKind, temporary_name};
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
async fn of_two_hosts_that_restore_an_image_at_once_one_goes_on() {
    let directory = scratch();
    let server = EmbeddedServer::start(directory.path(), 1).unwrap();
    let (first, second) = (connect(&server, "").await, connect(&server, "").await);
    for round in 0..20 {
        let mark = |host: &str| Consumed {
            image: [round; 16],
            why: ConsumedBy::Restored,
            host: host.to_owned(),
            unix_seconds: 1,
        };
        let (one, other) = (mark("one"), mark("other"));
        let unique = u64::from(round) * 2;
        let (a, b) = tokio::join!(
            consume(&first, "guest", &one, false, unique),
            consume(&second, "guest", &other, false, unique + 1),
        );
        let winner = match (a, b) {
            (Ok(()), Err(EngineError::AlreadyConsumed(_, there))) => (one, *there),
            (Err(EngineError::AlreadyConsumed(_, there)), Ok(())) => (other, *there),
            both => panic!("round {round}: {both:?}"),
        };
        assert_eq!(winner.0, winner.1, "the loser is told who won");
        assert_eq!(consumed(&second, &[round; 16]).await.unwrap(), Some(winner.0));
    }
    assert!(first.leftovers().await.unwrap().is_empty());
}

/// The embedded server has no hard links, so a name is claimed before it is taken. Whoever died
/// holding the claim is told of, and cleaned up like any other leftover.
#[tokio::test]
async fn a_claim_left_over_is_told_and_cleaned() {
    let directory = scratch();
    let server = EmbeddedServer::start(directory.path(), 1).unwrap();
    let storage = connect(&server, "").await;
    let claim = temporary_name("image", u64::MAX);
    std::fs::write(directory.path().join(&claim), "").unwrap();
    let options = |unique| CreateOptions { replace: false, held_bytes_max: 4096, unique };

    let error = storage.create("image", options(1)).await.unwrap().publish().await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
    assert!(error.to_string().contains("`comio clean`"), "{error}");
    assert!(storage.list().await.unwrap().is_empty(), "nothing got the name");
    let names = storage.leftovers().await.unwrap().into_iter().map(|leftover| leftover.name);
    assert_eq!(names.collect::<Vec<_>>(), std::slice::from_ref(&claim));

    storage.remove(&claim).await.unwrap();
    storage.create("image", options(2)).await.unwrap().publish().await.unwrap();
    assert!(storage.leftovers().await.unwrap().is_empty());
}

/// Guest memory is for its owner alone: while it is written, and ever after.
async fn assert_private(storage: &dyn Storage, directory: &Path) {
    let mode = || {
        let file = std::fs::read_dir(directory).unwrap().next().expect("one file").unwrap();
        file.metadata().unwrap().permissions().mode() & 0o7777
    };
    for replace in [false, true] {
        let options = CreateOptions { replace, held_bytes_max: 4096, unique: 1 };
        let writer = storage.create("image", options).await.unwrap();
        if !replace {
            assert_eq!(mode(), 0o600, "while it is written");
        }
        writer.sync().await.unwrap();
        writer.publish().await.unwrap();
        assert_eq!(mode(), 0o600, "published, replacing: {replace}");
        // The next round replaces a file that others may read: the new one must not take that over.
        std::fs::set_permissions(directory.join("image"), PermissionsExt::from_mode(0o644)).unwrap();
    }
}

#[tokio::test]
async fn images_are_for_their_owner_alone_in_a_directory() {
    let directory = scratch();
    let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
    assert_private(&storage, directory.path()).await;
}

#[tokio::test]
async fn images_are_for_their_owner_alone_over_nfs() {
    let directory = scratch();
    let server = EmbeddedServer::start(directory.path(), 1).unwrap();
    assert_private(&connect(&server, "").await, directory.path()).await;
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
