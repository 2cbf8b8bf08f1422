//! Increments, templates and their images' ancestors, over the memory storage.

mod ancestors;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{
    self, AncestorProblem, Engine, EngineError, Foundation, Image, Progress, Relative, SaveOptions,
    SaveReport,
};
use comio_core::format::FormatError;
use comio_core::format::entry::{content_check, tag};
use comio_core::format::placement::Placement;
use comio_core::hypervisor::{self, HypervisorError, MockHypervisor};
use comio_core::page_set::PageSet;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::testing::MemoryStorage;
use comio_core::{PAGE_SIZE, Page, SEGMENT_PAGES};
use futures::executor::block_on;

type Memory = BTreeMap<u64, Page>;

/// A guest's memory as a tape of batches of up to 1024 pages.
struct Guest<'a>(std::collections::btree_map::Iter<'a, u64, Page>);

#[async_trait]
impl GuestReader for Guest<'_> {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let batch: Vec<_> = self.0.by_ref().take(SEGMENT_PAGES).collect();
        if batch.is_empty() {
            return Ok(None);
        }
        let mut buffer = pool.take_slot().await?;
        for (slot, (_, page)) in buffer.spare().chunks_exact_mut(PAGE_SIZE).zip(&batch) {
            slot.copy_from_slice(*page);
        }
        buffer.set_len(batch.len() * PAGE_SIZE);
        let pfns = Pfns::from_list(batch.iter().map(|(pfn, _)| **pfn).collect());
        Ok(Some(TapeItem::Batch(Batch { pfns, pages: Payload::Bytes(buffer) })))
    }
}

#[derive(Default)]
struct Restored(Memory);

#[async_trait]
impl GuestWriter for Restored {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        if let TapeItem::Batch(batch) = item {
            let (pages, _) = batch.pages.bytes()?.as_chunks::<PAGE_SIZE>();
            self.0.extend(batch.pfns.iter().zip(pages.iter().copied()));
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Zero, one word all over, text of small words, or noise.
    fn page(&mut self) -> Page {
        let kind = self.below(8);
        let word = self.next().to_le_bytes();
        let mut page = [0; PAGE_SIZE];
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = match kind {
                0 => 0,
                1 => word[0],
                2 => self.next().to_le_bytes()[0],
                _ => {
                    if i % 8 < 3 {
                        self.next().to_le_bytes()[0] % 16
                    } else {
                        word[i % 4]
                    }
                }
            };
        }
        page
    }

    /// Changes one page in `one_in`: a few bytes of it, all of it, or to zeros.
    fn dirty(&mut self, memory: &mut Memory, one_in: u64) {
        for page in memory.values_mut() {
            if self.below(one_in) == 0 {
                match self.below(4) {
                    0 => *page = self.page(),
                    1 => *page = [0; PAGE_SIZE],
                    _ => {
                        let at = usize::try_from(self.below(4000)).unwrap_or(0);
                        page[at..at + 8].copy_from_slice(&self.next().to_le_bytes());
                    }
                }
            }
        }
    }
}

fn memory(seed: u64, pages: u64) -> Memory {
    let mut random = Random(seed);
    // A hole, and a stretch far away.
    let pfns = (0..pages / 2).chain(pages..pages + pages / 2 - 10).chain((1 << 30)..(1 << 30) + 10);
    pfns.map(|pfn| (pfn, random.page())).collect()
}

fn engine() -> Engine {
    engine_of(0)
}

fn engine_of(memory_bytes: usize) -> Engine {
    let coder = EcbcCoder::new(Method::Fast, Placement::Hybrid).with_digests([7; 16]);
    Engine::new(Arc::new(Inline), Arc::new(coder), memory_bytes)
}

fn options(number: u8) -> SaveOptions {
    SaveOptions { uuid: [number; 16], created_unix_s: 1, replace: true }
}

async fn open(storage: &MemoryStorage, name: &str) -> Result<Image, EngineError> {
    Image::open_with_ancestors(storage, name, &[]).await
}

fn relative(storage: &MemoryStorage, name: &str) -> Relative {
    Relative { name: name.into(), image: block_on(open(storage, name)).expect("opens") }
}

