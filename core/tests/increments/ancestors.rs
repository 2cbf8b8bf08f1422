//! Ancestors that are damaged, gone, hidden behind others of the same uuid, or not to be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::engine::{EngineError, Foundation, Image, Progress, Relative};
use comio_core::format::entry::tag;
use comio_core::storage::{ObjectReader, Storage, StorageError, StorageErrorKind};
use comio_core::testing::MemoryStorage;
use futures::executor::block_on;

use super::{
    Random, Restored, chain, engine, make_template, memory, open, options, refused_before_there_is_a_guest,
    relative, restore, save, save_upon, save_with_parent, save_with_template,
};

/// Every bit of an ancestor's superblock: it is there and damaged, which is not "not found".
#[test]
fn damage_in_an_ancestors_superblock_is_damage() {
    let storage = MemoryStorage::new();
    chain(&storage, 1, 300);
    let base = storage.contents("0").expect("saved").to_vec();
    let damaged = (0..4096).step_by(61).map(|at| {
        let mut damaged = base.clone();
        damaged[at] ^= 0x10;
        damaged
    });
    for damaged in damaged.chain([Vec::new(), base[..4000].to_vec()]) {
        storage.insert("0", damaged);
        let image = block_on(open(&storage, "1")).expect("opens");
        let error = image.check_complete().expect_err("its parent is damaged");
        assert!(error.is_damage(), "{error}");
        refused_before_there_is_a_guest(&storage, "1");
    }
}

/// A copy that is damaged, and one that was recovered, keep nobody from finding the good one.
#[test]
fn the_good_one_among_images_of_one_uuid_is_found() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 1, 1500);
    let good = storage.contents("0").expect("saved").to_vec();
    let mut cut = good.clone();
    cut.truncate(cut.len() - 8192);
    storage.insert("cut", cut.clone());
    let damaged = block_on(storage.open("cut")).expect("inserted");
    let (engine, progress) = (engine(), Progress::default());
    let recovering = engine::recover(&engine, &*damaged, &storage, "recovered", true, &progress);
    block_on(recovering).expect("recovers");
    let recovered = storage.contents("recovered").expect("made").to_vec();
    let child = storage.contents("1").expect("saved").to_vec();
    for (bad, bad_name) in [(&cut, "0"), (&recovered, "0"), (&cut, "a"), (&recovered, "zzz")] {
        for (good_is_beside, good_name) in [(true, "zz"), (false, "0"), (false, "zz")] {
            let (beside, elsewhere) = (MemoryStorage::new(), MemoryStorage::new());
            beside.insert("1", child.clone());
            beside.insert(bad_name, bad.clone());
            let place = if good_is_beside { &beside } else { &elsewhere };
            place.insert(good_name, good.clone());
            let more: [&dyn Storage; 1] = [&elsewhere];
            let opening = Image::open_with_ancestors(&beside, "1", &more);
            let (image, mut restored) = (block_on(opening).expect("opens"), Restored::default());
            let restoring = engine::restore(&engine, &image, &mut restored, &progress);
            block_on(restoring).unwrap_or_else(|error| panic!("{bad_name} {good_name}: {error}"));
            assert!(restored.0 == memories[1]);
        }
    }
}

#[test]
fn a_descendant_with_a_damaged_index_needs_its_ancestors() {
    let storage = MemoryStorage::new();
    chain(&storage, 1, 300);
    let mut cut = storage.contents("1").expect("saved").to_vec();
    cut.truncate(cut.len() - 4096);
    storage.insert("1", cut);
    let needed_by = block_on(engine::descendants(&storage, &[1; 16])).expect("lists");
    assert_eq!(needed_by, [("1".to_owned(), [2; 16])]);
}

/// Three nights that change the same pages: nothing of the second is in the third.
#[test]
fn an_ancestor_that_is_only_named_may_go() {
    let storage = MemoryStorage::new();
    let first = memory(1, 600);
    save(&storage, "0", 1, &first);
    let night = |seed: u64| {
        let mut memory = first.clone();
        let changed = memory.iter_mut().filter(|(pfn, _)| *pfn % 10 == 0);
        changed.for_each(|(pfn, page)| *page = Random(seed + pfn).page());
        memory
    };
    let (second, third, fourth) = (night(1000), night(9000), night(30_000));
    save_with_parent(&storage, "1", 2, &second, "0");
    let report = save_with_parent(&storage, "2", 3, &third, "1");
    assert_eq!(report.totals.rests_on[0], 0, "nothing rests on its parent: {report:?}");
    save(&storage, "unrelated", 0x55, &memory(7, 600));
    make_template(&storage, "template", &["unrelated"]);
    save_with_template(&storage, "found nothing", 0x56, &first, "template");
    for (name, number) in [("1", 2), ("template", 0xee)] {
        assert_eq!(block_on(engine::descendants(&storage, &[number; 16])).expect("lists"), []);
        block_on(storage.remove(name)).expect("removes");
    }
    assert!(restore(&storage, "2").expect("restores") == third);
    assert!(restore(&storage, "found nothing").expect("restores") == first);
    let image = block_on(open(&storage, "2")).expect("opens");
    let (engine, options, progress) = (engine(), options(0x77), Progress::default());
    assert!(block_on(engine::verify_deep(&engine, &image, &progress)).expect("reads").is_whole());
    block_on(engine::flatten(&engine, &image, &storage, "flat", &options, &progress)).expect("flattens");
    let report = save_with_parent(&storage, "3", 4, &fourth, "2");
    assert!(report.totals.tally.pages[usize::from(tag::SAME)] > 300, "{report:?}");
    assert!(restore(&storage, "3").expect("restores") == fourth);
}

