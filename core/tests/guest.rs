//! Whole guests over mocked ports: whatever fails, the guest runs on, or its image is whole.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use comio_core::compute::{ComputeError, Inline, MockCompute};
use comio_core::ecbc::Method;
use comio_core::engine::{
    self, Consumed, ConsumedBy, Engine, EngineError, Image, Progress, Restoring, SaveOptions,
};
use comio_core::format::placement::Placement;
use comio_core::hypervisor::{HeldGuest, HypervisorError, MockHypervisor, NewGuest};
use comio_core::segment::EcbcCoder;
use comio_core::storage::{MockObjectWriter, MockStorage, Storage, StorageError, StorageErrorKind};
use comio_core::tape::TapeItem;
use comio_core::tape::{GuestReader, GuestWriter, MockGuestReader, MockGuestWriter, TapeError, TapeFormat};
use comio_core::testing::{Fault, FaultyStorage, MemoryStorage};
use futures::executor::block_on;

const OPTIONS: SaveOptions = SaveOptions { uuid: [1; 16], created_unix_s: 0, replace: true };

type Events = Arc<Mutex<Vec<&'static str>>>;

fn note(events: &Events, event: &'static str) {
    events.lock().expect("no panic").push(event);
}

fn seen(events: &Events) -> Vec<&'static str> {
    events.lock().expect("no panic").clone()
}

fn refused(action: &'static str) -> HypervisorError {
    HypervisorError::Refused { action, guest: "guest".into(), problem: "mocked".into() }
}

fn full() -> StorageError {
    StorageError::new(StorageErrorKind::NoSpace, "write", "image", "full")
}

fn engine() -> Engine {
    Engine::new(Arc::new(Inline), Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid)), 0)
}

/// A held guest that notes how it ends.
struct Held {
    reader: MockGuestReader,
    events: Events,
    resumable: bool,
}

#[async_trait]
impl HeldGuest for Held {
    fn reader(&mut self) -> &mut dyn GuestReader {
        &mut self.reader
    }

    async fn release(self: Box<Self>) -> Result<(), HypervisorError> {
        note(&self.events, "released");
        Ok(())
    }

    async fn resume(self: Box<Self>) -> Result<(), HypervisorError> {
        note(&self.events, "resumed");
        if self.resumable { Ok(()) } else { Err(refused("resume")) }
    }
}

/// A hypervisor whose guest gives the result of `next` as its tape.
fn hypervisor(
    events: &Events,
    resumable: bool,
    next: fn() -> Result<Option<TapeItem>, TapeError>,
) -> MockHypervisor {
    let events = Arc::clone(events);
    let mut hypervisor = MockHypervisor::new();
    hypervisor.expect_begin_save().times(1).returning(move |_| {
        let mut reader = MockGuestReader::new();
        reader.expect_format().return_const(TapeFormat::RAW);
        reader.expect_size_hint().return_const(None);
        reader.expect_next().returning(move |_| next());
        Ok(Box::new(Held { reader, events: Arc::clone(&events), resumable }))
    });
    hypervisor
}

fn save(hypervisor: &MockHypervisor, storage: &dyn Storage) -> Result<engine::SaveReport, EngineError> {
    let (engine, progress) = (engine(), Progress::default());
    block_on(engine::save_guest(&engine, hypervisor, "guest", storage, "image", &OPTIONS, &progress))
}

/// A storage whose writer fails where `prepare` says.
fn storage(events: &Events, prepare: impl Fn(&mut MockObjectWriter) + Send + 'static) -> MockStorage {
    let events = Arc::clone(events);
    let mut storage = MockStorage::new();
    storage.expect_free_bytes().returning(|| Ok(None));
    storage.expect_create().times(1).returning(move |_, _| {
        let mut writer = MockObjectWriter::new();
        prepare(&mut writer);
        let (published, abandoned) = (Arc::clone(&events), Arc::clone(&events));
        writer.expect_publish().returning(move || {
            note(&published, "published");
            Ok(())
        });
        writer.expect_abandon().returning(move || {
            note(&abandoned, "abandoned");
            Ok(())
        });
        Ok(Box::new(writer))
    });
    storage
}

