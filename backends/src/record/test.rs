//! Recordings of a guest in memory that writes while it is looked at, and of mocks that fail.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::buffer::BufferPool;
use comio_core::hypervisor::HypervisorError;
use comio_core::page_set::PageSet;
use comio_core::tape::{GuestReader, TapeItem};
use futures::executor::block_on;
use mockall::Sequence;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;
use crate::pool::WorkerPool;

/// What the guest is, seen from outside.
struct State {
    memory: Vec<u8>,
    /// `None` while nothing is noted.
    dirty: Option<PageSet>,
    paused: bool,
    random: ChaCha12Rng,
    /// Pages written at each look.
    writes: usize,
    /// What its memory was when it was paused, each time.
    truth: Vec<Vec<u8>>,
}

impl State {
    fn page_count(&self) -> u64 {
        (self.memory.len() / PAGE_SIZE) as u64
    }

    /// The guest goes on for a moment.
    fn run(&mut self) {
        if self.paused {
            return;
        }
        for _ in 0..self.writes {
            let pfn = self.random.random_range(0..self.page_count());
            let at = usize::try_from(pfn).unwrap() * PAGE_SIZE + self.random.random_range(0..PAGE_SIZE);
            self.memory[at] = self.memory[at].wrapping_add(self.random.random_range(0..3));
            if let Some(dirty) = &mut self.dirty {
                dirty.insert(pfn);
            }
        }
    }
}

#[derive(Clone)]
struct MemoryGuest {
    state: Arc<Mutex<State>>,
    tracking: Tracking,
}

impl MemoryGuest {
    fn new(pages: usize, tracking: Tracking, seed: u64, writes: usize) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let byte = |i: usize| if (i / PAGE_SIZE).is_multiple_of(3) { 0 } else { random.random::<u8>() };
        let memory = (0..pages * PAGE_SIZE).map(byte).collect();
        let random = ChaCha12Rng::seed_from_u64(seed + 1);
        let state = State { memory, dirty: None, paused: false, random, writes, truth: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), tracking }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        state.run();
        let result = look(&mut state);
        state.run();
        result
    }
}

impl LiveGuest for MemoryGuest {
    fn page_count(&self) -> u64 {
        self.with(|state| state.page_count())
    }

    fn begin(&mut self) -> Result<Tracking, HypervisorError> {
        if self.tracking == Tracking::Dirty {
            self.with(|state| state.dirty = Some(PageSet::none(state.page_count())));
        }
        Ok(self.tracking)
    }

    fn take_dirty(&mut self) -> Result<PageSet, HypervisorError> {
        self.with(|state| {
            let none = PageSet::none(state.page_count());
            Ok(state.dirty.replace(none).expect("it is tracked"))
        })
    }

    fn pause(&mut self) -> Result<(), HypervisorError> {
        self.with(|state| {
            state.paused = true;
            state.truth.push(state.memory.clone());
        });
        Ok(())
    }

    fn unpause(&mut self) -> Result<(), HypervisorError> {
        self.with(|state| state.paused = false);
        Ok(())
    }

    fn copy(&mut self, pfns: &[u64], pages: &mut [u8]) -> Result<(), HypervisorError> {
        self.with(|state| {
            for (&pfn, page) in pfns.iter().zip(pages.chunks_mut(PAGE_SIZE)) {
                page.copy_from_slice(&state.memory[usize::try_from(pfn).unwrap() * PAGE_SIZE..][..PAGE_SIZE]);
            }
        });
        Ok(())
    }

    fn check(&mut self) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        self.with(|state| state.dirty = None);
        Ok(())
    }
}

/// A clock that moves by a millisecond at every look; sleeping moves it.
#[derive(Clone, Default)]
struct Ticks(Arc<AtomicU64>);

impl Ticks {
    fn clock(&self) -> Clock {
        let ticks = Arc::clone(&self.0);
        Box::new(move || Duration::from_millis(ticks.fetch_add(1, Ordering::Relaxed)))
    }
}

#[async_trait]
impl Pace for Ticks {
    fn now(&self) -> Duration {
        self.clock()()
    }

    async fn sleep_until(&self, moment: Duration) -> bool {
        let moment = u64::try_from(moment.as_millis()).unwrap();
        self.0.fetch_max(moment, Ordering::Relaxed);
        true
    }
}

/// Steps as they were written: when, what changed, and all of the memory.
#[derive(Default)]
struct Written {
    steps: Vec<(Duration, Step, Vec<u8>)>,
    fail_at: Option<usize>,
}

#[async_trait]
impl StepSink for Written {
    async fn write(
        &mut self,
        step: &Step,
        at: Duration,
        reader: &mut dyn GuestReader,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.fail_at == Some(self.steps.len()) {
            return Err("the disk is full".into());
        }
        let pool = BufferPool::new(64 << 20, 4 << 20);
        let mut memory = Vec::new();
        while let Some(item) = reader.next(&pool).await? {
            let TapeItem::Batch(batch) = item else { panic!("a flat dump of whole pages has no frame") };
            memory.extend_from_slice(&batch.pages.into_bytes()?);
        }
        self.steps.push((at, step.clone(), memory));
        Ok(())
    }
}