/// Of a recovered image nobody has looked what its parent's pages rest on in turn.
#[test]
fn a_recovered_image_needs_all_that_it_may_rest_on() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 2, 1500);
    let mut cut = storage.contents("2").expect("saved").to_vec();
    cut.truncate(cut.len() - 4096);
    storage.insert("cut", cut);
    let damaged = block_on(storage.open("cut")).expect("inserted");
    let (engine, progress) = (engine(), Progress::default());
    block_on(engine::recover(&engine, &*damaged, &storage, "new", true, &progress)).expect("recovers");
    assert!(restore(&storage, "new").expect("restores") == memories[2]);
    for number in [1, 2] {
        let needed_by = block_on(engine::descendants(&storage, &[number; 16])).expect("lists");
        assert!(needed_by.iter().any(|(name, _)| name == "new"), "{number}: {needed_by:?}");
    }
}

/// Bytes of some pages, which only coding finds out.
#[test]
fn damaged_pages_of_the_parent_are_told_of() {
    let storage = MemoryStorage::new();
    let parent = memory(5, 3000);
    save(&storage, "parent", 1, &parent);
    let mut bytes = storage.contents("parent").expect("saved").to_vec();
    for entry in relative(&storage, "parent").image.segments() {
        let end = usize::try_from(entry.offset).expect("small") + entry.len();
        bytes[end - entry.len() / 4] ^= 1;
    }
    storage.insert("parent", bytes);
    for changed_one_in in [20, 2] {
        let mut child = parent.clone();
        Random(7).dirty(&mut child, changed_one_in);
        let report = save_with_parent(&storage, "child", 2, &child, "parent");
        let trouble = report.trouble.expect("damage was met");
        assert!(trouble.contains("parent \"parent\""), "{trouble}");
        assert!(restore(&storage, "child").expect("restores") == child);
    }
}

/// A storage whose objects cannot be read any more once it `is_down`.
struct Failing {
    inner: MemoryStorage,
    down: Arc<Down>,
}

#[derive(Default)]
struct Down {
    is_down: AtomicBool,
    tries: AtomicUsize,
}

struct FailingReader {
    inner: Box<dyn ObjectReader>,
    down: Arc<Down>,
}

#[async_trait]
impl ObjectReader for FailingReader {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    fn request_bytes(&self) -> usize {
        self.inner.request_bytes()
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        if !self.down.is_down.load(Ordering::Relaxed) {
            return self.inner.read_at(offset, len, buffer).await;
        }
        self.down.tries.fetch_add(1, Ordering::Relaxed);
        Err(StorageError::new(StorageErrorKind::Unreachable, "read", "the parent", "nobody answers"))
    }
}

impl Failing {
    async fn open(&self, name: &str) -> Result<Image, EngineError> {
        let inner = self.inner.open(name).await?;
        Image::open(Box::new(FailingReader { inner, down: Arc::clone(&self.down) })).await
    }
}

/// The guest waits meanwhile.
#[test]
fn a_parents_storage_that_fails_is_not_asked_again() {
    let storage = MemoryStorage::new();
    let guest = memory(5, 40_000);
    save(&storage, "parent", 1, &guest);
    let failing = Failing { inner: storage.clone(), down: Arc::default() };
    let image = block_on(failing.open("parent")).expect("opens");
    let parent = Relative { name: "parent".into(), image };
    let foundation = Foundation::new(Some(parent), None).expect("complete");
    failing.down.is_down.store(true, Ordering::Relaxed);
    let report = save_upon(&storage, "child", 2, &guest, Some(&foundation));
    assert!(report.trouble.expect("told").contains("nobody answers"));
    assert_eq!(report.totals.rests_on[0], 0);
    let tries = failing.down.tries.load(Ordering::Relaxed);
    // Those that were under way.
    assert!(tries <= 4, "{tries} tries for {} segments", report.totals.pages / 1024);
    assert!(restore(&storage, "child").expect("restores") == guest);
}
