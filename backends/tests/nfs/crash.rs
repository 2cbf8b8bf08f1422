//! A small save in which the n-th mutating storage call fails, or the process dies there,
//! for every n: afterwards there is no image, or a whole one; with an older image of the
//! name, that one or the new one, whole.

use std::sync::Arc;

use comio_backends::local::LocalStorage;
use comio_core::compute::Inline;
use comio_core::storage::{Storage, StorageErrorKind};
use comio_core::testing::{Fault, FaultyStorage, MemoryStorage};
use nfs3_types::nfs3::nfsstat3;

use crate::guest::{Guest, restore, save};
use crate::misbehaving::{self as wire, MisbehavingServer};
use crate::scratch;

const OLD: Guest = Guest { seed: 1, pages: 300 };
const NEW: Guest = Guest { seed: 2, pages: 3000 };

const FAULTS: [Fault; 5] = [
    Fault::Fail(StorageErrorKind::NoSpace),
    Fault::Fail(StorageErrorKind::Unreachable),
    Fault::FailAfter(StorageErrorKind::Unreachable),
    Fault::Die,
    Fault::DieAfter,
];

/// Runs the save with every fault at every call; `after_death` is what a crash does to the
/// storage itself.
async fn try_every_point<S: Storage + Clone>(storage: &S, after_death: impl AsyncFn()) {
    for fault in FAULTS {
        for replace in [false, true] {
            let mut at_call = 1;
            while fails_safely(storage, at_call, fault, replace, &after_death).await {
                at_call += 1;
            }
            // create, three segments, directory, sync, footer, sync, publish at the least.
            assert!(at_call > 8, "only {at_call} calls were tried");
        }
    }
}

/// One run; whether its fault was met at all.
async fn fails_safely<S: Storage + Clone>(
    storage: &S,
    at_call: u64,
    fault: Fault,
    replace: bool,
    after_death: &impl AsyncFn(),
) -> bool {
    if replace {
        save(storage, "guest", OLD, false).await.expect("the older image");
    }
    let faulty = FaultyStorage::new(storage.clone(), at_call, fault);
    let outcome = save(&faulty, "guest", NEW, replace).await;
    let context = || format!("{fault:?} at call {at_call} of {:?}, replace {replace}", faulty.calls());
    if matches!(fault, Fault::Die | Fault::DieAfter) && faulty.was_met() {
        after_death().await;
    }
    assert_eq!(outcome.is_err(), faulty.was_met(), "{}", context());
    let listed: Vec<_> = storage.list().await.expect("list").into_iter().map(|info| info.name).collect();
    match &listed[..] {
        [] => assert!(outcome.is_err() && !replace, "no image: {}", context()),
        [name] if name == "guest" => {
            let found = restore(storage, "guest").await;
            let allowed =
                if outcome.is_ok() { found == NEW } else { found == NEW || (replace && found == OLD) };
            assert!(allowed, "{found:?}: {}", context());
            storage.remove("guest").await.expect("remove");
        }
        other => panic!("{other:?}: {}", context()),
    }
    let leftovers = storage.leftovers().await.expect("leftovers");
    // Who cannot be asked to clean up leaves something: a dead process, or a fault at that very call.
    let may_leave = matches!(fault, Fault::Die | Fault::DieAfter)
        || matches!(faulty.calls().last(), Some(&"create" | &"abandon" | &"publish"));
    assert!(leftovers.len() <= usize::from(may_leave), "{}", context());
    for leftover in leftovers {
        storage.remove(&leftover.name).await.expect("remove a leftover");
    }
    faulty.was_met()
}

#[tokio::test]
async fn memory_survives_a_fault_at_every_point() {
    let storage = MemoryStorage::new();
    let power_cut = storage.clone();
    try_every_point(&storage, async || power_cut.lose_unsynced()).await;
}

#[tokio::test]
async fn a_local_directory_survives_a_fault_at_every_point() {
    let directory = scratch();
    let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
    try_every_point(&storage, async || {}).await;
}