fn save_upon(
    storage: &MemoryStorage,
    name: &str,
    number: u8,
    memory: &Memory,
    foundation: Option<&Foundation>,
) -> SaveReport {
    save_by(&engine(), storage, name, number, memory, foundation)
}

fn save_by(
    engine: &Engine,
    storage: &MemoryStorage,
    name: &str,
    number: u8,
    memory: &Memory,
    foundation: Option<&Foundation>,
) -> SaveReport {
    let (options, progress) = (options(number), Progress::default());
    let mut guest = Guest(memory.iter());
    let saving = engine::save_upon(engine, foundation, &mut guest, storage, name, &options, &progress);
    block_on(saving).expect("saves")
}

fn save(storage: &MemoryStorage, name: &str, number: u8, memory: &Memory) -> SaveReport {
    save_upon(storage, name, number, memory, None)
}

fn save_with_parent(
    storage: &MemoryStorage,
    name: &str,
    number: u8,
    memory: &Memory,
    parent: &str,
) -> SaveReport {
    let foundation = Foundation::new(Some(relative(storage, parent)), None).expect("complete");
    save_upon(storage, name, number, memory, Some(&foundation))
}

fn make_template(storage: &MemoryStorage, name: &str, of: &[&str]) -> SaveReport {
    let images: Vec<Image> = of.iter().map(|name| relative(storage, name).image).collect();
    let (engine, options, progress) = (engine(), options(0xee), Progress::default());
    let key = [0x17; 32];
    let making = engine::make_template(&engine, &images, key, 1 << 20, storage, name, &options, &progress);
    block_on(making).expect("makes a template")
}

fn save_with_template(
    storage: &MemoryStorage,
    name: &str,
    number: u8,
    memory: &Memory,
    template: &str,
) -> SaveReport {
    let template = relative(storage, template);
    let known = block_on(engine::open_template(&template.image, 1 << 20)).expect("a template");
    let foundation = Foundation::new(None, Some((template, known))).expect("complete");
    save_upon(storage, name, number, memory, Some(&foundation))
}

fn restore(storage: &MemoryStorage, name: &str) -> Result<Memory, EngineError> {
    block_on(async {
        let image = open(storage, name).await?;
        let mut restored = Restored::default();
        engine::restore(&engine(), &image, &mut restored, &Progress::default()).await?;
        Ok(restored.0)
    })
}

fn extract(storage: &MemoryStorage, name: &str, pfn: u64) -> Result<Page, EngineError> {
    block_on(async {
        let image = open(storage, name).await?;
        let mut found = [0; PAGE_SIZE];
        engine::extract(&image, [pfn], |page| {
            found = *page?;
            Ok(())
        })
        .await?;
        Ok(found)
    })
}

/// A chain: `0` is a full image, each further one an increment upon the one before.
fn chain(storage: &MemoryStorage, length: u8, pages: u64) -> Vec<Memory> {
    let mut memories = vec![memory(1, pages)];
    save(storage, "0", 1, &memories[0]);
    for number in 1..=length {
        let mut memory = memories[usize::from(number) - 1].clone();
        Random(u64::from(number)).dirty(&mut memory, 12);
        save_with_parent(storage, &number.to_string(), number + 1, &memory, &(number - 1).to_string());
        memories.push(memory);
    }
    memories
}

#[test]
fn a_chain_of_ten_increments_comes_back() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 10, 4000);
    for (number, memory) in memories.iter().enumerate() {
        assert!(restore(&storage, &number.to_string()).expect("restores") == *memory, "increment {number}");
    }
    let full = storage.contents("0").expect("saved").len();
    let tenth = storage.contents("10").expect("saved").len();
    assert!(tenth < full / 4, "{tenth} bytes upon {full}");
}

