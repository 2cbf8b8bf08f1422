//! The NFS client against a server that misbehaves: every save ends with a whole image, or
//! with an error that says why and nothing left behind.

use std::path::Path;
use std::time::{Duration, Instant};

use comio_backends::nfs::NfsStorage;
use comio_core::buffer::{Buffer, Payload};
use comio_core::engine::{EngineError, Phase, Progress};
use comio_core::storage::{CreateOptions, Storage, StorageError, StorageErrorKind, temporary_name};
use comio_core::testing::conformance;
use futures::FutureExt;
use nfs3_types::nfs3::nfsstat3;

use crate::guest::{Guest, restore, save, save_seen};
use crate::misbehaving::{Fault, MisbehavingServer, Operation, Rule, When};
use crate::scratch;

const OLD: Guest = Guest { seed: 3, pages: 100 };
const GUEST: Guest = Guest { seed: 4, pages: 1200 };
/// Many calls even for a small guest; silence is noticed after 0.3 s.
const SMALL: &str = "&wsize=65536&rsize=65536&timeo=3";

const OPERATIONS: [Operation; 8] = [
    Operation::Lookup,
    Operation::Create,
    Operation::SetAttributes,
    Operation::Write,
    Operation::Commit,
    Operation::Read,
    Operation::Rename,
    Operation::ReadDirectory,
];

fn start(directory: &Path, rules: &[Rule]) -> impl Future<Output = MisbehavingServer> {
    MisbehavingServer::start(directory, rules.to_vec())
}

/// Saves over an older image and restores, with these rules; every rule must have been met.
async fn save_and_restore(rules: &[Rule]) {
    let met = save_and_restore_with(rules).await;
    assert!(met.iter().all(|met| *met > 0), "{met:?} of {rules:?}");
}

/// The same; gives how often each rule was met.
async fn save_and_restore_with(rules: &[Rule]) -> Vec<usize> {
    let directory = scratch();
    let server = start(directory.path(), rules).await;
    let storage = server.connect(SMALL).await.unwrap_or_else(|error| panic!("{rules:?}: {error}"));
    for guest in [OLD, GUEST] {
        let saved = save(&storage, "guest", guest, true).await;
        saved.unwrap_or_else(|error| panic!("{rules:?}: {error}"));
        assert_eq!(restore(&storage, "guest").await, guest, "{rules:?}");
    }
    assert_eq!(storage.leftovers().await.unwrap(), [], "{rules:?}");
    server.plan.met()
}

#[tokio::test]
async fn without_faults_the_server_conforms() {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    conformance(&server.connect("").await.unwrap()).await;
}

