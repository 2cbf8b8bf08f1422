//! The NFS client against nfs-ganesha: conformance, errors, and faults in the middle of saves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::engine::{EngineError, Phase, Progress};
use comio_core::storage::{CreateOptions, Storage, StorageError, StorageErrorKind};
use comio_core::testing::conformance;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::{Guest, restore, save, save_seen};
use crate::lab::{Export, Lab, MOUNT_PORT, NFS_PORT, OPEN, has, is_open, pause};
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
    let squashed = Export { name: "squashed", access: "RW", squash: "Root_Squash", ..OPEN };
    let read_only = Export { name: "readonly", access: "RO", squash: "No_Root_Squash", ..OPEN };
    let closed = Export { name: "closed", access: "None", squash: "No_Root_Squash", ..OPEN };
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

/// Saves `guest` while `disturb` does something to the server when `come_so_far` returns, which must
/// be within the save.
fn save_disturbed(
    storage: &NfsStorage,
    guest: Guest,
    come_so_far: impl FnOnce(&Progress) + Send,
    disturb: impl FnOnce() + Send,
) -> Result<(), EngineError> {
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let disturber = scope.spawn(move || {
            let _context = runtime.enter();
            come_so_far(&seen);
            assert_ne!(seen.phase(), Phase::Done, "the save was over before it was disturbed");
            disturb();
        });
        let save = save_seen(storage, "guest", guest, false, &progress);
        let saved = block_in_scope(async { tokio::time::timeout(SAVE_LIMIT, save).await });
        disturber.join().unwrap();
        saved.expect("the save ends")
    })
}

/// For [`save_disturbed`]: so many bytes are stored.
fn stored(at_bytes: u64) -> impl FnOnce(&Progress) + Send {
    move |seen| {
        while seen.stored_bytes() < at_bytes && seen.phase() != Phase::Done {
            pause(Duration::from_millis(1));
        }
    }
}

fn block_in_scope<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

const KILLS: u64 = 20;
/// Which kill is followed by the long pause.
const LONG_PAUSE_AT: u64 = 7;
/// How often a save calls these at the least; what counts as a WRITE is measured.
const CALLS: [(Operation, u64); 6] = [
    (Operation::Create, 1),
    (Operation::SetAttributes, 1),
    (Operation::Commit, 3),
    (Operation::Read, 3),
    (Operation::Link, 1),
    (Operation::Remove, 1),
];

/// A call of a save that makes so many WRITEs: every other time a WRITE, else one of the few before
/// and after them, which are where names and promises are made.
fn random_call(random: &mut ChaCha8Rng, kill: u64, writes: u64) -> (Operation, u64) {
    if kill.is_multiple_of(2) {
        return (Operation::Write, random.random_range(1..=writes));
    }
    let (operation, count) = CALLS[random.random_range(0..CALLS.len())];
    (operation, random.random_range(1..=count))
}

/// The server behind a wire with this fault.
async fn wire_to(lab: &Lab, rule: Rule) -> (MisbehavingWire, NfsStorage) {
    let wire = MisbehavingWire::start(lab.service(NFS_PORT), lab.service(MOUNT_PORT), vec![rule]).await;
    let storage = NfsStorage::connect(&wire.url("/open")).await.unwrap();
    (wire, storage)
}

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
    let pages = 8 << 10;
    let counting = Rule::new(Operation::Write, When::Nth(u64::MAX), Fault::Hold);
    let (wire, storage) = block_in_scope(wire_to(&lab, counting));
    block_in_scope(save(&storage, "guest", Guest { seed: 0, pages }, false)).unwrap();
    block_in_scope(storage.remove("guest")).unwrap();
    let writes = wire.plan.seen();
    for kill in 0..KILLS {
        let guest = Guest { seed: kill + 1, pages };
        let (operation, nth) = random_call(&mut random, kill, writes);
        // The call waits for the kill, which so falls at it, wherever the others are.
        let (wire, storage) =
            block_in_scope(wire_to(&lab, Rule::new(operation, When::Nth(nth), Fault::Hold)));
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
        let saved = save_disturbed(&storage, guest, |_| block_in_scope(wire.held()), disturb);
        println!("killed at {operation:?} {nth}, away {away:?}: {saved:?} after {:?}", begin.elapsed());
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
    let saved = save_disturbed(&storage, guest, stored(16 << 20), || {
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
    let saved = save_disturbed(&storage, Guest { seed: 1, pages: 16 << 10 }, stored(16 << 20), || {
        lab.cut_link();
        cut = Some(Instant::now());
    });
    let took = cut.expect("the link was cut").elapsed();
    let EngineError::Storage(error) = saved.expect_err("soft gives up") else { panic!("a storage's error") };
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    // Four seconds for the save, and half of one to see that nothing can be removed either.
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(6), "{took:?}: {error}");
}

/// The calls that give the image its name, which only a server with hard links has.
#[test]
fn a_client_that_dies_at_the_last_calls_leaves_no_image_or_a_whole_one() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(64);
    let guest = Guest { seed: 1, pages: 300 };
    block_on(async {
        for (at, images) in [(Operation::Link, 0), (Operation::Remove, 1)] {
            let (wire, storage) = wire_to(&lab, Rule::new(at, When::Nth(1), Fault::ClientDead)).await;
            tokio::select! {
                saved = save(&storage, "guest", guest, false) => panic!("{at:?} was not called: {saved:?}"),
                () = wire.held() => {}
            }
            let storage = NfsStorage::connect(&lab.url("open", "")).await.unwrap();
            assert_eq!(storage.list().await.unwrap().len(), images, "{at:?}");
            if images == 1 {
                assert_eq!(restore(&storage, "guest").await, guest);
                storage.remove("guest").await.unwrap();
            }
            let leftovers = storage.leftovers().await.unwrap();
            assert_eq!(leftovers.len(), 1, "{at:?}");
            storage.remove(&leftovers[0].name).await.unwrap();
        }
    });
}

#[test]
fn a_port_that_the_server_wants_low_is_low_for_root_and_asked_for_of_others() {
    if !is_open() {
        return;
    }
    let lab = Lab::with_exports(64, &[Export { low_ports_only: true, ..OPEN }]);
    block_on(async {
        create(&lab.url("open", "")).await.expect("root comes from a port below 1024");
        let error = create(&lab.url("open", "noresvport")).await.expect_err("another port");
        assert_eq!(error.kind, StorageErrorKind::Permission, "{error}");
        assert!(error.to_string().contains("below 1024"), "{error}");
    });
}

#[test]
fn a_server_is_reached_by_its_ipv6_address() {
    if !is_open() {
        return;
    }
    let lab = Lab::start(64);
    block_on(async {
        let url = lab.url_text("/open", "").replace(&lab.host(), &format!("[{}]", lab.host_v6()));
        conformance(&NfsStorage::connect(&NfsUrl::parse(&url).unwrap()).await.unwrap()).await;
    });
}

#[test]
fn throughput_is_that_of_libnfs_and_of_the_link() {
    if !is_open() {
        return;
    }
    assert!(has("nfs-cp"), "ci/nfs installs what is needed");
    crate::speed::glance();
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
    let saved = save_disturbed(&storage, guest, stored(8 << 20), || {
        lab.freeze_server(true);
        pause(Duration::from_secs(4));
        lab.freeze_server(false);
    });
    block_in_scope(check_outcome(&storage, saved, guest));
}