/// The parent's pages are not read where the caller vouches for them: even a parent whose pages
/// were damaged since is referred to. What the caller is wrong about is stored all the same.
#[test]
fn pages_known_to_be_unchanged_are_not_read() {
    let storage = MemoryStorage::new();
    let before = memory(1, 3000);
    save(&storage, "0", 1, &before);
    let whole = storage.contents("0").expect("saved").to_vec();
    let mut damaged = whole.clone();
    for entry in relative(&storage, "0").image.segments() {
        let end = usize::try_from(entry.offset).expect("small") + entry.len();
        damaged[end - entry.len() / 4..end].fill(0xa5);
    }
    let mut after = before.clone();
    let (changed, new) =
        (before.iter().find(|(_, page)| page[0] != page[1]).expect("text"), [0x5a; PAGE_SIZE]);
    let changed = *changed.0;
    after.insert(changed, new);
    let same = |unchanged: PageSet| {
        storage.insert("0", damaged.clone());
        let foundation = Foundation::new(Some(relative(&storage, "0")), None).expect("complete");
        let foundation = foundation.with_unchanged(Arc::new(unchanged));
        let report = save_upon(&storage, "1", 2, &after, Some(&foundation));
        storage.insert("0", whole.clone());
        assert!(restore(&storage, "1").expect("restores") == after);
        report.totals.tally.pages[usize::from(tag::SAME)]
    };
    // The caller vouches for the changed page, too.
    let vouched = same(PageSet::all(1 << 31));
    let compared = same(PageSet::none(0));
    let telling = before.values().filter(|page| page.iter().any(|byte| *byte != page[0])).count() as u64;
    assert!(vouched >= telling - 1, "{vouched} of {telling}");
    assert!(compared < vouched * 9 / 10, "{compared} of {vouched}: the damage was not seen");
}

#[test]
fn ten_thousand_random_pages_of_the_tenth_take_two_reads_at_most() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 10, 4000);
    let tenth = &memories[10];
    let mut random = Random(77);
    let all: Vec<u64> = tenth.keys().copied().collect();
    let pfns: Vec<u64> =
        (0..10_000).map(|_| all[usize::try_from(random.below(all.len() as u64)).unwrap()]).collect();
    let image = block_on(open(&storage, "10")).expect("opens");
    let mut asked = pfns.iter();
    let report = block_on(engine::extract(&image, pfns.iter().copied(), |page| {
        assert!(*page? == tenth[asked.next().expect("no more than asked")]);
        Ok(())
    }))
    .expect("extracts");
    assert_eq!(report.pages, 10_000);
    assert!(report.max_reads_a_page <= 2, "{report:?}");
    assert!(report.max_read_bytes <= 8192, "{report:?}");
}

#[test]
fn units_come_back_alone_and_as_a_parents() {
    let (storage, mut guest) = (MemoryStorage::new(), memory(11, 4000));
    let coder = EcbcCoder::new(Method::Dense, Placement::Hybrid).in_units(16).with_digests([7; 16]);
    let engine = Engine::new(Arc::new(Inline), Arc::new(coder), 0);
    let report = save_by(&engine, &storage, "parent", 1, &guest, None);
    assert!(report.totals.tally.pages[usize::from(tag::UNIT)] > 2000, "{report:?}");
    assert_eq!(restore(&storage, "parent").expect("restores"), guest);
    let image = block_on(open(&storage, "parent")).expect("opens");
    let (pfns, mut pages) = (guest.keys().copied(), guest.values());
    let extracting = engine::extract(&image, pfns, |page| {
        assert_eq!(Some(page?), pages.next());
        Ok(())
    });
    let report = block_on(extracting).expect("extracts");
    assert!(report.max_reads_a_page == 1 && report.max_read_bytes <= 64 << 10, "{report:?}");

    Random(5).dirty(&mut guest, 10);
    let report = save_with_parent(&storage, "child", 2, &guest, "parent");
    assert!(report.totals.tally.pages[usize::from(tag::SAME)] > 2000, "{report:?}");
    assert_eq!(restore(&storage, "child").expect("restores"), guest);
    for (&pfn, page) in guest.iter().step_by(37) {
        assert_eq!(&extract(&storage, "child", pfn).expect("extracts"), page);
    }

    let foundation = Foundation::new(Some(relative(&storage, "parent")), None).expect("a foundation");
    let report = save_by(&engine, &storage, "in units", 3, &guest, Some(&foundation));
    let pages = |tag: u8| report.totals.tally.pages[usize::from(tag)];
    assert!(pages(tag::SAME) > 2000 && pages(tag::UNIT) > 50, "{report:?}");
    assert_eq!(restore(&storage, "in units").expect("restores"), guest);
}

