//! The NFS client against nfs-ganesha: conformance, errors, and faults in the middle of saves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::engine::{EngineError, Progress};
use comio_core::storage::{CreateOptions, Storage, StorageError, StorageErrorKind};
use comio_core::testing::conformance;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::{Guest, restore, save, save_seen};
use crate::lab::{Export, Lab, MOUNT_PORT, NFS_PORT, OPEN, is_open, pause};
use crate::misbehaving::{Fault, MisbehavingWire, Operation, Rule, When};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn nfs_conforms_on_ganesha() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(256);
    for options in ["", "nconnect=1&noresvport", "wsize=65536&rsize=32768&nconnect=4"] {
        block_on(async {
            conformance(&NfsStorage::connect(&lab.url("open", options)).await.unwrap()).await;
        });
    }
}

#[test]
fn ports_are_asked_of_the_portmapper_and_the_export_is_found_in_the_path() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(64);
    std::fs::create_dir_all(lab.path("open").join("a/b")).unwrap();
    block_on(async {
        let url = NfsUrl::parse(&format!("nfs://{}/open/a/b", lab.host())).unwrap();
        let storage = NfsStorage::connect(&url).await.unwrap();
        let guest = Guest { seed: 1, pages: 300 };
        save(&storage, "guest", guest, false).await.unwrap();
        assert_eq!(restore(&storage, "guest").await, guest);
        let image = lab.path("open").join("a/b/guest");
        let mode = std::os::unix::fs::MetadataExt::mode(&image.metadata().unwrap());
        assert_eq!(mode & 0o7777, 0o600, "guest memory is for its owner alone");
    });
}

/// What a user meets who names a wrong place or has no right to it.
#[test]
fn refusals_say_what_is_wrong_and_what_to_do() {
    if !is_open() {
        return;
    }
    let squashed = Export { name: "squashed", access: "RW", squash: "Root_Squash" };
    let read_only = Export { name: "readonly", access: "RO", squash: "No_Root_Squash" };
    let closed = Export { name: "closed", access: "None", squash: "No_Root_Squash" };
    let lab = Lab::with_exports(64, &[OPEN, squashed, read_only, closed]);
    std::fs::write(lab.path("open").join("file"), b"no image").unwrap();
    block_on(async {
        for (export, options, kind, words) in [
            ("nowhere/at/all", "", StorageErrorKind::NotFound, "/open"),
            ("open/missing", "", StorageErrorKind::NotFound, "no such file or directory"),
            ("open/file", "", StorageErrorKind::NotFound, "not a directory"),
            ("closed", "", StorageErrorKind::NotFound, "not to this host"),
            ("open", "uid=1000&gid=1000", StorageErrorKind::Permission, "user 1000 (group 1000)"),
            ("squashed", "uid=0&gid=0", StorageErrorKind::Permission, "no_root_squash"),
            ("readonly", "", StorageErrorKind::ReadOnly, "read-only"),
        ] {
            let error = create(&lab.url(export, options)).await.expect_err(export);
            assert_eq!(error.kind, kind, "{export}: {error}");
            assert!(error.to_string().contains(words), "{export}: {error}");
        }
    });
}

async fn create(url: &NfsUrl) -> Result<(), StorageError> {
    let storage = NfsStorage::connect(url).await?;
    let options = CreateOptions { replace: false, held_bytes_max: 1 << 20, unique: 7 };
    storage.create("a", options).await?.abandon().await
}

/// LINK, RENAME and REMOVE are not the same when done twice: the second attempt meets what the
/// first has done.
#[test]
fn lost_answers_about_names_are_understood() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(64);
    let guests = [Guest { seed: 1, pages: 300 }, Guest { seed: 2, pages: 300 }];
    block_on(async {
        for at in [Operation::Create, Operation::Link, Operation::Rename, Operation::Remove] {
            for fault in [Fault::LoseReply, Fault::CloseBefore, Fault::Twice] {
                let rule = Rule::new(at, When::Every(2), fault);
                let nfs = lab.service(NFS_PORT);
                let wire = MisbehavingWire::start(nfs, lab.service(MOUNT_PORT), vec![rule]).await;
                let storage = NfsStorage::connect(&wire.url("/open")).await.unwrap();
                for round in 0..4 {
                    let guest = guests[round % 2];
                    // The second of each pair replaces the first.
                    save(&storage, "guest", guest, round % 2 == 1).await.unwrap();
                    assert_eq!(restore(&storage, "guest").await, guest, "{rule:?}");
                    if round % 2 == 1 {
                        storage.remove("guest").await.unwrap();
                    }
                }
                assert_eq!(storage.list().await.unwrap(), [], "{rule:?}");
                assert_eq!(storage.leftovers().await.unwrap(), [], "{rule:?}");
                assert!(wire.plan.met()[0] > 0, "{rule:?}");
            }
        }
    });
}

#[test]
fn a_full_disk_is_told_and_the_temporary_file_is_gone() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(32);
    block_on(async {
        let storage = NfsStorage::connect(&lab.url("open", "")).await.unwrap();
        let error = save(&storage, "guest", Guest { seed: 1, pages: 16 << 10 }, false).await.unwrap_err();
        let EngineError::Storage(error) = error else { panic!("{error}") };
        assert_eq!(error.kind, StorageErrorKind::NoSpace, "{error}");
        assert!(error.to_string().contains("needs at least"), "{error}");
        assert!(error.to_string().contains("are free"), "{error}");
        assert_eq!(storage.list().await.unwrap(), []);
        assert_eq!(storage.leftovers().await.unwrap(), []);
    });
    assert_eq!(std::fs::read_dir(lab.path("open")).unwrap().count(), 0);
}

