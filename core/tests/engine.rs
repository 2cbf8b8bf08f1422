//! The engine from tape to image and back, over the memory storage.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, EngineError, Image, Progress, SaveOptions};
use comio_core::format::BLOCK;
use comio_core::format::footer::Footer;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::{MockObjectWriter, MockStorage, ObjectReader, Storage, StorageError};
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::testing::{Fault, FaultyStorage, MemoryStorage};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};
use futures::executor::block_on;
use proptest::prelude::*;

/// What a test's tape holds; pages by the seed of their contents.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Frame(Vec<u8>),
    Batch(Vec<u64>, Vec<u8>),
}

struct Tape(VecDeque<Item>);

#[async_trait]
impl GuestReader for Tape {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        Ok(match self.0.pop_front() {
            None => None,
            Some(Item::Frame(bytes)) => Some(TapeItem::Frame(bytes)),
            Some(Item::Batch(pfns, pages)) => {
                let mut buffer = pool.take_slot().await?;
                buffer.spare()[..pages.len()].copy_from_slice(&pages);
                buffer.set_len(pages.len());
                let batch = Batch { pfns: Pfns::from_list(pfns), pages: Payload::Bytes(buffer) };
                Some(TapeItem::Batch(batch))
            }
        })
    }
}

#[derive(Default)]
struct Collected(Vec<Item>);