#[test]
fn a_flattened_image_needs_nobody() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 3, 3000);
    let image = block_on(open(&storage, "3")).expect("opens");
    let (engine, options, progress) = (engine(), options(0x77), Progress::default());
    block_on(engine::flatten(&engine, &image, &storage, "flat", &options, &progress)).expect("flattens");
    let alone = MemoryStorage::new();
    alone.insert("flat", storage.contents("flat").expect("saved").to_vec());
    assert!(restore(&alone, "flat").expect("restores") == memories[3]);
}

#[test]
fn zero_absent_and_same_stay_different() {
    let storage = MemoryStorage::new();
    let mut parent = memory(5, 3000);
    parent.insert(3, [7; PAGE_SIZE]);
    parent.insert(4, [0; PAGE_SIZE]);
    save(&storage, "parent", 1, &parent);
    let mut child = parent.clone();
    child.insert(3, [0; PAGE_SIZE]);
    child.remove(&5);
    child.insert(1 << 31, [9; PAGE_SIZE]);
    let report = save_with_parent(&storage, "child", 2, &child, "parent");
    assert!(report.totals.tally.pages[usize::from(tag::SAME)] > 2000, "{report:?}");
    assert!(restore(&storage, "child").expect("restores") == child);
    assert!(matches!(extract(&storage, "child", 5), Err(EngineError::NoSuchPage { pfn: 5 })));
}

#[test]
fn a_second_guest_is_found_in_a_template_at_any_pfn() {
    let storage = MemoryStorage::new();
    let first = memory(1, 3000);
    save(&storage, "first", 1, &first);
    save(&storage, "other", 2, &memory(2, 500));
    make_template(&storage, "template", &["first", "other"]);
    // The same pages in another order, some of them changed a little.
    let mut second: Memory = (0..).zip(first.values().rev().copied()).collect();
    Random(3).dirty(&mut second, 10);
    let plain = save(&storage, "plain", 3, &second);
    let report = save_with_template(&storage, "second", 4, &second, "template");
    assert!(
        report.stored_bytes < plain.stored_bytes / 4,
        "{} of {}",
        report.stored_bytes,
        plain.stored_bytes
    );
    let pages = |tag: u8| report.totals.tally.pages[usize::from(tag)];
    assert!(pages(tag::ELSEWHERE) > 1500 && pages(tag::DIFFERENCE) > 50, "{report:?}");
    assert!(restore(&storage, "second").expect("restores") == second);
    // An increment upon it names the template itself.
    let mut third = second.clone();
    Random(4).dirty(&mut third, 20);
    save_with_parent(&storage, "third", 5, &third, "second");
    assert!(restore(&storage, "third").expect("restores") == third);
    for pfn in (0..2000).step_by(97) {
        assert!(extract(&storage, "third", pfn).expect("extracts") == third[&pfn]);
    }
}

/// Two different pages with the same check in their entries.
fn colliding_pages() -> (Page, Page) {
    let mut seen = BTreeMap::new();
    let mut page = Random(9).page();
    for counter in 0u64.. {
        page[..8].copy_from_slice(&counter.to_le_bytes());
        if let Some(other) = seen.insert(content_check(&page), counter) {
            let mut first = page;
            first[..8].copy_from_slice(&other.to_le_bytes());
            return (first, page);
        }
    }
    unreachable!("there are fewer checks than pages")
}