/// What a disturbed save may take: many times the longest fault, so that one which waits for ever
/// fails its test.
const SAVE_LIMIT: Duration = Duration::from_secs(180);

/// Saves `guest` while `disturb` does something to the server once the save has come so far.
fn save_disturbed(
    storage: &NfsStorage,
    name: &str,
    guest: Guest,
    at_bytes: u64,
    disturb: impl FnOnce() + Send,
) -> Result<(), EngineError> {
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    std::thread::scope(|scope| {
        let disturber = scope.spawn(move || {
            while seen.stored_bytes() < at_bytes && seen.phase() != comio_core::engine::Phase::Done {
                pause(Duration::from_millis(1));
            }
            disturb();
        });
        let save = save_seen(storage, name, guest, false, &progress);
        let saved = block_in_scope(async { tokio::time::timeout(SAVE_LIMIT, save).await });
        disturber.join().unwrap();
        saved.expect("the save ends")
    })
}

fn block_in_scope<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

const KILLS: u64 = 20;
/// Which kill is followed by the long pause.
const LONG_PAUSE_AT: u64 = 7;

#[test]
fn a_server_killed_at_random_points_loses_no_guest() {
    if !is_open() {
        return;
    }
    let mut lab = Lab::start(512);
    lab.slow_link(200_000_000);
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _context = runtime.enter();
    let storage = block_in_scope(NfsStorage::connect(&lab.url("open", ""))).unwrap();
    for kill in 0..KILLS {
        let guest = Guest { seed: kill + 1, pages: 8 << 10 };
        let at_bytes = random.random_range(0..guest.pages * 4096);
        let away = match kill {
            LONG_PAUSE_AT => Duration::from_secs(20),
            _ => Duration::from_millis(random.random_range(0..5000)),
        };
        let disturb = || {
            lab.kill_server();
            pause(away);
            lab.start_server();
        };
        let begin = Instant::now();
        let saved = save_disturbed(&storage, "guest", guest, at_bytes, disturb);
        println!("killed at {at_bytes} bytes, away {away:?}: {saved:?} after {:?}", begin.elapsed());
        block_in_scope(check_outcome(&storage, saved, guest));
    }
}

/// A save that succeeded is there, whole; one that failed has left nothing.
async fn check_outcome(storage: &NfsStorage, saved: Result<(), EngineError>, guest: Guest) {
    match saved {
        Ok(()) => {
            assert_eq!(restore(storage, "guest").await, guest);
            storage.remove("guest").await.unwrap();
        }
        Err(error) => println!("failed, with a reason: {error}"),
    }
    assert_eq!(storage.list().await.unwrap(), []);
    assert_eq!(storage.leftovers().await.unwrap(), []);
}

#[test]
fn a_black_hole_of_thirty_seconds_is_survived_and_told() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(256);
    lab.slow_link(200_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _context = runtime.enter();
    let storage = block_in_scope(NfsStorage::connect(&lab.url("open", ""))).unwrap();
    let guest = Guest { seed: 1, pages: 16 << 10 };
    let mut told = None;
    let begin = Instant::now();
    let saved = save_disturbed(&storage, "guest", guest, 16 << 20, || {
        lab.cut_link();
        let cut = Instant::now();
        while cut.elapsed() < Duration::from_secs(30) {
            told = storage.waiting().or(told.take());
            pause(Duration::from_millis(100));
        }
        lab.restore_link();
    });
    println!("{:?} with a hole of 30 s", begin.elapsed());
    saved.expect("the save waits for its server");
    let told = told.expect("the progress line says that it waits");
    assert!(told.contains("waiting for the NFS server"), "{told}");
    block_in_scope(check_outcome(&storage, Ok(()), guest));
}

#[test]
fn soft_fails_in_its_time_in_a_black_hole() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(256);
    lab.slow_link(200_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _context = runtime.enter();
    let storage = block_in_scope(NfsStorage::connect(&lab.url("open", "soft=4"))).unwrap();
    let mut cut = None;
    let saved = save_disturbed(&storage, "guest", Guest { seed: 1, pages: 16 << 10 }, 16 << 20, || {
        lab.cut_link();
        cut = Some(Instant::now());
    });
    let took = cut.expect("the link was cut").elapsed();
    let EngineError::Storage(error) = saved.expect_err("soft gives up") else { panic!("a storage's error") };
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    // Four seconds for the save, and one or two to see that nothing can be removed either.
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(8), "{took:?}: {error}");
}

#[test]
fn a_server_that_stands_still_is_waited_for() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(256);
    lab.slow_link(200_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _context = runtime.enter();
    let storage = block_in_scope(NfsStorage::connect(&lab.url("open", "timeo=10"))).unwrap();
    let guest = Guest { seed: 1, pages: 8 << 10 };
    // Longer than `timeo`: calls are repeated over connections that nobody accepts.
    let saved = save_disturbed(&storage, "guest", guest, 8 << 20, || {
        lab.freeze_server(true);
        pause(Duration::from_secs(4));
        lab.freeze_server(false);
    });
    block_in_scope(check_outcome(&storage, saved, guest));
}
