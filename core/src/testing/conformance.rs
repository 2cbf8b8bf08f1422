//! What every storage must do, whatever it is made of: one suite, run against each.
//!
//! A failed check panics and names itself, as tests do.

use futures::future::try_join_all;

use crate::buffer::{Buffer, BufferPool, Payload};
use crate::storage::{
    CreateOptions, NAME_BYTES_MAX, ObjectReader, ObjectWriter, Storage, StorageErrorKind, temporary_name,
};

const MIB: usize = 1 << 20;

/// Runs the whole suite on `storage`, which must be empty, and leaves it empty.
///
/// # Panics
/// When the storage does not conform.
pub async fn conformance(storage: &dyn Storage) {
    payloads_without_bytes_are_refused(storage).await;
    conformance_but_for_payloads(storage).await;
}

/// The same for a storage of a model, which takes payloads without bytes.
///
/// # Panics
/// When the storage does not conform.
pub async fn conformance_but_for_payloads(storage: &dyn Storage) {
    let mut unique = Unique(1);
    assert_empty(storage, "at the start").await;
    an_object_comes_back_as_it_was_written(storage, &mut unique).await;
    writes_may_overlap_in_time_and_come_in_any_order(storage, &mut unique).await;
    gaps_read_as_zeros_and_later_bytes_win(storage, &mut unique).await;
    an_object_may_be_empty(storage, &mut unique).await;
    what_is_being_written_can_be_read_back(storage, &mut unique).await;
    nothing_is_visible_before_publish(storage, &mut unique).await;
    an_abandoned_object_leaves_nothing(storage, &mut unique).await;
    a_dropped_writer_leaves_at_most_a_leftover(storage, &mut unique).await;
    a_name_in_use_is_refused(storage, &mut unique).await;
    replacing_is_all_or_nothing(storage, &mut unique).await;
    of_two_writers_of_a_new_name_one_wins(storage, &mut unique).await;
    a_read_beyond_the_end_is_an_error(storage, &mut unique).await;
    what_is_not_there_is_not_found(storage).await;
    names_are_checked(storage, &mut unique).await;
    unusual_names_work(storage, &mut unique).await;
    held_buffers_come_back(storage, &mut unique).await;
    free_space_is_told_if_known(storage).await;
    assert_empty(storage, "at the end").await;
}

/// Gives every writer its own number.
struct Unique(u64);

impl Unique {
    fn options(&mut self, replace: bool) -> CreateOptions {
        self.0 += 1;
        CreateOptions { replace, held_bytes_max: 4 * MIB, unique: self.0 }
    }
}

/// Bytes that differ between offsets and between seeds.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0u32..).take(len).flat_map(u32::to_le_bytes).zip(0..len).map(|(byte, _)| byte ^ seed).collect()
}

fn payload(bytes: &[u8]) -> Payload {
    Payload::Bytes(Buffer::unpooled(bytes.to_vec()))
}

async fn put(storage: &dyn Storage, name: &str, options: CreateOptions, bytes: &[u8]) {
    let writer = storage.create(name, options).await.expect("create");
    writer.write_at(0, payload(bytes)).await.expect("write_at");
    writer.sync().await.expect("sync");
    writer.publish().await.expect("publish");
}

async fn read(reader: &dyn ObjectReader, offset: u64, len: usize) -> Vec<u8> {
    let buffer = Buffer::unpooled(vec![0xee; len + 100]);
    let payload = reader.read_at(offset, len, buffer).await.expect("read_at");
    payload.bytes().expect("bytes").to_vec()
}

async fn get(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let reader = storage.open(name).await.expect("open");
    let len = usize::try_from(reader.len()).expect("a length that fits memory");
    read(&*reader, 0, len).await
}

async fn names(storage: &dyn Storage) -> Vec<(String, u64)> {
    let mut names: Vec<_> =
        storage.list().await.expect("list").into_iter().map(|info| (info.name, info.len)).collect();
    names.sort();
    names
}

async fn assert_empty(storage: &dyn Storage, when: &str) {
    assert_eq!(names(storage).await, [], "objects {when}");
    assert_eq!(storage.leftovers().await.expect("leftovers"), [], "leftovers {when}");
}