#[test]
fn a_guest_is_released_after_its_image_is_visible() {
    let events = Events::default();
    let storage = MemoryStorage::new();
    save(&hypervisor(&events, true, || Ok(None)), &storage).expect("saves");
    assert_eq!(seen(&events), ["released"]);
    assert!(storage.contents("image").is_some());
}

/// Whatever call of the storage fails: an image whose guest goes on is never visible without its mark.
#[test]
fn an_image_whose_guest_goes_on_is_marked_or_not_visible() {
    for fault in
        [Fault::Fail(StorageErrorKind::Other), Fault::FailAfter(StorageErrorKind::Other), Fault::DieAfter]
    {
        for at_call in 1.. {
            let (inner, events) = (MemoryStorage::new(), Events::default());
            let storage = FaultyStorage::new(inner.clone(), at_call, fault);
            let hypervisor = hypervisor(&events, true, || Ok(None));
            let mark = Consumed { why: ConsumedBy::RanOn, ..mark() };
            let (engine, progress) = (engine(), Progress::default());
            let saving = engine::save_guest_upon(
                &engine,
                None,
                &hypervisor,
                "guest",
                &storage,
                "image",
                &OPTIONS,
                Some(&mark),
                &progress,
            );
            let saved = block_on(saving);
            if inner.contents("image").is_some() {
                let there = block_on(engine::consumed(&inner, &OPTIONS.uuid)).expect("asked");
                assert_eq!(there, Some(mark), "{fault:?} at {at_call}: {:?}", storage.calls());
            }
            assert_eq!(seen(&events), [if saved.is_ok() { "released" } else { "resumed" }]);
            if !storage.was_met() {
                break;
            }
        }
    }
}

/// Saves over `storage` as who marks what is in doubt; gives the failure in the end.
fn save_in_doubt(storage: &dyn Storage, events: &Events, resumable: bool) -> Option<EngineError> {
    let hypervisor = hypervisor(events, resumable, || Ok(None));
    let failure = save(&hypervisor, storage).err()?;
    let mark = Consumed { why: ConsumedBy::RanOn, ..mark() };
    Some(block_on(engine::mark_in_doubt(storage, "image", &mark, 9, failure, std::future::pending())))
}

/// Whatever call of the storage is in doubt: an image that is visible all the same is marked.
#[test]
fn an_image_in_doubt_is_marked_after_its_guest_runs_again() {
    let mut visible = 0;
    for at_call in 1.. {
        let (inner, events) = (MemoryStorage::new(), Events::default());
        let storage = FaultyStorage::new(inner.clone(), at_call, Fault::FailAfter(StorageErrorKind::InDoubt));
        let Some(failure) = save_in_doubt(&storage, &events, true) else { break };
        assert_eq!(seen(&events), ["resumed"]);
        if inner.contents("image").is_some() {
            visible += 1;
            let there = block_on(engine::consumed(&inner, &OPTIONS.uuid)).expect("asked");
            assert_eq!(there.map(|mark| mark.why), Some(ConsumedBy::RanOn), "{:?}", storage.calls());
            assert!(failure.to_string().contains("marked as used"), "{failure}");
        }
    }
    assert_eq!(visible, 1, "publishing");
}

#[test]
fn an_image_in_doubt_is_told_of_and_not_marked_while_its_guest_stands_still() {
    for at_call in 1.. {
        let (inner, events) = (MemoryStorage::new(), Events::default());
        let storage = FaultyStorage::new(inner.clone(), at_call, Fault::FailAfter(StorageErrorKind::InDoubt));
        let Some(failure) = save_in_doubt(&storage, &events, false) else { break };
        assert!(failure.to_string().contains("comio recover"), "{failure}");
        assert_eq!(block_on(engine::consumed(&inner, &OPTIONS.uuid)).expect("asked"), None);
    }
}

#[test]
fn a_broken_tape_leaves_the_guest_running_and_no_image() {
    let events = Events::default();
    let storage = MemoryStorage::new();
    let broken = hypervisor(&events, true, || Err(TapeError::Inconsistent("broken".into())));
    assert!(matches!(save(&broken, &storage), Err(EngineError::Tape(_))));
    assert_eq!(seen(&events), ["resumed"]);
    assert!(storage.contents("image").is_none());
}

