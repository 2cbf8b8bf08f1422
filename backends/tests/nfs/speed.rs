//! Throughput against nfs-ganesha, beside libnfs's `nfs-cp` and the link's own limit.
//!
//! `ci/nfs --figures` runs this in release and writes the table into `results/nfs/`; `ci/nfs` itself
//! sees that a shorter transfer reaches the same share of both.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use comio_backends::nfs::NfsStorage;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::storage::{CreateOptions, Storage};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::lab::{Lab, has, is_open, run};

const PIECE_BYTES: usize = 4 << 20;
const AT_ONCE: usize = 4;
const HELD_BYTES_MAX: usize = 128 << 20;
/// What is moved, and how often, for the figures.
const FIGURES: Amount = Amount { bytes: 1 << 30, rounds: 5 };
/// The same in every run of the tests.
const GLANCE: Amount = Amount { bytes: 256 << 20, rounds: 1 };
/// A machine that others use may have a bad moment: the best of so many glances counts.
const GLANCES_MAX: usize = 4;
/// What is to be reached of `nfs-cp`'s throughput, and of what TCP leaves of the link.
const OF_NFS_CP: f64 = 0.9;
const OF_GOODPUT: f64 = 0.95;
/// What TCP over Ethernet leaves of a link: payload over frame, with time stamps.
const GOODPUT: f64 = 1448.0 / 1514.0;
const GBIT: f64 = 1e9;

#[derive(Clone, Copy)]
struct Amount {
    bytes: u64,
    rounds: u64,
}

/// Bytes that no link can compress.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 31)).to_le_bytes()
    });
    words.take(PIECE_BYTES / 8).flatten().collect()
}

fn offsets(bytes: u64) -> impl Iterator<Item = u64> {
    (0..bytes).step_by(PIECE_BYTES)
}

/// Writes the whole file and makes it durable; gives the seconds.
async fn write(storage: &NfsStorage, name: &str, bytes: u64, unique: u64, noise: &[u8]) -> f64 {
    let pool = BufferPool::new(2 * HELD_BYTES_MAX, PIECE_BYTES);
    let options = CreateOptions { replace: true, held_bytes_max: HELD_BYTES_MAX, unique };
    let begin = Instant::now();
    let writer = storage.create(name, options).await.unwrap();
    stream::iter(offsets(bytes).map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |offset| {
            let mut buffer = pool.take_slot().await.unwrap();
            buffer.spare().copy_from_slice(noise);
            buffer.spare()[..8].copy_from_slice(&offset.to_le_bytes());
            buffer.set_len(PIECE_BYTES);
            writer.write_at(offset, Payload::Bytes(buffer)).await
        })
        .await
        .unwrap();
    writer.sync().await.unwrap();
    writer.publish().await.unwrap();
    begin.elapsed().as_secs_f64()
}

/// Reads it all and compares; gives the seconds.
async fn read(storage: &NfsStorage, name: &str, bytes: u64, noise: &[u8]) -> f64 {
    let pool = BufferPool::new(HELD_BYTES_MAX, PIECE_BYTES);
    let begin = Instant::now();
    let reader = storage.open(name).await.unwrap();
    stream::iter(offsets(bytes))
        .for_each_concurrent(AT_ONCE, async |offset| {
            let buffer = pool.take_slot().await.unwrap();
            let payload = reader.read_at(offset, PIECE_BYTES, buffer).await.unwrap();
            let bytes = payload.bytes().unwrap();
            assert_eq!(bytes[..8], offset.to_le_bytes());
            assert!(bytes[8..] == noise[8..], "what was read is not what was written");
        })
        .await;
    begin.elapsed().as_secs_f64()
}

fn nfs_cp(from: &str, to: &str) -> f64 {
    let begin = Instant::now();
    run(Command::new("nfs-cp").args([from, to]));
    begin.elapsed().as_secs_f64()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// MiB per second.
#[expect(clippy::cast_precision_loss, reason = "a gibibyte is exact in a double")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    (bytes >> 20) as f64 / seconds
}