/// The check is the low part of xxh3, the one hash in use that is not cryptographic.
#[test]
fn pages_that_collide_in_the_check_are_never_taken_for_each_other() {
    let (secret, forged) = colliding_pages();
    assert!(secret != forged && content_check(&secret) == content_check(&forged));
    let storage = MemoryStorage::new();
    let mut parent = memory(5, 200);
    parent.insert(7, secret);
    save(&storage, "parent", 1, &parent);
    make_template(&storage, "template", &["parent"]);
    let mut child = parent.clone();
    child.insert(7, forged);
    child.insert(8, forged);
    save_with_parent(&storage, "child", 2, &child, "parent");
    assert!(restore(&storage, "child").expect("restores") == child);
    save_with_template(&storage, "found", 3, &child, "template");
    assert!(restore(&storage, "found").expect("restores") == child);
}

fn refused_before_there_is_a_guest(storage: &MemoryStorage, name: &str) {
    // No expectation: were a guest begun, the mock would panic.
    let hypervisor = MockHypervisor::new();
    let (engine, progress) = (engine(), Progress::default());
    let restoring = engine::restore_guest(&engine, storage, name, &hypervisor, "guest", &progress);
    assert!(block_on(restoring).expect_err("damaged").is_damage());
}

struct NewGuest {
    restored: Restored,
    started: Arc<Mutex<Memory>>,
}

#[async_trait]
impl hypervisor::NewGuest for NewGuest {
    fn writer(&mut self) -> &mut dyn GuestWriter {
        &mut self.restored
    }

    async fn start(self: Box<Self>) -> Result<(), HypervisorError> {
        *self.started.lock().expect("no panic") = self.restored.0;
        Ok(())
    }

    async fn discard(self: Box<Self>) -> Result<(), HypervisorError> {
        panic!("nothing is wrong with it")
    }
}

/// Restores image `name` with so much memory; gives the guest's memory and the bytes read.
fn restore_guest(storage: &MemoryStorage, name: &str, memory_bytes: usize) -> (Memory, u64) {
    let started = Arc::new(Mutex::new(Memory::new()));
    let mut hypervisor = MockHypervisor::new();
    let mut new = Some(Box::new(NewGuest { restored: Restored::default(), started: Arc::clone(&started) }));
    hypervisor
        .expect_begin_restore()
        .returning(move |_, _| Ok(new.take().expect("once") as Box<dyn hypervisor::NewGuest>));
    let (engine, progress, before) = (engine_of(memory_bytes), Progress::default(), storage.bytes_read());
    let restoring = engine::restore_guest(&engine, storage, name, &hypervisor, "guest", &progress);
    let report = block_on(restoring).expect("restores");
    let memory = std::mem::take(&mut *started.lock().expect("no panic"));
    assert_eq!(report.guest_bytes, (memory.len() * PAGE_SIZE) as u64);
    (memory, storage.bytes_read() - before)
}

/// Checked before there is a guest, with memory for some of its segments and for all of them: those
/// are read once.
#[test]
fn a_guest_comes_back_through_its_ancestors() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 3, 9000);
    let (little, read_with_little) = restore_guest(&storage, "3", 0);
    let (much, read_with_much) = restore_guest(&storage, "3", 256 << 20);
    assert!(little == memories[3] && much == memories[3]);
    let before = storage.bytes_read();
    restore(&storage, "3").expect("restores");
    let once = storage.bytes_read() - before;
    assert!(read_with_much <= once + once / 100, "{read_with_much} bytes, unchecked {once}");
    assert!(read_with_little > once, "memory is short, so that some are read twice");
    assert!(read_with_little < 2 * once, "{read_with_little} bytes: what fits is kept");
}

/// A flipped bit in an ancestor: pages that rest on it are errors, all others right.
#[test]
fn damage_in_an_ancestor_is_told_and_stays_with_its_pages() {
    let whole = MemoryStorage::new();
    let memories = chain(&whole, 2, 600);
    let base = whole.contents("0").expect("saved").to_vec();
    let expected = &memories[2];
    let mut concerned = 0;
    for at in (4096..base.len() - 8192).step_by(base.len() / 23) {
        let storage = MemoryStorage::new();
        for name in ["1", "2"] {
            storage.insert(name, whole.contents(name).expect("saved").to_vec());
        }
        let mut damaged = base.clone();
        damaged[at] ^= 0x10;
        storage.insert("0", damaged);
        let mut bad = 0;
        for (&pfn, page) in expected.iter().step_by(3) {
            match extract(&storage, "2", pfn) {
                Ok(found) => assert!(found == *page, "page {pfn}"),
                Err(error) => {
                    assert!(error.is_damage(), "{error}");
                    bad += 1;
                }
            }
        }
        match restore(&storage, "2") {
            Ok(memory) => assert!(memory == *expected),
            Err(_) => refused_before_there_is_a_guest(&storage, "2"),
        }
        assert!(bad < expected.len() / 3, "one bit takes not every page");
        concerned += bad;
    }
    assert!(concerned > 0, "no flipped bit was met");
}