fn recorder<G: LiveGuest>(
    guest: G,
    stop: &Arc<AtomicBool>,
    ticks: &Ticks,
) -> Result<Recorder<G>, RecordError> {
    Recorder::begin(guest, tempfile::tempfile().unwrap(), ticks.clock(), Arc::clone(stop))
}

const PLAN: Plan = Plan { every: Duration::from_secs(10), lasts: Duration::from_secs(40) };

fn record(guest: MemoryGuest, written: &mut Written) -> Result<(), RecordError> {
    let (thread, workers) = (WorkerPool::new(1).unwrap(), Arc::new(WorkerPool::new(1).unwrap()));
    let ticks = Ticks::default();
    let recorder = recorder(guest, &Arc::default(), &ticks)?;
    block_on(run(recorder, &thread, &workers, written, &ticks, PLAN))
}

fn pages_that_differ(before: &[u8], now: &[u8]) -> Vec<u64> {
    let pairs = before.chunks(PAGE_SIZE).zip(now.chunks(PAGE_SIZE));
    (0u64..).zip(pairs).filter(|(_, (before, now))| before != now).map(|(pfn, _)| pfn).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Each step is the guest's memory at the moment when it was paused, and what is said to
    /// have changed is exactly what did.
    #[test]
    fn every_step_is_one_moment_of_the_guest(
        pages in 1usize..700, writes in 0usize..40, dirty: bool, seed in 0u64..1000,
    ) {
        let tracking = if dirty { Tracking::Dirty } else { Tracking::Compare };
        let guest = MemoryGuest::new(pages, tracking, seed, writes);
        let mut written = Written::default();
        record(guest.clone(), &mut written).unwrap();
        let state = guest.state.lock().unwrap();
        prop_assert_eq!(written.steps.len(), 5);
        prop_assert_eq!(state.truth.len(), 5);
        for (number, (at, step, memory)) in written.steps.iter().enumerate() {
            prop_assert!(memory == &state.truth[number], "step {} is not what the guest was", number);
            prop_assert_eq!(at.as_secs(), 10 * number as u64);
            prop_assert!(step.paused > Duration::ZERO);
            let changed: Vec<u64> = step.changed.iter().collect();
            let expected = match number.checked_sub(1) {
                None => (0..pages as u64).collect(),
                Some(before) => pages_that_differ(&written.steps[before].2, memory),
            };
            prop_assert_eq!(changed, expected);
        }
        prop_assert!(!state.paused && state.dirty.is_none(), "it runs and is not tracked");
    }
}

/// Tracked guests are copied while they run: the pause is for the last few pages.
#[test]
fn a_tracked_guest_stands_still_for_what_it_wrote_last() {
    let guest = MemoryGuest::new(3000, Tracking::Dirty, 5, 1);
    let mut written = Written::default();
    record(guest, &mut written).unwrap();
    for (number, (_, step, _)) in written.steps.iter().enumerate() {
        let most = if number == 0 { 3100 } else { 100 };
        assert!(step.copied_pages < most, "step {number} copied {}", step.copied_pages);
    }
}

#[test]
fn steps_that_come_late_are_not_made_up_for() {
    struct Slow(Written, Ticks);
    #[async_trait]
    impl StepSink for Slow {
        async fn write(
            &mut self,
            step: &Step,
            at: Duration,
            reader: &mut dyn GuestReader,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.1.0.fetch_add(14_000, Ordering::Relaxed);
            self.0.write(step, at, reader).await
        }
    }
    let (thread, workers) = (WorkerPool::new(1).unwrap(), Arc::new(WorkerPool::new(1).unwrap()));
    let ticks = Ticks::default();
    let recorder = recorder(MemoryGuest::new(10, Tracking::Dirty, 1, 1), &Arc::default(), &ticks).unwrap();
    let mut slow = Slow(Written::default(), ticks.clone());
    block_on(run(recorder, &thread, &workers, &mut slow, &ticks, PLAN)).unwrap();
    let times: Vec<u64> = slow.0.steps.iter().map(|(at, ..)| at.as_secs()).collect();
    assert_eq!(times, [0, 24, 38, 52]);
}

#[test]
fn a_step_that_cannot_be_written_ends_it_and_frees_the_guest() {
    let guest = MemoryGuest::new(10, Tracking::Dirty, 1, 1);
    let mut written = Written { fail_at: Some(2), ..Written::default() };
    let error = record(guest.clone(), &mut written).unwrap_err();
    assert_eq!(error.to_string(), "cannot write step 2");
    assert_eq!(written.steps.len(), 2);
    let state = guest.state.lock().unwrap();
    assert!(!state.paused && state.dirty.is_none());
}