#[test]
fn a_failing_write_resumes_the_guest_then_abandons_the_object() {
    let events = Events::default();
    let storage = storage(&events, |writer| {
        writer.expect_write_at().returning(|_, _| Err(full()));
    });
    assert!(save(&hypervisor(&events, true, || Ok(None)), &storage).is_err());
    assert_eq!(seen(&events), ["resumed", "abandoned"]);
}

#[test]
fn a_failing_sync_resumes_the_guest_then_abandons_the_object() {
    let events = Events::default();
    let storage = storage(&events, |writer| {
        writer.expect_write_at().returning(|_, _| Ok(()));
        writer.expect_sync().returning(|| Err(full()));
    });
    assert!(save(&hypervisor(&events, true, || Ok(None)), &storage).is_err());
    assert_eq!(seen(&events), ["resumed", "abandoned"]);
}

#[test]
fn an_image_that_reads_back_different_is_not_published() {
    let events = Events::default();
    let storage = storage(&events, |writer| {
        writer.expect_write_at().returning(|_, _| Ok(()));
        writer.expect_sync().returning(|| Ok(()));
        writer.expect_read_at().returning(|_, len, mut buffer| {
            buffer.spare()[..len].fill(0);
            buffer.set_len(len);
            Ok(comio_core::buffer::Payload::Bytes(buffer))
        });
    });
    let error = save(&hypervisor(&events, true, || Ok(None)), &storage).expect_err("differs");
    assert!(error.is_damage(), "{error}");
    assert_eq!(seen(&events), ["resumed", "abandoned"]);
}

#[test]
fn a_guest_that_cannot_be_resumed_is_told_of() {
    let events = Events::default();
    let broken = hypervisor(&events, false, || Err(TapeError::Inconsistent("broken".into())));
    assert!(matches!(save(&broken, &MemoryStorage::new()), Err(EngineError::StillHeld { .. })));
}

#[test]
fn a_dead_worker_pool_is_an_error_not_a_hang() {
    let mut compute = MockCompute::new();
    compute.expect_workers().return_const(1usize);
    compute.expect_run().returning(|_| Err(ComputeError));
    let coder = Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid));
    let engine = Engine::new(Arc::new(compute), coder, 0);
    let mut reader = MockGuestReader::new();
    reader.expect_format().return_const(TapeFormat::RAW);
    reader.expect_size_hint().return_const(None);
    reader.expect_next().returning(|_| Ok(None));
    let (storage, progress) = (MemoryStorage::new(), Progress::default());
    let saved = block_on(engine::save(&engine, &mut reader, &storage, "image", &OPTIONS, &progress));
    assert!(matches!(saved, Err(EngineError::Compute(_))));
}

/// A guest being created that notes how it ends.
struct New {
    writer: MockGuestWriter,
    events: Events,
    discardable: bool,
}

#[async_trait]
impl NewGuest for New {
    fn writer(&mut self) -> &mut dyn GuestWriter {
        &mut self.writer
    }

    async fn start(self: Box<Self>) -> Result<(), HypervisorError> {
        note(&self.events, "started");
        Ok(())
    }

    async fn discard(self: Box<Self>) -> Result<(), HypervisorError> {
        note(&self.events, "discarded");
        if self.discardable { Ok(()) } else { Err(refused("remove")) }
    }
}

/// An image, and a hypervisor on which it may be restored.
fn restorable(finish: fn() -> Result<(), TapeError>) -> (MemoryStorage, MockHypervisor, Events) {
    restorable_or_stuck(finish, true)
}

/// As [`restorable`]; a failed restore's guest can be removed or not.
fn restorable_or_stuck(
    finish: fn() -> Result<(), TapeError>,
    discardable: bool,
) -> (MemoryStorage, MockHypervisor, Events) {
    let storage = MemoryStorage::new();
    save(&hypervisor(&Events::default(), true, || Ok(None)), &storage).expect("saves");
    let events = Events::default();
    let noted = Arc::clone(&events);
    let mut hypervisor = MockHypervisor::new();
    hypervisor.expect_begin_restore().returning(move |_, _| {
        let mut writer = MockGuestWriter::new();
        writer.expect_finish().returning(finish);
        Ok(Box::new(New { writer, events: Arc::clone(&noted), discardable }))
    });
    (storage, hypervisor, events)
}