/// The pages of a range that are whole come out right, and the others' errors name the damaged image.
#[test]
fn a_damaged_page_keeps_no_other_of_its_range_from_being_read() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 2, 600);
    let expected = &memories[2];
    let mut base = storage.contents("0").expect("saved").to_vec();
    let middle = base.len() / 2;
    base[middle] ^= 0x10;
    base[middle / 2] ^= 0x10;
    storage.insert("0", base);
    let image = block_on(open(&storage, "2")).expect("opens");
    let (mut asked, mut lost) = (expected.iter(), Vec::new());
    let report = block_on(engine::extract(&image, expected.keys().copied(), |page| {
        let (pfn, wanted) = asked.next().expect("no more than asked");
        match page {
            Ok(page) => assert!(page == wanted, "page {pfn}"),
            Err(page) => {
                assert_eq!(page.pfn, *pfn);
                let words = page.error.to_string();
                assert!(page.error.is_damage() && words.contains("\"0\""), "{words}");
                // The place is one in the ancestor, near the byte that was flipped.
                let EngineError::Format(FormatError::AncestorDamaged { offset, .. }) = page.error else {
                    panic!("{words}");
                };
                let near = |flipped: usize| offset.abs_diff(flipped as u64) <= PAGE_SIZE as u64;
                assert!(near(middle) || near(middle / 2), "{words}, flipped {middle} and {}", middle / 2);
                lost.push(*pfn);
            }
        }
        Ok(())
    }))
    .expect("extracts");
    assert!(asked.next().is_none() && !lost.is_empty() && lost.len() < expected.len() / 2, "{lost:?}");
    assert_eq!((report.pages, report.lost_pages), ((expected.len() - lost.len()) as u64, lost.len() as u64));
    refused_before_there_is_a_guest(&storage, "2");
}

#[test]
fn missing_cut_and_replaced_ancestors_are_refused_before_anything_is_restored() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 2, 600);
    let base = storage.contents("0").expect("saved").to_vec();
    let expect = |wanted: fn(&AncestorProblem) -> bool| {
        let image = block_on(open(&storage, "2")).expect("opens");
        let mut restored = Restored::default();
        let (engine, progress) = (engine(), Progress::default());
        match block_on(engine::restore(&engine, &image, &mut restored, &progress)) {
            Err(EngineError::Ancestor { problem, .. }) => assert!(wanted(&problem), "{problem:?}"),
            other => panic!("{other:?}"),
        }
        assert!(restored.0.is_empty());
        assert!(block_on(engine::verify_deep(&engine, &image, &progress)).is_err());
        // Its own bytes are whole all the same.
        let alone = block_on(engine::verify(&engine, &image, &progress)).expect("reads");
        assert!(alone.is_whole(), "{alone:?}");
    };
    storage.insert("0", base[..base.len() - 1].to_vec());
    expect(|problem| matches!(problem, AncestorProblem::Damaged(_)));
    // The same uuid, other contents.
    save(&storage, "0", 1, &memories[1]);
    expect(|problem| *problem == AncestorProblem::Changed);
    block_on(storage.remove("0")).expect("removes");
    expect(|problem| *problem == AncestorProblem::Missing);
    // Pages of the others are there: one that increment 1 holds itself.
    let own = memories[2].iter().find(|(pfn, page)| {
        memories[0].get(pfn) != Some(page) && extract(&storage, "2", **pfn).is_ok_and(|found| found == **page)
    });
    assert!(own.is_some());
    // Under another name it is found by its uuid.
    storage.insert("renamed", base);
    assert!(restore(&storage, "2").expect("restores") == memories[2]);
}

