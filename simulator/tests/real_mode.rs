//! A scenario in real mode, on a world in memory: real bytes through the real engine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use comio_core::compute::{Compute, Inline};
use comio_core::ecbc;
use comio_core::engine::{self, Engine, Foundation, Image, Progress, Relative, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::{CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError};
use comio_core::testing::MemoryStorage;
use comio_simulator::hypervisor::Replay as _;
use comio_simulator::replay::ReplayedGuest;
use comio_simulator::report::{Phase, Run};
use comio_simulator::runner::{self, RunError};
use comio_simulator::scenario::{self, Method, Scenario, ScenarioFile};
use comio_simulator::trace::{SyntheticGuest, Trace};
use comio_simulator::world::{RunningServer, World, WorldError};
use futures::executor::block_on;

/// A storage that flips a bit in the middle of what it opens.
struct Spoiling(MemoryStorage);

#[async_trait]
impl Storage for Spoiling {
    fn location(&self) -> String {
        self.0.location()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        self.0.create(name, options).await
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        let mut contents = self.0.contents(name).expect("it was published").to_vec();
        let middle = contents.len() / 2;
        contents[middle] ^= 0x10;
        self.0.insert(name, contents);
        self.0.open(name).await
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.0.list().await
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.0.remove(name).await
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.0.leftovers().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.0.free_bytes().await
    }
}

/// A world whose clock moves by a millisecond at every look.
struct MemoryWorld {
    traces: MemoryStorage,
    images: MemoryStorage,
    spoil: bool,
    ticks: AtomicU64,
}

struct MemoryServer(Arc<dyn Storage>);

#[async_trait]
impl RunningServer for MemoryServer {
    async fn connect(&self, _host: usize, _connections: usize) -> Result<Arc<dyn Storage>, WorldError> {
        Ok(Arc::clone(&self.0))
    }

    async fn stop(self: Box<Self>) -> Result<(), WorldError> {
        Ok(())
    }
}

#[async_trait]
impl World for MemoryWorld {
    fn now(&self) -> Duration {
        Duration::from_millis(self.ticks.fetch_add(1, Ordering::Relaxed))
    }

    async fn sleep(&self, duration: Duration) {
        let passed = u64::try_from(duration.as_millis()).unwrap();
        self.ticks.fetch_add(passed, Ordering::Relaxed);
    }

    fn cores(&self) -> usize {
        1
    }

    fn uuid(&self) -> [u8; 16] {
        u128::from(self.ticks.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
    }

    fn compute(&self, _workers: usize) -> Result<Arc<dyn Compute>, WorldError> {
        Ok(Arc::new(Inline))
    }

    async fn trace(&self, name: &str) -> Result<Image, WorldError> {
        Ok(Image::open_with_ancestors(&self.traces, name, &[]).await?)
    }

    async fn start_server(&self, _scenario: &Scenario) -> Result<Box<dyn RunningServer>, WorldError> {
        let images = self.images.clone();
        Ok(Box::new(MemoryServer(if self.spoil { Arc::new(Spoiling(images)) } else { Arc::new(images) })))
    }

    fn tell(&self, _words: &str) {}
}

/// Memory with zero pages, text-like pages and noise.
fn recorded(pages: usize) -> Vec<u8> {
    let mut memory = vec![0; pages * 4096];
    let mut state = 1u32;
    for (number, page) in memory.chunks_exact_mut(4096).enumerate() {
        for byte in page {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = match number % 3 {
                0 => 0,
                1 => b'a' + (state >> 30) as u8,
                _ => (state >> 24) as u8,
            };
        }
    }
    memory
}

/// A world with one trace, made as `comio` makes them: by saving a guest.
fn world(spoil: bool) -> MemoryWorld {
    let traces = MemoryStorage::new();
    let trace = Trace::new("t-0", recorded(1300)).unwrap();
    let compute: Arc<dyn Compute> = Arc::new(Inline);
    let guest = ReplayedGuest::new(SyntheticGuest::new(&trace, 1300, 0.0, 1, 1), &compute);
    let coder = EcbcCoder::new(comio_core::ecbc::Method::Dense, Placement::Hybrid);
    let engine = Engine::new(compute, Arc::new(coder), 0);
    let options = SaveOptions { uuid: [1; 16], created_unix_s: 0, replace: false };
    let progress = Progress::default();
    let mut reader = guest.reader();
    block_on(engine::save(&engine, &mut *reader, &traces, "t-0", &options, &progress)).unwrap();
    MemoryWorld { traces, images: MemoryStorage::new(), spoil, ticks: AtomicU64::new(0) }
}

fn file(guests: usize) -> ScenarioFile {
    let text = format!(
        "name = 'test'\nquestion = 'does it come back?'\nmode = 'real'\n\
         operation = 'save-then-restore'\nmethods = ['raw', 'lz4', 'comio']\n\
         [guests]\ncount = {guests}\nmemory = '6 MiB'\ntraces = ['t-0']\n\
         [[expect]]\nmethod = 'comio'\nratio-min = 1.5\n\
         [[expect]]\nmethod = 'raw'\nratio-min = 1.5\noperation = 'save'\n"
    );
    scenario::parse("test.toml", &text, &|name| if name == "t-0" { Ok(()) } else { Err(Vec::new()) }).unwrap()
}

#[test]
fn every_guest_comes_back_by_every_method() {
    let world = world(false);
    let outcome = block_on(runner::run(&file(3), &world)).unwrap();
    let runs = &outcome.results.runs;
    assert_eq!(runs.len(), 6);
    assert!(runs.iter().all(|run| run.identical == Some(true)));
    assert!(runs.iter().all(|run| run.guest_bytes == 18 << 20 && run.timeline.guests.len() == 3));
    let stored = |method| {
        let save = |run: &&_| matches!(run, comio_simulator::report::Run { operation: Phase::Save, .. });
        runs.iter().filter(save).find(|run| run.method == method).unwrap().stored_bytes
    };
    assert!(stored(Method::Raw) > 18 << 20, "raw images hold every page");
    assert!(stored(Method::Comio) < stored(Method::Raw) * 2 / 3);
    // The images were removed and the missed bound was told.
    assert!(block_on(world.images.list()).unwrap().is_empty());
    assert_eq!(outcome.missed.len(), 1, "{:?}", outcome.missed);
}

fn parsed(text: &str) -> ScenarioFile {
    scenario::parse("test.toml", text, &|_| Ok(())).unwrap()
}

#[test]
fn guests_upon_a_template_take_less_and_come_back() {
    let world = world(false);
    let file = parsed(
        "name = 'test'\nquestion = 'what does a template save?'\nmode = 'real'\n\
         operation = 'save-then-restore'\nmethods = ['comio', 'comio-template']\n\
         [guests]\ncount = 4\nmemory = '5 MiB'\ntraces = ['t-0']\nprivate = '25 %'\n\
         [hosts]\ncount = 2\n",
    );
    let runs = block_on(runner::run(&file, &world)).unwrap().results.runs;
    assert!(runs.iter().all(|run| run.identical == Some(true)));
    let stored: Vec<u64> =
        runs.iter().filter(|run| run.operation == Phase::Save).map(|run| run.stored_bytes).collect();
    // Four guests against one template and a quarter of each.
    let [plain, upon] = stored[..] else { panic!("{stored:?}") };
    assert!(upon < plain * 3 / 4, "{upon} of {plain}");
    assert!(upon > plain / 4, "the template itself counts: {upon} of {plain}");
    assert!(block_on(world.images.list()).unwrap().is_empty());
}

#[test]
fn increments_take_what_changed_and_come_back_every_night() {
    let world = world(false);
    let file = parsed(
        "name = 'test'\nquestion = 'what do increments save?'\nmode = 'real'\n\
         operation = 'nightly'\nmethods = ['comio', 'comio-increment']\n\
         nights = { count = 3, changed = '10 %' }\n\
         [guests]\ncount = 2\nmemory = '5 MiB'\ntraces = ['t-0']\n\
         [[expect]]\nmethod = 'comio-increment'\npoint = '0'\nratio-min = 100.0\n",
    );
    let outcome = block_on(runner::run(&file, &world)).unwrap();
    let results = &outcome.results;
    assert_eq!(results.parameter.as_deref(), Some("night"));
    assert_eq!(results.runs.len(), 2 * 4 * 2, "methods, nights, save and restore");
    assert!(results.runs.iter().all(|run| run.identical == Some(true)));
    let stored = |method, night: &str| {
        let wanted = |run: &&Run| run.method == method && run.point.as_deref() == Some(night);
        results.runs.iter().find(wanted).unwrap().stored_bytes
    };
    let full = |night| stored(Method::Comio, night);
    let first = stored(Method::ComioIncrement, "0");
    assert_eq!(first, full("0"), "the first night is saved in full");
    for night in ["1", "2", "3"] {
        let increment = stored(Method::ComioIncrement, night);
        assert!(increment < full(night) / 5, "{increment} of {} in night {night}", full(night));
        assert!(increment > full(night) / 50, "a tenth changed: {increment} in night {night}");
    }
    // Both phases of the first night, and the night that there was not.
    assert_eq!(outcome.missed.len(), 2, "{:?}", outcome.missed);
    assert!(block_on(world.images.list()).unwrap().is_empty());
}

#[test]
fn single_pages_are_taken_out_and_timed() {
    let world = world(false);
    let file = parsed(
        "name = 'test'\nquestion = 'what does a page cost?'\nmode = 'real'\n\
         operation = 'extract'\nmethods = ['raw', 'comio']\n\
         [guests]\ncount = 2\nmemory = '5 MiB'\ntraces = ['t-0']\n\
         [sweep]\nparameter = 'guests.unit'\nvalues = [1, 16]\n",
    );
    let runs = block_on(runner::run(&file, &world)).unwrap().results.runs;
    assert_eq!(runs.len(), 2 * 2 * 2, "units, methods, saving and extracting");
    let extracted: Vec<&Run> = runs.iter().filter(|run| run.operation == Phase::Extract).collect();
    assert!(extracted.iter().all(|run| run.identical == Some(true) && run.timeline.guests.len() == 2));
    // The clock moves by a millisecond a look.
    assert!(extracted.iter().all(|run| run.page_s.is_some_and(|pages| pages.median >= 0.001)));
    let stored = |unit: &str| {
        let wanted = |run: &&&Run| run.method == Method::Comio && run.point.as_deref() == Some(unit);
        extracted.iter().find(wanted).unwrap().stored_bytes
    };
    assert!(stored("16") < stored("1"), "units make images smaller");
    assert!(block_on(world.images.list()).unwrap().is_empty());
}

#[test]
fn spoiled_pages_are_an_error_that_names_guest_and_method() {
    let file = parsed(
        "name = 'test'\nquestion = 'is damage seen?'\nmode = 'real'\n\
         operation = 'extract'\nmethods = ['raw']\n\
         [guests]\ncount = 1\nmemory = '5 MiB'\ntraces = ['t-0']\n",
    );
    let error = block_on(runner::run(&file, &world(true))).unwrap_err();
    let RunError::Herd { method, phase, problem } = &error else { panic!("{error:?}") };
    assert_eq!((*method, *phase), (Method::Raw, Phase::Extract));
    assert!(problem.problem.is_damage(), "{:?}", problem.problem);
}

#[test]
fn a_trace_may_be_an_increment_upon_another() {
    let world = world(false);
    let mut changed = recorded(1300);
    changed[4096 * 7..4096 * 8].fill(1);
    let trace = Trace::new("t-1", changed).unwrap();
    let compute: Arc<dyn Compute> = Arc::new(Inline);
    let guest = ReplayedGuest::new(SyntheticGuest::new(&trace, 1300, 0.0, 1, 1), &compute);
    let engine = Engine::new(
        Arc::clone(&compute),
        Arc::new(EcbcCoder::new(ecbc::Method::Dense, Placement::Hybrid)),
        0,
    );
    let image = block_on(Image::open_with_ancestors(&world.traces, "t-0", &[])).unwrap();
    let foundation = Foundation::new(Some(Relative { name: "t-0".to_owned(), image }), None).unwrap();
    let options = SaveOptions { uuid: [2; 16], created_unix_s: 0, replace: false };
    let (mut reader, progress) = (guest.reader(), Progress::default());
    let (upon, traces) = (Some(&foundation), &world.traces);
    let saving = engine::save_upon(&engine, upon, &mut *reader, traces, "t-1", &options, &progress);
    assert!(block_on(saving).unwrap().stored_bytes < 64 << 10);
    let names = ["t-1".to_owned()];
    let loaded = block_on(runner::load_traces(&names, &world, &compute)).unwrap();
    // The guest has the trace's runs in an order of its own, and the loaded trace has the guest's.
    let order = SyntheticGuest::new(&trace, 1300, 0.0, 1, 1);
    let mut pages = loaded["t-1"].memory().chunks_exact(4096);
    assert!((0..1300).all(|pfn| pages.next().is_some_and(|page| order.matches(pfn, page))));
    block_on(world.traces.remove("t-0")).unwrap();
    let error = block_on(runner::load_traces(&names, &world, &compute)).unwrap_err();
    assert!(matches!(error, RunError::Trace { .. }), "{error:?}");
}

#[test]
fn a_server_that_spoils_images_is_an_error_that_names_guest_and_method() {
    let error = block_on(runner::run(&file(2), &world(true))).unwrap_err();
    let RunError::Herd { method, phase, problem } = &error else { panic!("{error:?}") };
    assert_eq!((*method, *phase), (Method::Raw, Phase::Restore));
    assert!(problem.guest.starts_with("guest-"));
    assert!(problem.problem.is_damage(), "{:?}", problem.problem);
}

/// What each method's saves stored, by its name.
fn stored_bytes(text: &str, world: &MemoryWorld) -> Vec<(&'static str, u64)> {
    let runs = block_on(runner::run(&parsed(text), world)).unwrap().results.runs;
    runs.iter().map(|run| (run.method.name(), run.stored_bytes)).collect()
}

#[test]
fn virtual_mode_stores_as_many_bytes_of_shipped_traces_as_real_mode() {
    let world = world(false);
    let traces = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/traces");
    for name in ["desktop-0", "postgres-0"] {
        world.traces.insert(name, std::fs::read(traces.join(format!("{name}.comio"))).unwrap());
    }
    // Private pages are modelled by one exchange of bytes out of many: they are close, not equal.
    let scenario = |mode| {
        format!(
            "name = 'test'\nquestion = 'how many bytes?'\nmode = '{mode}'\noperation = 'save'\n\
             methods = ['raw', 'lz4', 'zstd1', 'comio-fast', 'comio', 'comio-dense']\n\
             [guests]\ncount = 4\nmemory = '23 MiB'\ntraces = ['desktop-0', 'postgres-0']\nprivate = '0 %'\n"
        )
    };
    assert_eq!(stored_bytes(&scenario("virtual"), &world), stored_bytes(&scenario("real"), &world));
}