async fn an_object_comes_back_as_it_was_written(storage: &dyn Storage, unique: &mut Unique) {
    let bytes = pattern(1, 3 * MIB + 123);
    put(storage, "whole", unique.options(false), &bytes).await;
    assert_eq!(names(storage).await, [("whole".to_owned(), bytes.len() as u64)]);
    let reader = storage.open("whole").await.expect("open");
    assert_eq!(reader.len(), bytes.len() as u64);
    assert!(!reader.is_empty());
    for (offset, len) in [(0, bytes.len()), (0, 0), (1, 1), (4095, 8192), (MIB - 1, 2), (3 * MIB, 123)] {
        let want = &bytes[offset..offset + len];
        assert!(read(&*reader, offset as u64, len).await == want, "bytes at {offset} + {len}");
    }
    storage.remove("whole").await.expect("remove");
    assert_eq!(names(storage).await, []);
}

async fn writes_may_overlap_in_time_and_come_in_any_order(storage: &dyn Storage, unique: &mut Unique) {
    let bytes = pattern(2, 5 * MIB);
    let writer = storage.create("parallel", unique.options(false)).await.expect("create");
    let piece = 300_001;
    let pieces = bytes.chunks(piece).enumerate().rev().map(|(i, chunk)| {
        let offset = (i * piece) as u64;
        writer.write_at(offset, payload(chunk))
    });
    try_join_all(pieces).await.expect("overlapping writes");
    writer.sync().await.expect("sync");
    writer.publish().await.expect("publish");
    let reader = storage.open("parallel").await.expect("open");
    let reads = (0..5).map(|i| read(&*reader, (i * MIB) as u64, MIB));
    assert!(futures::future::join_all(reads).await.concat() == bytes, "parallel reads");
    storage.remove("parallel").await.expect("remove");
}

async fn gaps_read_as_zeros_and_later_bytes_win(storage: &dyn Storage, unique: &mut Unique) {
    let writer = storage.create("sparse", unique.options(false)).await.expect("create");
    writer.write_at(2 * MIB as u64, payload(b"tail")).await.expect("write beyond the end");
    writer.write_at(0, payload(b"head")).await.expect("write");
    writer.sync().await.expect("sync");
    writer.write_at(0, payload(b"HE")).await.expect("write again");
    writer.sync().await.expect("sync again");
    writer.publish().await.expect("publish");
    let bytes = get(storage, "sparse").await;
    assert_eq!(&bytes[..4], b"HEad");
    assert!(bytes[4..2 * MIB].iter().all(|byte| *byte == 0));
    assert_eq!(&bytes[2 * MIB..], b"tail");
    storage.remove("sparse").await.expect("remove");
}

async fn an_object_may_be_empty(storage: &dyn Storage, unique: &mut Unique) {
    let writer = storage.create("empty", unique.options(false)).await.expect("create");
    writer.write_at(0, payload(b"")).await.expect("write nothing");
    writer.sync().await.expect("sync");
    writer.publish().await.expect("publish");
    let reader = storage.open("empty").await.expect("open");
    assert!(reader.is_empty());
    assert!(read(&*reader, 0, 0).await.is_empty());
    storage.remove("empty").await.expect("remove");
}

async fn what_is_being_written_can_be_read_back(storage: &dyn Storage, unique: &mut Unique) {
    let bytes = pattern(3, MIB + 5);
    let writer = storage.create("readback", unique.options(false)).await.expect("create");
    writer.write_at(4096, payload(&bytes)).await.expect("write");
    writer.sync().await.expect("sync");
    let buffer = Buffer::unpooled(vec![0; 2 * MIB]);
    let back = writer.read_at(4096, bytes.len(), buffer).await.expect("read back");
    assert!(back.bytes().expect("bytes")[..] == bytes[..], "what was written");
    let beyond = writer.read_at(4096, bytes.len() + 1, Buffer::unpooled(vec![0; 2 * MIB])).await;
    assert_eq!(beyond.expect_err("beyond the end").kind, StorageErrorKind::UnexpectedEnd);
    writer.abandon().await.expect("abandon");
}