/// The same below the client: every single call of NFS fails, has its answer lost, or is when the
/// server restarts and forgets.
#[tokio::test]
async fn nfs_survives_a_fault_at_every_call_of_the_protocol() {
    for fault in [
        wire::Fault::Status(nfsstat3::NFS3ERR_NOSPC),
        wire::Fault::LoseReply,
        wire::Fault::Restart,
        wire::Fault::RestartSameVerifier,
    ] {
        for replace in [false, true] {
            let mut nth = 1;
            while call_fails_safely(nth, fault, replace).await {
                nth += 1;
            }
            // exists, create, set mode, write, commit twice, read back thrice, publish at the least.
            assert!(nth > 10, "only {nth} calls were tried");
        }
    }
}

/// One run; whether its fault was met at all.
async fn call_fails_safely(nth: u64, fault: wire::Fault, replace: bool) -> bool {
    let directory = scratch();
    if replace {
        let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
        save(&storage, "guest", OLD, false).await.expect("the older image");
    }
    let rule = wire::Rule::new(wire::Operation::Any, wire::When::Nth(nth), fault);
    let server = MisbehavingServer::start(directory.path(), vec![rule]).await;
    let saved = match server.connect("").await {
        Ok(storage) => save(&storage, "guest", NEW, replace).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let met_at = server.plan.met_at();
    let met = !met_at.is_empty();
    drop(server);
    let context = || format!("{fault:?} at call {nth}, replace {replace}: {saved:?}");
    assert!(met || saved.is_ok(), "{}", context());
    assert!(saved.is_ok() || matches!(fault, wire::Fault::Status(_)), "{}", context());
    let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
    match (storage.list().await.expect("list").len(), &saved) {
        (1, Ok(())) => assert_eq!(restore(&storage, "guest").await, NEW, "{}", context()),
        (1, Err(_)) if replace => assert_eq!(restore(&storage, "guest").await, OLD, "{}", context()),
        (0, Err(_)) if !replace => {}
        (count, _) => panic!("{count} images: {}", context()),
    }
    // Only a name that may not be removed stays.
    let may_leave = met_at == [wire::Operation::Remove] && matches!(fault, wire::Fault::Status(_));
    let leftovers = storage.leftovers().await.expect("leftovers");
    assert!(leftovers.is_empty() || may_leave, "{leftovers:?}: {}", context());
    met
}

#[tokio::test]
async fn nfs_survives_a_fault_at_every_point() {
    let directory = scratch();
    let server = MisbehavingServer::start(directory.path(), Vec::new()).await;
    let storage = server.connect("").await.unwrap();
    // Client and server are the same machine, and its power fails.
    try_every_point(&storage, async || server.forget().await).await;
}

/// The client dies at every call of the protocol: no later one reaches the server.
#[tokio::test]
async fn nfs_survives_the_clients_death_at_every_call_of_the_protocol() {
    for replace in [false, true] {
        let mut nth = 1;
        while dies_safely(nth, replace).await {
            nth += 1;
        }
        assert!(nth > 10, "only {nth} calls were tried");
    }
}

/// One run; whether the client died at all.
async fn dies_safely(nth: u64, replace: bool) -> bool {
    let directory = scratch();
    let storage = LocalStorage::open(directory.path(), Arc::new(Inline)).unwrap();
    if replace {
        save(&storage, "guest", OLD, false).await.expect("the older image");
    }
    let rule = wire::Rule::new(wire::Operation::Any, wire::When::Nth(nth), wire::Fault::ClientDead);
    let server = MisbehavingServer::start(directory.path(), vec![rule]).await;
    let saving = async {
        let client = server.connect("").await.expect("nothing else is wrong");
        save(&client, "guest", NEW, replace).await.expect("nothing else is wrong");
    };
    // Who has died cleans nothing up.
    let died = tokio::select! {
        () = saving => false,
        () = server.held() => true,
    };
    server.forget().await;
    let listed = storage.list().await.expect("list").len();
    match (listed, replace) {
        (0, false) => assert!(died),
        (1, _) => {
            let found = restore(&storage, "guest").await;
            assert!(found == NEW || (replace && died && found == OLD), "{found:?} at call {nth}");
        }
        _ => panic!("{listed} images at call {nth}, replace {replace}"),
    }
    // The file itself, and the claim to its name.
    let leftovers = storage.leftovers().await.expect("leftovers");
    assert!(leftovers.len() <= if died { 2 } else { 0 }, "{leftovers:?} at call {nth}");
    died
}