/// Seconds of some rounds, ours and theirs in turn: writes, then reads.
fn rounds(
    lab: &Lab,
    storage: &NfsStorage,
    runtime: &tokio::runtime::Runtime,
    amount: Amount,
) -> [[Vec<f64>; 2]; 2] {
    let noise = noise();
    let local = tempfile::tempdir_in("/dev/shm").unwrap();
    // nfs-cp writes to new files only.
    let (source, back) = (local.path().join("source"), local.path().join("back"));
    let bytes: Vec<u8> = offsets(amount.bytes).flat_map(|_| noise.iter().copied()).collect();
    std::fs::write(&source, bytes).unwrap();
    let (source, back) = (source.to_str().unwrap(), back.to_str().unwrap());
    let theirs = lab.url_text("/open/theirs", "version=3&uid=0&gid=0");
    let mut seconds: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..amount.rounds {
        seconds[0][0].push(runtime.block_on(write(storage, "ours", amount.bytes, round, &noise)));
        seconds[0][1].push(nfs_cp(source, &theirs));
        seconds[1][0].push(runtime.block_on(read(storage, "ours", amount.bytes, &noise)));
        seconds[1][1].push(nfs_cp(&theirs, back));
        std::fs::remove_file(back).unwrap();
        runtime.block_on(async {
            for name in ["ours", "theirs"] {
                storage.remove(name).await.unwrap();
            }
        });
    }
    seconds
}

/// Medians of ours and of theirs in MiB per second, writing and reading.
fn measure(
    lab: &Lab,
    storage: &NfsStorage,
    runtime: &tokio::runtime::Runtime,
    amount: Amount,
) -> [[f64; 2]; 2] {
    let rates = rounds(lab, storage, runtime, amount);
    rates.map(|both| both.map(|seconds| rate(amount.bytes, median(seconds))))
}

/// What TCP carries over a link of 1 Gbit/s, in MiB per second.
fn goodput() -> f64 {
    GBIT / 8.0 * GOODPUT / f64::from(1 << 20)
}

/// Whether ours is short of what is to be reached.
fn is_slow([ours, theirs]: [f64; 2], goodput: Option<f64>) -> bool {
    ours < OF_NFS_CP * theirs || goodput.is_some_and(|goodput| ours < OF_GOODPUT * goodput)
}

/// Part of `ganesha::`, so that `ci/nfs` runs it.
pub(crate) fn glance() {
    let lab = Lab::start(1 << 10);
    lab.slow_link(1_000_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let storage = runtime.block_on(NfsStorage::connect(&lab.url("open", ""))).unwrap();
    let seen = std::iter::repeat_with(|| measure(&lab, &storage, &runtime, GLANCE));
    let mut slow = [true; 2];
    for rates in seen.take(GLANCES_MAX) {
        println!("MiB/s of ours and nfs-cp, writing and reading: {rates:.0?} of {:.0}", goodput());
        for (slow, rates) in slow.iter_mut().zip(rates) {
            // Where nfs-cp does not fill the link either, the machine is too busy for it.
            let link_counts = rates[1] >= OF_GOODPUT * goodput();
            *slow &= is_slow(rates, link_counts.then(goodput));
        }
        if slow == [false; 2] {
            return;
        }
    }
    panic!("too slow (writing, reading): {slow:?}");
}

#[test]
fn figures() {
    let Some(table) = std::env::var_os("COMIO_NFS_FIGURES") else {
        println!("skipped: ci/nfs --figures runs it");
        return;
    };
    assert!(is_open() && has("nfs-cp"), "ci/nfs installs what is needed");
    let lab = Lab::start(3 << 10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let storage = runtime.block_on(NfsStorage::connect(&lab.url("open", ""))).unwrap();
    let mut text = String::from(
        "| link | operation | ours MiB/s | nfs-cp MiB/s | ours / nfs-cp | ours / TCP goodput |\n|---|---|---|---|---|---|\n",
    );
    let mut slow = Vec::new();
    for (link, goodput) in [("unlimited", None), ("1gbit", Some(goodput()))] {
        if goodput.is_some() {
            lab.slow_link(1_000_000_000);
        }
        let rates = measure(&lab, &storage, &runtime, FIGURES);
        for (operation, [ours, theirs]) in ["write", "read"].into_iter().zip(rates) {
            if is_slow([ours, theirs], goodput) {
                slow.push((link, operation));
            }
            let of_goodput = goodput.map_or(String::new(), |goodput| format!("{:.3}", ours / goodput));
            let ratio = ours / theirs;
            writeln!(text, "| {link} | {operation} | {ours:.0} | {theirs:.0} | {ratio:.2} | {of_goodput} |")
                .unwrap();
        }
    }
    print!("{text}");
    std::fs::write(table, text).unwrap();
    assert!(slow.is_empty(), "slower than {OF_NFS_CP} of nfs-cp or {OF_GOODPUT} of TCP: {slow:?}");
}