#[test]
fn a_stop_ends_a_step_and_frees_the_guest() {
    let (stop, ticks) = (Arc::new(AtomicBool::new(false)), Ticks::default());
    let guest = MemoryGuest::new(10, Tracking::Compare, 1, 1);
    let mut recorder = recorder(guest.clone(), &stop, &ticks).unwrap();
    recorder.step().unwrap();
    stop.store(true, Ordering::Release);
    assert!(matches!(recorder.step(), Err(RecordError::Stopped)));
    drop(recorder);
    assert!(!guest.state.lock().unwrap().paused);
}

fn refused(action: &'static str) -> HypervisorError {
    HypervisorError::Refused { action, guest: "g".to_owned(), problem: "no".to_owned() }
}

/// A mock of ten pages that can be tracked, of which `dirty` are written to all the time.
fn mock_writing(dirty: u64) -> MockLiveGuest {
    let mut guest = MockLiveGuest::new();
    guest.expect_page_count().return_const(10u64);
    guest.expect_begin().times(1).returning(|| Ok(Tracking::Dirty));
    guest.expect_take_dirty().returning(move || {
        let mut set = PageSet::none(10);
        (0..dirty).for_each(|pfn| set.insert(pfn));
        Ok(set)
    });
    guest
}

/// A mock that writes nothing.
fn mock() -> MockLiveGuest {
    mock_writing(0)
}

fn step_of(guest: MockLiveGuest) -> RecordError {
    let mut recorder = recorder(guest, &Arc::default(), &Ticks::default()).unwrap();
    recorder.step().unwrap_err()
}

#[test]
fn a_guest_that_cannot_be_tracked_is_left_alone() {
    let mut guest = MockLiveGuest::new();
    guest.expect_page_count().return_const(10u64);
    guest.expect_begin().times(1).returning(|| Err(refused("track")));
    // Neither unpaused nor ended: there was nothing.
    let error = recorder(guest, &Arc::default(), &Ticks::default()).unwrap_err();
    assert!(matches!(error, RecordError::Guest(_)));
}

#[test]
fn a_guest_that_cannot_be_paused_is_not_unpaused() {
    let mut guest = mock();
    guest.expect_copy().returning(|_, _| Ok(()));
    guest.expect_pause().times(1).returning(|| Err(refused("pause")));
    guest.expect_end().times(1).returning(|| Ok(()));
    assert!(matches!(step_of(guest), RecordError::Guest(HypervisorError::Refused { action: "pause", .. })));
}

#[test]
fn a_guest_that_is_gone_when_it_was_copied_gives_no_step() {
    let mut guest = mock();
    let mut order = Sequence::new();
    guest.expect_copy().times(1).in_sequence(&mut order).returning(|_, _| Ok(()));
    guest.expect_pause().times(1).in_sequence(&mut order).returning(|| Ok(()));
    guest.expect_check().times(1).in_sequence(&mut order).returning(|| Err(refused("find")));
    guest.expect_unpause().times(1).in_sequence(&mut order).returning(|| Ok(()));
    guest.expect_end().times(1).in_sequence(&mut order).returning(|| Ok(()));
    assert!(matches!(step_of(guest), RecordError::Guest(HypervisorError::Refused { action: "find", .. })));
}

#[test]
fn a_guest_that_stays_paused_is_told_and_tried_again() {
    let mut guest = mock();
    guest.expect_copy().returning(|_, _| Ok(()));
    guest.expect_pause().times(1).returning(|| Ok(()));
    guest.expect_check().returning(|| Err(refused("find")));
    guest.expect_unpause().times(2).returning(|| Err(refused("unpause")));
    guest.expect_end().times(1).returning(|| Ok(()));
    let error = step_of(guest);
    assert!(matches!(&error, RecordError::StillPaused { failure: Some(_), .. }));
    let words = error.to_string();
    assert!(words.contains("may still be paused") && words.contains("cannot find"), "{words}");
}

#[test]
fn a_panic_while_the_guest_stands_still_frees_it() {
    let mut guest = mock_writing(1);
    let copies = AtomicU64::new(0);
    guest.expect_copy().returning(move |_, _| {
        // All pages, then the one that was written to meanwhile, then it stands still.
        assert!(copies.fetch_add(1, Ordering::Relaxed) < 2, "the third copy fails");
        Ok(())
    });
    guest.expect_pause().times(1).returning(|| Ok(()));
    guest.expect_unpause().times(1).returning(|| Ok(()));
    guest.expect_end().times(1).returning(|| Ok(()));
    let mut recorder = recorder(guest, &Arc::default(), &Ticks::default()).unwrap();
    let thread = WorkerPool::new(1).unwrap();
    let outcome = block_on(thread.submit_io(move || recorder.step().map(|_| ())));
    assert!(outcome.is_err(), "the job was lost");
}