async fn nothing_is_visible_before_publish(storage: &dyn Storage, unique: &mut Unique) {
    let writer = storage.create("hidden", unique.options(false)).await.expect("create");
    writer.write_at(0, payload(b"not yet")).await.expect("write");
    writer.sync().await.expect("sync");
    assert_eq!(names(storage).await, []);
    assert_not_found(storage, "hidden").await;
    writer.publish().await.expect("publish");
    assert_eq!(get(storage, "hidden").await, b"not yet");
    assert_eq!(storage.leftovers().await.expect("leftovers"), []);
    storage.remove("hidden").await.expect("remove");
}

async fn an_abandoned_object_leaves_nothing(storage: &dyn Storage, unique: &mut Unique) {
    let writer = storage.create("abandoned", unique.options(false)).await.expect("create");
    writer.write_at(0, payload(b"never mind")).await.expect("write");
    writer.abandon().await.expect("abandon");
    assert_empty(storage, "after abandon").await;
}

async fn a_dropped_writer_leaves_at_most_a_leftover(storage: &dyn Storage, unique: &mut Unique) {
    let options = unique.options(false);
    let temporary = temporary_name("dropped", options.unique);
    let writer = storage.create("dropped", options).await.expect("create");
    writer.write_at(0, payload(b"power cut")).await.expect("write");
    drop(writer);
    assert_eq!(names(storage).await, []);
    assert_not_found(storage, "dropped").await;
    for leftover in storage.leftovers().await.expect("leftovers") {
        assert_eq!(leftover.name, temporary);
        storage.remove(&leftover.name).await.expect("remove a leftover");
    }
    assert_empty(storage, "after the leftover was removed").await;
}

async fn a_name_in_use_is_refused(storage: &dyn Storage, unique: &mut Unique) {
    put(storage, "taken", unique.options(false), b"first").await;
    let refused = storage.create("taken", unique.options(false)).await.err().expect("refused");
    assert_eq!(refused.kind, StorageErrorKind::AlreadyExists);
    assert_eq!(get(storage, "taken").await, b"first");
    assert_eq!(storage.leftovers().await.expect("leftovers"), []);
    storage.remove("taken").await.expect("remove");
}

async fn replacing_is_all_or_nothing(storage: &dyn Storage, unique: &mut Unique) {
    put(storage, "twice", unique.options(false), b"the old one").await;
    let writer = storage.create("twice", unique.options(true)).await.expect("create");
    writer.write_at(0, payload(b"new")).await.expect("write");
    writer.sync().await.expect("sync");
    assert_eq!(get(storage, "twice").await, b"the old one");
    let old = storage.open("twice").await.expect("open");
    writer.publish().await.expect("publish");
    assert_eq!(get(storage, "twice").await, b"new");
    assert_eq!(names(storage).await, [("twice".to_owned(), 3)]);
    // A reader of the replaced object gives its bytes still, or says that they are gone.
    match old.read_at(0, 11, Buffer::unpooled(vec![0; 11])).await {
        Ok(bytes) => assert_eq!(bytes.bytes().expect("bytes")[..], b"the old one"[..]),
        Err(error) => assert_eq!(error.kind, StorageErrorKind::Stale),
    }
    storage.remove("twice").await.expect("remove");
}

async fn of_two_writers_of_a_new_name_one_wins(storage: &dyn Storage, unique: &mut Unique) {
    let mut begin = async |bytes: &'static [u8]| -> Box<dyn ObjectWriter> {
        let writer = storage.create("race", unique.options(false)).await.expect("create");
        writer.write_at(0, payload(bytes)).await.expect("write");
        writer.sync().await.expect("sync");
        writer
    };
    let (first, second) = (begin(b"first").await, begin(b"second").await);
    second.publish().await.expect("the first to publish wins");
    let error = first.publish().await.expect_err("the other must not replace it");
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
    assert_eq!(get(storage, "race").await, b"second");
    storage.remove("race").await.expect("remove");
    assert_eq!(storage.leftovers().await.expect("leftovers"), [], "the loser cleans up");
}

