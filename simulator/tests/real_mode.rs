//! A scenario in real mode, on a world in memory: real bytes through the real engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::compute::{Compute, Inline};
use comio_core::engine::{self, Engine, Progress, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::hypervisor::Hypervisor as _;
use comio_core::segment::EcbcCoder;
use comio_core::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
};
use comio_simulator::hypervisor::TraceHypervisor;
use comio_simulator::report::Phase;
use comio_simulator::runner::{self, RunError};
use comio_simulator::scenario::{self, Method, ScenarioFile, Server};
use comio_simulator::trace::{SyntheticGuest, Trace};
use comio_simulator::world::{RunningServer, World, WorldError};
use futures::executor::block_on;

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Objects in memory; `spoil` flips a bit of each that is opened.
#[derive(Clone, Default)]
struct MemoryStorage {
    objects: Objects,
    spoil: bool,
}

struct MemoryWriter {
    objects: Objects,
    name: String,
    bytes: Mutex<Vec<u8>>,
}

struct MemoryReader(Vec<u8>);

fn slice_of(bytes: &[u8], offset: u64, len: usize, mut buffer: Buffer) -> Result<Payload, StorageError> {
    let start = usize::try_from(offset).unwrap();
    let Some(slice) = bytes.get(start..start + len) else {
        let kind = StorageErrorKind::UnexpectedEnd;
        return Err(StorageError::new(kind, "read", "an object", "it ends before that"));
    };
    buffer.spare()[..len].copy_from_slice(slice);
    buffer.set_len(len);
    Ok(Payload::Bytes(buffer))
}

#[async_trait]
impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn create(
        &self,
        name: &str,
        _options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(MemoryWriter {
            objects: Arc::clone(&self.objects),
            name: name.to_owned(),
            bytes: Mutex::default(),
        }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        let found = self.objects.lock().unwrap().get(name).cloned();
        let missing = || StorageError::new(StorageErrorKind::NotFound, "open", name, "no such object");
        let mut bytes = found.ok_or_else(missing)?;
        if self.spoil {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        Ok(Box::new(MemoryReader(bytes)))
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        let objects = self.objects.lock().unwrap();
        let info =
            |(name, bytes): (&String, &Vec<u8>)| ObjectInfo { name: name.clone(), len: bytes.len() as u64 };
        Ok(objects.iter().map(info).collect())
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        Ok(Vec::new())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        let data = data.into_bytes()?;
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock().unwrap();
        let len = bytes.len().max(start + data.len());
        bytes.resize(len, 0);
        bytes[start..start + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        slice_of(&self.bytes.lock().unwrap(), offset, len, buffer)
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let bytes = self.bytes.into_inner().unwrap();
        self.objects.lock().unwrap().insert(self.name, bytes);
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

#[async_trait]
impl ObjectReader for MemoryReader {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Payload, StorageError> {
        slice_of(&self.0, offset, len, buffer)
    }
}

/// A world whose clock moves by a millisecond at every look.
struct MemoryWorld {
    traces: MemoryStorage,
    images: MemoryStorage,
    ticks: AtomicU64,
}

struct MemoryServer(MemoryStorage);

#[async_trait]
impl RunningServer for MemoryServer {
    async fn connect(&self, _connections: usize) -> Result<Arc<dyn Storage>, WorldError> {
        Ok(Arc::new(self.0.clone()))
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

    fn uuid(&self) -> [u8; 16] {
        u128::from(self.ticks.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
    }

    fn compute(&self, _workers: usize) -> Result<Arc<dyn Compute>, WorldError> {
        Ok(Arc::new(Inline))
    }

    async fn trace(&self, name: &str) -> Result<Box<dyn ObjectReader>, WorldError> {
        Ok(self.traces.open(name).await?)
    }

    async fn start_server(&self, _server: &Server) -> Result<Box<dyn RunningServer>, WorldError> {
        Ok(Box::new(MemoryServer(self.images.clone())))
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
    let traces = MemoryStorage::default();
    let trace = Trace::new("t-0", recorded(1300)).unwrap();
    let guest = SyntheticGuest::new(&trace, 1300, 0.0, 1, 1);
    let hypervisor = TraceHypervisor::new(Arc::new(Inline), [("t".to_owned(), guest)]);
    let coder = EcbcCoder::new(Method::ComioDense.coder(), Placement::Hybrid);
    let engine = Engine::new(Arc::new(Inline), Arc::new(coder), 0);
    let options = SaveOptions { uuid: [1; 16], created_unix_s: 0, replace: false };
    block_on(async {
        let mut held = hypervisor.begin_save("t").await.unwrap();
        let progress = Progress::default();
        engine::save(&engine, held.reader(), &traces, "t-0", &options, &progress).await.unwrap();
    });
    let images = MemoryStorage { spoil, ..MemoryStorage::default() };
    MemoryWorld { traces, images, ticks: AtomicU64::new(0) }
}

fn file(guests: usize) -> ScenarioFile {
    let text = format!(
        "name = 'test'\nquestion = 'does it come back?'\nmode = 'real'\n\
         operation = 'save-then-restore'\nmethods = ['raw', 'lz4', 'comio']\n\
         [guests]\ncount = {guests}\nmemory = '6 MiB'\ntraces = ['t-0']\n\
         [[expect]]\nmethod = 'comio'\nratio-min = 1.5\n\
         [[expect]]\nmethod = 'raw'\nratio-min = 1.5\noperation = 'save'\n"
    );
    scenario::parse("test.toml", &text, &|name| name == "t-0").unwrap()
}

#[test]
fn every_guest_comes_back_by_every_method() {
    let world = world(false);
    let outcome = block_on(runner::run(&file(3), &world)).unwrap();
    let runs = &outcome.results.runs;
    assert_eq!(runs.len(), 6);
    assert!(runs.iter().all(|run| run.identical == Some(true)));
    assert!(runs.iter().all(|run| run.guest_bytes == 18 << 20 && run.guest_times.len() == 3));
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

#[test]
fn a_server_that_spoils_images_is_an_error_that_names_guest_and_method() {
    let error = block_on(runner::run(&file(2), &world(true))).unwrap_err();
    let RunError::Herd { method, phase, problem } = &error else { panic!("{error:?}") };
    assert_eq!((*method, *phase), (Method::Raw, Phase::Restore));
    assert!(problem.guest.starts_with("guest-"));
    assert!(problem.problem.is_damage(), "{:?}", problem.problem);
}