#[test]
fn verifying_deep_tells_of_damage_in_an_ancestor() {
    let storage = MemoryStorage::new();
    chain(&storage, 1, 600);
    let mut base = storage.contents("0").expect("saved").to_vec();
    let image = block_on(open(&storage, "0")).expect("opens");
    let at = usize::try_from(image.segments()[0].offset).expect("small") + image.segments()[0].len() / 2;
    base[at] ^= 1;
    storage.insert("0", base);
    let image = block_on(open(&storage, "1")).expect("opens");
    let (engine, progress) = (engine(), Progress::default());
    assert!(block_on(engine::verify(&engine, &image, &progress)).expect("reads").is_whole());
    let deep = block_on(engine::verify_deep(&engine, &image, &progress)).expect("reads");
    assert_eq!(deep.damaged, 1, "{deep:?}");
    refused_before_there_is_a_guest(&storage, "1");
}

#[test]
fn a_parent_whose_pages_are_damaged_costs_bytes_not_the_save() {
    let storage = MemoryStorage::new();
    let parent = memory(5, 600);
    save(&storage, "parent", 1, &parent);
    let image = block_on(open(&storage, "parent")).expect("opens");
    let damaged = MemoryStorage::new();
    let mut bytes = storage.contents("parent").expect("saved").to_vec();
    // The first segment's table.
    bytes[usize::try_from(image.segments()[0].offset).expect("small") + 100] ^= 1;
    damaged.insert("parent", bytes);
    let foundation = Foundation::new(Some(relative(&damaged, "parent")), None).expect("index is whole");
    let report = save_upon(&damaged, "child", 2, &parent, Some(&foundation));
    assert!(report.trouble.is_some());
    let restored = restore(&damaged, "child");
    // Pages of the damaged segment were saved in full, the others are the parent's.
    assert!(restored.expect("restores") == parent);
}

#[test]
fn an_image_never_takes_the_place_of_one_that_it_rests_on() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 1, 300);
    let before = storage.contents("0").expect("saved").to_vec();
    let foundation = Foundation::new(Some(relative(&storage, "1")), None).expect("complete");
    let (engine, options, progress) = (engine(), options(9), Progress::default());
    let mut guest = Guest(memories[1].iter());
    let saving =
        engine::save_upon(&engine, Some(&foundation), &mut guest, &storage, "0", &options, &progress);
    assert!(block_on(saving).is_err());
    assert!(*storage.contents("0").expect("still there") == before);
}

#[test]
fn descendants_are_known() {
    let storage = MemoryStorage::new();
    chain(&storage, 2, 600);
    let of = |number: u8| -> Vec<String> {
        let found = block_on(engine::descendants(&storage, &[number; 16])).expect("lists");
        found.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(of(1), ["1", "2"]);
    assert_eq!(of(2), ["2"]);
    assert_eq!(of(3), [""; 0]);
}

#[test]
fn an_image_that_is_no_template_is_refused() {
    let storage = MemoryStorage::new();
    save(&storage, "image", 1, &memory(1, 100));
    let image = block_on(open(&storage, "image")).expect("opens");
    assert!(matches!(block_on(engine::open_template(&image, 1 << 20)), Err(EngineError::NotATemplate(_))));
}

#[test]
fn a_recovered_increment_keeps_its_ancestors() {
    let storage = MemoryStorage::new();
    let memories = chain(&storage, 1, 1500);
    let mut cut = storage.contents("1").expect("saved").to_vec();
    cut.truncate(cut.len() - 8192);
    storage.insert("cut", cut);
    let damaged = block_on(storage.open("cut")).expect("inserted");
    let (engine, progress) = (engine(), Progress::default());
    let recovering = engine::recover(&engine, &*damaged, &storage, "new", true, &progress);
    assert!(block_on(recovering).expect("recovers").complete);
    assert!(restore(&storage, "new").expect("restores") == memories[1]);
}