async fn a_read_beyond_the_end_is_an_error(storage: &dyn Storage, unique: &mut Unique) {
    put(storage, "short", unique.options(false), b"0123456789").await;
    let reader = storage.open("short").await.expect("open");
    for (offset, len) in [(0, 11), (10, 1), (11, 1), (1 << 40, 4096)] {
        let result = reader.read_at(offset, len, Buffer::unpooled(vec![0; len])).await;
        assert_eq!(result.expect_err("beyond the end").kind, StorageErrorKind::UnexpectedEnd);
    }
    storage.remove("short").await.expect("remove");
}

async fn assert_not_found(storage: &dyn Storage, name: &str) {
    let error = storage.open(name).await.err().expect("nothing to open");
    assert_eq!(error.kind, StorageErrorKind::NotFound);
}

async fn what_is_not_there_is_not_found(storage: &dyn Storage) {
    assert_not_found(storage, "nowhere").await;
    for name in ["nowhere", &temporary_name("nowhere", 1)] {
        let error = storage.remove(name).await.expect_err("nothing to remove");
        assert_eq!(error.kind, StorageErrorKind::NotFound, "{name}");
    }
}

async fn names_are_checked(storage: &dyn Storage, unique: &mut Unique) {
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    for name in ["", ".", "..", "a/b", "/a", "a\0b", &long] {
        let created = storage.create(name, unique.options(false)).await.err().expect("refused");
        assert_eq!(created.kind, StorageErrorKind::InvalidName, "create {name:?}");
        let opened = storage.open(name).await.err().expect("refused");
        assert_eq!(opened.kind, StorageErrorKind::InvalidName, "open {name:?}");
        let removed = storage.remove(name).await.expect_err("refused");
        assert_eq!(removed.kind, StorageErrorKind::InvalidName, "remove {name:?}");
    }
    let temporary = temporary_name("a", 1);
    let error = storage.create(&temporary, unique.options(false)).await.err().expect("refused");
    assert_eq!(error.kind, StorageErrorKind::InvalidName);
}

async fn unusual_names_work(storage: &dyn Storage, unique: &mut Unique) {
    let long = "n".repeat(NAME_BYTES_MAX);
    let all = [".hidden", "-dash", "with space", "grün", "a?b&c=d%20#e", &long];
    for name in all {
        put(storage, name, unique.options(false), name.as_bytes()).await;
    }
    let mut expected: Vec<_> = all.iter().map(|name| ((*name).to_owned(), name.len() as u64)).collect();
    expected.sort();
    assert_eq!(names(storage).await, expected);
    for name in all {
        assert_eq!(get(storage, name).await, name.as_bytes());
        storage.remove(name).await.expect("remove");
    }
}

/// A writer that kept more than it may would wait for itself here.
async fn held_buffers_come_back(storage: &dyn Storage, unique: &mut Unique) {
    let pool = BufferPool::new(4 * MIB, MIB);
    let options = CreateOptions { held_bytes_max: 2 * MIB, ..unique.options(false) };
    let writer = storage.create("budget", options).await.expect("create");
    for i in 0..12 {
        let mut buffer = pool.take_slot().await.expect("a slot");
        buffer.spare().fill(i);
        buffer.set_len(MIB - usize::from(i) * 1000);
        writer.write_at(u64::from(i) * MIB as u64, Payload::Bytes(buffer)).await.expect("write");
    }
    writer.sync().await.expect("sync");
    let all = try_join_all((0..4).map(|_| pool.take_slot())).await.expect("everything is back");
    drop(all);
    writer.publish().await.expect("publish");
    let bytes = get(storage, "budget").await;
    assert!((0..12).all(|i| bytes[i * MIB] == u8::try_from(i).expect("a small number")));
    storage.remove("budget").await.expect("remove");
}

async fn payloads_without_bytes_are_refused(storage: &dyn Storage) {
    let writer = storage.create("modelled", Unique(1).options(false)).await.expect("create");
    let result = writer.write_at(0, Payload::Modelled { len: 4096, contents: 1 }).await;
    assert!(result.is_err(), "a storage of real bytes took a modelled payload");
    writer.abandon().await.expect("abandon");
}

async fn free_space_is_told_if_known(storage: &dyn Storage) {
    if let Some(free_bytes) = storage.free_bytes().await.expect("free_bytes") {
        assert!(free_bytes > 0, "the suite has just written here");
    }
}