#[tokio::test]
async fn broken_connections_and_records_are_survived_at_every_operation() {
    for at in OPERATIONS {
        for fault in [
            Fault::CloseBefore,
            Fault::LoseReply,
            Fault::Twice,
            Fault::Fragments,
            Fault::Transaction(0x7777_7777),
            Fault::Truncated,
            Fault::Longer,
            Fault::Cut,
            Fault::Huge,
            Fault::Restart,
            Fault::RestartSameVerifier,
        ] {
            save_and_restore(&[Rule::new(at, When::Nth(1), fault)]).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_asked_again_over_another_connection() {
    for at in OPERATIONS {
        save_and_restore(&[Rule::new(at, When::Nth(1), Fault::Silence)]).await;
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_asked_for_again_over_another_connection() {
    for at in OPERATIONS {
        save_and_restore(&[Rule::new(at, When::Nth(1), Fault::Stall)]).await;
    }
    // Data of an image that is restored, over both connections.
    save_and_restore(&[Rule::new(Operation::Read, When::Every(10), Fault::Stall)]).await;
}

#[tokio::test]
async fn what_a_restarted_server_has_forgotten_is_written_again() {
    for fault in [Fault::Restart, Fault::RestartSameVerifier] {
        for at in [Operation::Write, Operation::Commit] {
            for nth in [2, 3, 5] {
                save_and_restore(&[Rule::new(at, When::Nth(nth), fault)]).await;
            }
        }
        save_and_restore(&[Rule::new(Operation::Write, When::Every(30), fault)]).await;
    }
}

#[tokio::test]
async fn another_verifier_alone_is_reason_enough_to_write_again() {
    for at in [Operation::Write, Operation::Commit] {
        save_and_restore(&[Rule::new(at, When::Every(7), Fault::NewVerifier)]).await;
        save_and_restore(&[Rule::new(at, When::Nth(2), Fault::NewVerifier)]).await;
    }
}

#[tokio::test]
async fn short_writes_are_continued() {
    save_and_restore(&[Rule::new(Operation::Write, When::Every(2), Fault::ShortWrite)]).await;
    save_and_restore(&[
        Rule::new(Operation::Write, When::Every(3), Fault::ShortWrite),
        Rule::new(Operation::Commit, When::Nth(2), Fault::Restart),
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let later = Fault::Status(nfsstat3::NFS3ERR_JUKEBOX);
    for at in OPERATIONS {
        save_and_restore(&[Rule::new(at, When::Nth(1), later)]).await;
    }
    save_and_restore(&[Rule::new(Operation::Write, When::Every(5), later)]).await;
}

#[tokio::test]
async fn late_answers_are_waited_for() {
    let late = Fault::Late(Duration::from_millis(20));
    save_and_restore(&[Rule::new(Operation::Write, When::Every(3), late)]).await;
}

#[tokio::test]
async fn random_faults_at_every_operation_are_survived() {
    let kinds = [
        (Operation::Any, 4, Fault::CloseBefore),
        (Operation::Any, 4, Fault::LoseReply),
        (Operation::Any, 4, Fault::Twice),
        (Operation::Write, 10, Fault::ShortWrite),
        (Operation::Write, 3, Fault::Restart),
        (Operation::Write, 5, Fault::Status(nfsstat3::NFS3ERR_JUKEBOX)),
    ];
    let mut met = [0; 6];
    for seed in 0..8 {
        let rule =
            |(i, (at, percent, fault)): (u64, _)| Rule::new(at, When::Percent(percent, seed * 10 + i), fault);
        let rules: Vec<_> = (0..).zip(kinds).map(rule).collect();
        for (met, more) in met.iter_mut().zip(save_and_restore_with(&rules).await) {
            *met += more;
        }
    }
    assert!(met.iter().all(|met| *met > 0), "{met:?}");
}

/// Runs a save that must fail, over an older image; gives the error.
async fn fail(at: Operation, when: When, fault: Fault, options: &str) -> StorageError {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    save(&server.connect("").await.unwrap(), "guest", OLD, false).await.expect("the older image");
    drop(server);
    let rule = Rule::new(at, when, fault);
    let server = start(directory.path(), &[rule]).await;
    let storage = server.connect(&format!("{SMALL}{options}")).await.expect("connect");
    let error = match save(&storage, "guest", GUEST, true).await {
        Err(EngineError::Storage(error)) => error,
        other => panic!("{rule:?}: {other:?}"),
    };
    drop(server);
    let server = start(directory.path(), &[]).await;
    let storage = server.connect("").await.unwrap();
    assert_eq!(restore(&storage, "guest").await, OLD, "{rule:?}");
    if error.kind != StorageErrorKind::Unreachable {
        assert_eq!(storage.leftovers().await.unwrap(), [], "{rule:?}");
    }
    error
}

#[tokio::test]
async fn what_the_server_refuses_is_told_by_meaning() {
    for at in
        [Operation::Create, Operation::SetAttributes, Operation::Write, Operation::Commit, Operation::Rename]
    {
        for (status, kind, word) in [
            (nfsstat3::NFS3ERR_NOSPC, StorageErrorKind::NoSpace, "full"),
            (nfsstat3::NFS3ERR_DQUOT, StorageErrorKind::NoSpace, "quota"),
            (nfsstat3::NFS3ERR_ACCES, StorageErrorKind::Permission, "uid="),
            (nfsstat3::NFS3ERR_ROFS, StorageErrorKind::ReadOnly, "read-only"),
            (nfsstat3::NFS3ERR_STALE, StorageErrorKind::Stale, "removed"),
            (nfsstat3::NFS3ERR_IO, StorageErrorKind::Other, "NFS3ERR_IO"),
        ] {
            let error = fail(at, When::Nth(1), Fault::Status(status), "").await;
            assert_eq!(error.kind, kind, "{at:?}: {error}");
            assert!(error.to_string().contains(word), "{at:?}: {error}");
            assert!(!error.to_string().contains("comio-part"), "{at:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_told_with_what_was_needed_and_free() {
    let full = Fault::Status(nfsstat3::NFS3ERR_NOSPC);
    for at in [Operation::Write, Operation::Commit] {
        let error = fail(at, When::Nth(1), full, "").await;
        assert!(error.to_string().contains("needs at least"), "{error}");
        assert!(error.to_string().contains("are free"), "{error}");
    }
}

#[tokio::test]
async fn after_a_failed_commit_nothing_is_trusted() {
    let directory = scratch();
    let rule = Rule::new(Operation::Commit, When::Nth(1), Fault::Status(nfsstat3::NFS3ERR_IO));
    let server = start(directory.path(), &[rule]).await;
    let storage = server.connect("").await.unwrap();
    let writer = storage.create("a", options(1)).await.unwrap();
    writer.write_at(0, payload(1, 4096)).await.unwrap();
    writer.sync().await.unwrap_err();
    assert_eq!(writer.sync().await.unwrap_err().kind, StorageErrorKind::Corrupt);
    writer.abandon().await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_speaks_sense_is_given_up() {
    for fault in [Fault::Huge, Fault::Cut, Fault::Truncated, Fault::MoreData] {
        let at = if fault == Fault::MoreData { Operation::Read } else { Operation::Write };
        // A truncated record is a lost connection, which only `soft` gives up.
        let soft = if fault == Fault::Truncated { "&soft=1" } else { "" };
        let kind = if fault == Fault::Truncated {
            StorageErrorKind::Unreachable
        } else {
            StorageErrorKind::Protocol
        };
        let error = fail(at, When::Always, fault, soft).await;
        assert_eq!(error.kind, kind, "{fault:?}: {error}");
    }
    let error = fail(Operation::Write, When::Nth(1), Fault::Garbage, "").await;
    assert_eq!(error.kind, StorageErrorKind::Other, "{error}");
}

#[tokio::test]
async fn a_server_that_forgets_again_and_again_is_given_up() {
    let error = fail(Operation::Commit, When::Always, Fault::NewVerifier, "").await;
    assert_eq!(error.kind, StorageErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn soft_gives_up_a_silent_server_in_time() {
    for fault in [Fault::Silence, Fault::Stall, Fault::CloseBefore] {
        let begin = Instant::now();
        let error = fail(Operation::Write, When::Always, fault, "&soft=1").await;
        assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
        // The save's own second, and one to find that nothing can be removed either.
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

/// Data that begins to come and breaks off, again and again.
#[tokio::test]
async fn soft_gives_up_data_that_never_comes_whole_in_time() {
    let directory = scratch();
    std::fs::write(directory.path().join("a"), vec![7; 1 << 20]).unwrap();
    let stalls = Rule::new(Operation::Read, When::Always, Fault::Stall);
    let server = start(directory.path(), &[stalls]).await;
    let storage = server.connect(&format!("{SMALL}&soft=1")).await.unwrap();
    let begin = Instant::now();
    let reader = storage.open("a").await.unwrap();
    let error = reader.read_at(0, 1 << 20, Buffer::unpooled(vec![0; 1 << 20])).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}: {error}", begin.elapsed());
}

/// Every call that is made again over a new connection sends its bytes again: they say nothing of the
/// server.
#[tokio::test]
async fn soft_gives_up_a_frozen_server_in_time_however_often_it_is_asked() {
    let directory = scratch();
    let frozen = Rule::new(Operation::Any, When::From(20), Fault::Silence);
    let server = start(directory.path(), &[frozen]).await;
    let storage = server.connect(&format!("{SMALL}&soft=2")).await.unwrap();
    let begin = Instant::now();
    let Err(EngineError::Storage(error)) = save(&storage, "guest", GUEST, false).await else { panic!() };
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}: {error}", begin.elapsed());
}

/// Whatever call the server does not answer, and although `hard` waits for it.
#[tokio::test]
async fn a_save_that_is_stopped_does_not_wait_for_the_server() {
    let mut from = 1;
    loop {
        let directory = scratch();
        let server = start(directory.path(), &[]).await;
        // The server connects well, then one call after the other finds it frozen.
        let storage = server.connect("").await.unwrap();
        let frozen = Rule::new(Operation::Any, When::From(from), Fault::Silence);
        server.plan.add(frozen);
        let progress = Progress::default();
        let stopping = async {
            while server.plan.met().last() == Some(&0) {
                pause().await;
            }
            progress.stop();
            Instant::now()
        };
        let saving = save_seen(&storage, "guest", OLD, false, &progress).boxed();
        let (saved, stopped) = match futures::future::select(saving, stopping.boxed()).await {
            // Nothing was left for the server not to answer.
            futures::future::Either::Left((saved, _)) => {
                saved.unwrap();
                break;
            }
            futures::future::Either::Right((stopped, saving)) if progress.phase() == Phase::Publishing => {
                // From here on it cannot be stopped: the image may be visible already.
                drop((saving, stopped));
                break;
            }
            futures::future::Either::Right((stopped, saving)) => (saving.await, stopped),
        };
        assert!(matches!(saved, Err(EngineError::Stopped)), "from call {from}: {saved:?}");
        assert!(stopped.elapsed() < Duration::from_secs(1), "from call {from}: {:?}", stopped.elapsed());
        from += 1;
    }
    assert!(from > 6, "only {from} calls were tried");
}

/// Lets the other futures of a test go on.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn an_image_whose_renaming_has_no_answer_is_in_doubt() {
    let directory = scratch();
    let rule = Rule::new(Operation::Rename, When::Always, Fault::LoseReply);
    let server = start(directory.path(), &[rule]).await;
    let storage = server.connect("&soft=1").await.unwrap();
    let Err(EngineError::Storage(error)) = save(&storage, "guest", GUEST, true).await else { panic!() };
    assert_eq!(error.kind, StorageErrorKind::InDoubt, "{error}");
    assert!(error.to_string().contains("comio ls"), "{error}");
    // In truth it was published.
    assert_eq!(restore(&storage, "guest").await, GUEST);
}

/// As knfsd on a file system without hard links.
#[tokio::test]
async fn a_server_that_permits_no_links_gives_names_all_the_same() {
    let directory = scratch();
    let rule = Rule::new(Operation::Link, When::Always, Fault::Answer(nfsstat3::NFS3ERR_PERM));
    let server = start(directory.path(), &[rule]).await;
    let storage = server.connect("").await.unwrap();
    save(&storage, "guest", GUEST, false).await.unwrap();
    assert_eq!(restore(&storage, "guest").await, GUEST);
    assert_eq!(storage.leftovers().await.unwrap(), []);
    assert!(server.plan.met()[0] > 0);
}

#[tokio::test]
async fn who_removes_a_file_being_written_is_told_of_at_its_end() {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    let storage = server.connect("").await.unwrap();
    for (unique, replace) in [(1, false), (2, true)] {
        let writer = storage.create("a", CreateOptions { replace, ..options(unique) }).await.unwrap();
        storage.remove(&temporary_name("a", unique)).await.unwrap();
        let error = writer.publish().await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Stale, "{error}");
        assert!(error.to_string().contains("somebody has removed"), "{error}");
    }
    assert_eq!(storage.leftovers().await.unwrap(), []);
}

#[tokio::test]
async fn a_full_disk_at_commit_is_told_with_all_that_was_written() {
    let directory = scratch();
    let full = Rule::new(Operation::Commit, When::Nth(2), Fault::Status(nfsstat3::NFS3ERR_NOSPC));
    let server = start(directory.path(), &[full]).await;
    let storage = server.connect("&nconnect=1").await.unwrap();
    let writer = storage.create("a", options(1)).await.unwrap();
    writer.write_at(0, payload(1, 1 << 20)).await.unwrap();
    writer.sync().await.unwrap();
    writer.write_at(1 << 20, payload(2, 4096)).await.unwrap();
    let error = writer.sync().await.unwrap_err();
    assert!(error.to_string().contains("needs at least 1052672 bytes"), "{error}");
    writer.abandon().await.unwrap();
}

#[tokio::test]
async fn soft_gives_up_a_server_that_puts_off_for_ever() {
    let later = Fault::Status(nfsstat3::NFS3ERR_JUKEBOX);
    for at in [Operation::Write, Operation::Commit] {
        let error = fail(at, When::Always, later, "&soft=1").await;
        assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    }
}

#[tokio::test]
async fn progress_says_when_the_server_is_waited_for() {
    let directory = scratch();
    let rule = Rule::new(Operation::Write, When::Nth(1), Fault::Late(Duration::from_secs(3)));
    let server = start(directory.path(), &[rule]).await;
    let storage = server.connect("").await.unwrap();
    assert_eq!(storage.waiting(), None);
    let writer = storage.create("a", options(1)).await.unwrap();
    let mut write = writer.write_at(0, payload(1, 4096)).boxed();
    let told = futures::future::poll_fn(|cx| {
        let done = write.poll_unpin(cx).is_ready();
        match storage.waiting() {
            Some(message) => std::task::Poll::Ready(Some(message)),
            None if done => std::task::Poll::Ready(None),
            None => {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
        }
    })
    .await;
    let told = told.expect("the server was silent for three seconds");
    assert!(told.contains("waiting for the NFS server 127.0.0.1"), "{told}");
    write.await.unwrap();
    assert_eq!(storage.waiting(), None);
    writer.abandon().await.unwrap();
}

fn options(unique: u64) -> CreateOptions {
    CreateOptions { replace: false, held_bytes_max: 64 << 20, unique }
}

fn payload(byte: u8, len: usize) -> Payload {
    Payload::Bytes(Buffer::unpooled(vec![byte; len]))
}

#[tokio::test]
async fn a_cancelled_call_leaves_the_connection_in_step() {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    let storage: NfsStorage = server.connect("&nconnect=1").await.unwrap();
    let writer = storage.create("a", options(1)).await.unwrap();
    for _ in 0..20 {
        // Polled a few times, then dropped: somewhere within a megabyte's record.
        let mut write = writer.write_at(0, payload(9, 4 << 20)).boxed();
        for _ in 0..3 {
            assert!((&mut write).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
    writer.write_at(0, payload(7, 5 << 20)).await.unwrap();
    writer.sync().await.unwrap();
    let back = writer.read_at(0, 5 << 20, Buffer::unpooled(vec![0; 5 << 20])).await.unwrap();
    assert!(back.bytes().unwrap().iter().all(|byte| *byte == 7));
    let mut read = writer.read_at(0, 5 << 20, Buffer::unpooled(vec![0; 5 << 20])).boxed();
    assert!((&mut read).now_or_never().is_none());
    drop(read);
    writer.publish().await.unwrap();
    assert_eq!(storage.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn images_that_share_a_server_get_equal_shares() {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    let storage = server.connect("&wsize=65536&nconnect=1&bandwidth=8M").await.unwrap();
    let first = storage.create("first", options(1)).await.unwrap();
    let second = storage.create("second", options(2)).await.unwrap();
    // The first asks for four times as much, and earlier: the second does not wait for all of it.
    let large = first.write_at(0, payload(1, 4 << 20)).boxed();
    let small = second.write_at(0, payload(2, 1 << 20)).boxed();
    match futures::future::select(large, small).await {
        futures::future::Either::Left(_) => panic!("the small image waited for the large one"),
        futures::future::Either::Right((small, large)) => {
            small.unwrap();
            large.await.unwrap();
        }
    }
    first.abandon().await.unwrap();
    second.abandon().await.unwrap();
}

#[tokio::test]
async fn images_that_are_read_get_equal_shares_too() {
    let directory = scratch();
    for (name, len) in [("first", 4 << 20), ("second", 1 << 20)] {
        std::fs::write(directory.path().join(name), vec![7; len]).unwrap();
    }
    let server = start(directory.path(), &[]).await;
    let storage = server.connect("&rsize=65536&nconnect=1&bandwidth=8M").await.unwrap();
    let (first, second) = (storage.open("first").await.unwrap(), storage.open("second").await.unwrap());
    let large = first.read_at(0, 4 << 20, Buffer::unpooled(vec![0; 4 << 20]));
    let small = second.read_at(0, 1 << 20, Buffer::unpooled(vec![0; 1 << 20]));
    match futures::future::select(large, small).await {
        futures::future::Either::Left(_) => panic!("the small image waited for the large one"),
        futures::future::Either::Right((small, _)) => assert_eq!(small.unwrap().len(), 1 << 20),
    }
}

#[tokio::test]
async fn the_bandwidth_limit_is_kept() {
    let directory = scratch();
    let server = start(directory.path(), &[]).await;
    let storage = server.connect("&wsize=65536&bandwidth=4M").await.unwrap();
    let writer = storage.create("a", options(1)).await.unwrap();
    let begin = Instant::now();
    writer.write_at(0, payload(1, 2 << 20)).await.unwrap();
    // The last transfer begins when all before it have had their time.
    assert!(begin.elapsed() > Duration::from_millis(490), "{:?}", begin.elapsed());
    writer.abandon().await.unwrap();
}