fn restore(finish: fn() -> Result<(), TapeError>) -> (Result<engine::RestoreReport, EngineError>, Events) {
    let (storage, hypervisor, events) = restorable(finish);
    let (engine, progress) = (engine(), Progress::default());
    let restoring = engine::restore_guest(&engine, &storage, "image", &hypervisor, "guest", &progress);
    (block_on(restoring), events)
}

fn restore_once(
    storage: &MemoryStorage,
    hypervisor: &MockHypervisor,
    force: bool,
) -> Result<engine::RestoreReport, EngineError> {
    let mark = mark();
    let once = Restoring { name: "image", mark: &mark, force, unique: 7 };
    let image = block_on(Image::open_with_ancestors(storage, "image", &[])).expect("opens");
    let (engine, progress) = (engine(), Progress::default());
    let restoring =
        engine::restore_guest_once(&engine, storage, &image, hypervisor, "guest", Some(once), &progress);
    block_on(restoring)
}

fn mark() -> Consumed {
    Consumed { image: OPTIONS.uuid, why: ConsumedBy::Restored, host: "here".into(), unix_seconds: 5 }
}

#[test]
fn a_half_made_guest_that_cannot_be_removed_is_told_of() {
    let (storage, hypervisor, _) = restorable_or_stuck(|| Err(TapeError::Inconsistent("no".into())), false);
    let error = restore_once(&storage, &hypervisor, false).expect_err("fails");
    assert!(matches!(error, EngineError::HalfMade { .. }), "{error}");
    assert!(error.is_damage(), "the first failure decides what it is");
}

#[test]
fn an_image_is_restored_once() {
    let (storage, hypervisor, events) = restorable(|| Ok(()));
    restore_once(&storage, &hypervisor, false).expect("restores");
    assert_eq!(block_on(engine::consumed(&storage, &OPTIONS.uuid)).expect("asked"), Some(mark()));
    let again = restore_once(&storage, &hypervisor, false);
    assert!(matches!(again, Err(EngineError::AlreadyConsumed(..))), "{again:?}");
    assert_eq!(seen(&events), ["started"], "no second guest was begun");
    restore_once(&storage, &hypervisor, true).expect("restores by force");
}

#[test]
fn a_failed_restore_leaves_no_mark() {
    let (storage, hypervisor, events) = restorable(|| Err(TapeError::Inconsistent("no".into())));
    assert!(restore_once(&storage, &hypervisor, false).is_err());
    assert_eq!(seen(&events), ["discarded"]);
    assert_eq!(block_on(engine::consumed(&storage, &OPTIONS.uuid)).expect("asked"), None);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "another host: this thread's executor is busy")]
fn of_two_restores_at_once_the_later_mark_loses_and_leaves_no_guest() {
    let (storage, hypervisor, events) = restorable(|| {
        // Meanwhile another host has started the guest.
        let storage = OTHER_HOST.take().expect("set");
        let mark = Consumed { host: "there".into(), ..mark() };
        let marking = move || block_on(engine::consume(&storage, "image", &mark, false, 8));
        std::thread::spawn(marking).join().expect("no panic").expect("marks");
        Ok(())
    });
    OTHER_HOST.set(Some(storage.clone()));
    let restored = restore_once(&storage, &hypervisor, false);
    assert!(matches!(restored, Err(EngineError::AlreadyConsumed(..))), "{restored:?}");
    assert_eq!(seen(&events), ["discarded"]);
}

thread_local! {
    static OTHER_HOST: RefCell<Option<MemoryStorage>> = const { RefCell::new(None) };
}

#[test]
fn a_restored_guest_starts_once_all_was_checked() {
    let (restored, events) = restore(|| Ok(()));
    restored.expect("restores");
    assert_eq!(seen(&events), ["started"]);
}

#[test]
fn a_failed_restore_leaves_no_guest() {
    let (restored, events) = restore(|| Err(TapeError::Inconsistent("no".into())));
    assert!(restored.is_err());
    assert_eq!(seen(&events), ["discarded"]);
}