#[async_trait]
impl GuestWriter for Collected {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        match (item, self.0.last_mut()) {
            (TapeItem::Frame(bytes), Some(Item::Frame(last))) => last.extend(bytes),
            (TapeItem::Frame(bytes), _) => self.0.push(Item::Frame(bytes)),
            (TapeItem::Batch(batch), _) => {
                self.0.push(Item::Batch(batch.pfns.iter().collect(), batch.pages.bytes()?.to_vec()));
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

fn engine(method: Method) -> Engine {
    Engine::new(Arc::new(Inline), Arc::new(EcbcCoder::new(method, Placement::Hybrid)), 0)
}

const OPTIONS: SaveOptions = SaveOptions { uuid: [0x5a; 16], created_unix_s: 1, replace: true };

fn save(tape: &[Item], storage: &dyn Storage) -> Result<engine::SaveReport, EngineError> {
    let mut reader = Tape(tape.iter().cloned().collect());
    let progress = Progress::default();
    block_on(engine::save(&engine(Method::Fast), &mut reader, storage, "guest", &OPTIONS, &progress))
}

fn open(bytes: &[u8]) -> Box<dyn ObjectReader> {
    let storage = MemoryStorage::new();
    storage.insert("guest", bytes.to_vec());
    block_on(storage.open("guest")).expect("inserted")
}

fn restore(bytes: &[u8]) -> Result<Vec<Item>, EngineError> {
    let image = block_on(Image::open(open(bytes)))?;
    let mut writer = Collected::default();
    block_on(engine::restore(&engine(Method::Fast), &image, &mut writer, &Progress::default()))?;
    Ok(writer.0)
}

fn recover(bytes: &[u8], storage: &MemoryStorage) -> Result<engine::RecoverReport, EngineError> {
    let (engine, progress, damaged) = (engine(Method::Fast), Progress::default(), open(bytes));
    block_on(engine::recover(&engine, &*damaged, storage, "new", true, &progress))
}

fn copy(bytes: &[u8], storage: &MemoryStorage) -> Result<u64, EngineError> {
    let (engine, progress, source) = (engine(Method::Fast), Progress::default(), open(bytes));
    block_on(engine::copy(&engine, &*source, storage, "copy", &OPTIONS, &progress))
}

fn page(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let bytes = (0..PAGE_SIZE as u64).map(|i| match seed % 4 {
        0 => 0,
        1 => 7,
        2 => (i / 5 % 250).to_le_bytes()[0],
        _ => {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        }
    });
    bytes.collect()
}

fn batch(pfns: impl IntoIterator<Item = u64>) -> Item {
    let pfns: Vec<u64> = pfns.into_iter().collect();
    let pages = pfns.iter().flat_map(|&pfn| page(pfn)).collect();
    Item::Batch(pfns, pages)
}

fn example() -> Vec<Item> {
    vec![
        Item::Frame(b"header".to_vec()),
        batch(0..100),
        Item::Frame(vec![1; 200_000]),
        batch((200..400).step_by(3)),
        batch([1 << 40, 5000, 7]),
        batch(1000..1000 + SEGMENT_PAGES as u64),
        Item::Frame(b"end".to_vec()),
    ]
}

fn packed(tape: &[Item]) -> Vec<u8> {
    let storage = MemoryStorage::new();
    save(tape, &storage).expect("saves");
    storage.contents("guest").expect("published").to_vec()
}

#[test]
fn a_tape_comes_back_item_by_item() {
    assert!(restore(&packed(&example())).expect("restores") == example());
}

#[test]
fn an_empty_tape_is_an_image_too() {
    assert_eq!(restore(&packed(&[])).expect("restores"), []);
}

#[test]
fn an_image_verifies_and_tells_its_totals() {
    let bytes = packed(&example());
    let image = block_on(Image::open(open(&bytes))).expect("opens");
    let verified = block_on(engine::verify(&engine(Method::Fast), &image, &Progress::default()));
    let report = verified.expect("reads");
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.pages, 100 + 67 + 3 + 1024);
    let totals = image.footer().totals;
    assert_eq!(totals.pages, report.pages);
    assert_eq!(totals.tally.pages.iter().sum::<u64>(), report.pages);
}

#[test]
fn pages_are_extracted_with_one_read_each() {
    let bytes = packed(&example());
    let image = block_on(Image::open(open(&bytes))).expect("opens");
    let pfns = [1003, 5000, 1 << 40, 203, 99, 7, 1002, 1003];
    let mut got = Vec::new();
    let report = block_on(engine::extract(&image, pfns, |page| {
        got.push(page?.to_vec());
        Ok(())
    }))
    .expect("extracts");
    // pfn 7 is in two batches; the later one counts, as it would in the guest.
    assert!(got == pfns.map(page));
    assert_eq!(report.pages, 8);
    assert!(report.storage_reads <= 8 && report.max_read_bytes <= 8192, "{report:?}");
    let missing = block_on(engine::extract(&image, [400], |_| Ok(())));
    assert!(matches!(missing, Err(EngineError::NoSuchPage { pfn: 400 })));
}

/// A truncated image gives a typed error, and what is whole of it is recovered.
#[test]
fn every_truncation_is_refused_and_recovered() {
    let bytes = packed(&example());
    let image = block_on(Image::open(open(&bytes))).expect("opens");
    let first_end = 4096 + image.segments()[0].len();
    for len in (0..bytes.len()).step_by(4096) {
        let cut = &bytes[..len];
        assert!(restore(cut).is_err(), "{len}");
        let storage = MemoryStorage::new();
        let Ok(report) = recover(cut, &storage) else {
            assert!(len < first_end, "{len}");
            continue;
        };
        let image = block_on(async { Image::open(storage.open("new").await?).await }).expect("an image");
        let verified = block_on(engine::verify(&engine(Method::Fast), &image, &Progress::default()));
        let verified = verified.expect("reads");
        // Known losses are listed; everything else is whole.
        assert_eq!((verified.pages, verified.damaged), (report.pages, report.lost_segments), "{len}");
        if report.complete {
            let whole = storage.contents("new").expect("published");
            assert!(restore(&whole).expect("restores") == example(), "{len}");
        }
    }
}

#[test]
fn a_lost_directory_costs_nothing() {
    let bytes = packed(&example());
    let storage = MemoryStorage::new();
    let cut = &bytes[..bytes.len() - 8192];
    assert!(recover(cut, &storage).expect("recovers").complete);
    assert!(restore(&storage.contents("new").expect("published")).expect("restores") == example());
}

#[test]
fn what_recover_made_of_a_part_is_not_restored() {
    let bytes = packed(&example());
    let storage = MemoryStorage::new();
    let mut damaged = bytes.clone();
    damaged[4096 + 70] ^= 1;
    assert!(!recover(&damaged, &storage).expect("recovers").complete);
    let whole = storage.contents("new").expect("published");
    assert!(matches!(restore(&whole), Err(EngineError::Incomplete(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// A flipped bit gives an error or the same tape: never other pages.
    #[test]
    fn a_flipped_bit_never_gives_other_pages(bit in any::<prop::sample::Index>()) {
        use std::sync::OnceLock;
        static PACKED: OnceLock<Vec<u8>> = OnceLock::new();
        let whole = PACKED.get_or_init(|| packed(&example()[..4]));
        let mut bytes = whole.clone();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(tape) = restore(&bytes) {
            prop_assert!(tape == example()[..4]);
        }
    }
}

#[test]
fn a_stopped_save_leaves_nothing() {
    struct Stopping(Arc<Progress>);
    #[async_trait]
    impl GuestReader for Stopping {
        fn format(&self) -> TapeFormat {
            TapeFormat::RAW
        }
        fn size_hint(&self) -> Option<u64> {
            None
        }
        async fn next(&mut self, _: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
            self.0.stop();
            futures::future::pending().await
        }
    }
    let (storage, progress) = (MemoryStorage::new(), Arc::new(Progress::default()));
    let mut reader = Stopping(Arc::clone(&progress));
    let engine = engine(Method::Fast);
    let saving = engine::save(&engine, &mut reader, &storage, "guest", &OPTIONS, &progress);
    assert!(matches!(block_on(saving), Err(EngineError::Stopped)));
    let left: Result<_, StorageError> =
        block_on(async { Ok((storage.list().await?, storage.leftovers().await?)) });
    let (visible, leftovers) = left.expect("lists");
    assert!(visible.is_empty() && leftovers.is_empty());
}

#[test]
fn a_copy_is_the_same_image() {
    let bytes = packed(&example());
    let storage = MemoryStorage::new();
    assert_eq!(copy(&bytes, &storage).expect("copies"), bytes.len() as u64);
    assert!(*storage.contents("copy").expect("published") == bytes);
    let mut no_image = bytes;
    no_image.truncate(8192);
    let empty = MemoryStorage::new();
    assert!(copy(&no_image, &empty).is_err());
    assert!(empty.contents("copy").is_none());
}

#[test]
fn buffers_of_hostile_sizes_are_not_allocated() {
    // A footer that claims 2^32 segments in a file of three blocks.
    let mut bytes = packed(&[]);
    let footer = bytes.len() - 4096;
    bytes[footer + 48..footer + 52].copy_from_slice(&u32::MAX.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[footer..footer + 4080]);
    bytes[footer + 4080..footer + 4088].copy_from_slice(&check.to_le_bytes());
    assert!(matches!(restore(&bytes), Err(EngineError::Format(_))));
}

/// Who says how long its tape is, and is never read.
struct Announced(u64);

#[async_trait]
impl GuestReader for Announced {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.0)
    }

    async fn next(&mut self, _: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        panic!("there is no room for what it would give")
    }
}

#[test]
fn that_there_is_no_room_is_told_before_anything_is_written() {
    let bytes = packed(&example());
    let (source, len) = (open(&bytes), bytes.len() as u64);
    let progress = Progress::default();
    let tight = |room| FaultyStorage::new(MemoryStorage::with_capacity(room), u64::MAX, Fault::Die);
    let check = |storage: &FaultyStorage<MemoryStorage>, failure: Option<EngineError>| {
        let failure = failure.expect("there is no room").to_string();
        assert!(failure.contains("are needed"), "{failure}");
        assert_eq!(storage.calls(), [""; 0], "{failure}");
    };

    let storage = tight(len - 1);
    let fast = engine(Method::Fast);
    let copied = engine::copy(&fast, &*source, &storage, "copy", &OPTIONS, &progress);
    check(&storage, block_on(copied).err());

    let storage = tight(4096);
    let recovered = engine::recover(&fast, &*source, &storage, "new", true, &progress);
    check(&storage, block_on(recovered).err());

    // What is not compressed takes as much as the guest has.
    let (storage, mut guest) = (tight(4 << 20), Announced(8 << 20));
    let raw = engine(Method::Raw);
    let saved = engine::save(&raw, &mut guest, &storage, "image", &OPTIONS, &progress);
    check(&storage, block_on(saved).err());
}

#[test]
fn a_copy_whose_index_reads_back_different_is_not_published() {
    let bytes = Arc::new(packed(&example()));
    let footer_at = bytes.len() - BLOCK;
    let footer = Footer::parse(&bytes[footer_at..], footer_at as u64).expect("a footer");
    let directory_at = usize::try_from(footer.directory_offset).expect("small");
    for damaged in [0, directory_at, footer_at] {
        let mut storage = MockStorage::new();
        storage.expect_free_bytes().returning(|| Ok(None));
        let there = Arc::clone(&bytes);
        storage.expect_create().times(1).returning(move |_, _| {
            let mut writer = MockObjectWriter::new();
            writer.expect_write_at().returning(|_, _| Ok(()));
            writer.expect_sync().returning(|| Ok(()));
            let there = Arc::clone(&there);
            writer.expect_read_at().returning(move |offset, len, mut buffer| {
                let offset = usize::try_from(offset).expect("small");
                buffer.spare()[..len].copy_from_slice(&there[offset..offset + len]);
                buffer.spare()[0] ^= u8::from(offset == damaged);
                buffer.set_len(len);
                Ok(Payload::Bytes(buffer))
            });
            writer.expect_abandon().times(1).returning(|| Ok(()));
            Ok(Box::new(writer))
        });
        let (engine, progress, source) = (engine(Method::Fast), Progress::default(), open(&bytes));
        let copied = engine::copy(&engine, &*source, &storage, "copy", &OPTIONS, &progress);
        assert!(block_on(copied).expect_err("it differs").is_damage(), "at {damaged}");
    }
}
