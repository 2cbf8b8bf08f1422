//! A template for the herd: made of what its guests were cloned from, before the clock starts.

use std::sync::Arc;

use comio_core::compute::Compute;
use comio_core::engine::{self, Engine, EngineError, Foundation, Image, Progress, Relative, SaveOptions};
use comio_core::storage::Storage;
use comio_core::template::KEY_LEN;

use crate::cast::clone_source;
use crate::hypervisor::Replay as _;
use crate::replay::ReplayedGuest;
use crate::trace::Trace;
use crate::world::World;

const NAME: &str = "template.comio";
/// Memory for telling the template's pages apart, and on each host for its table.
const TABLE_BYTES: usize = 64 << 20;

/// A template on the server, open on every host.
pub(super) struct Template {
    stored_bytes: u64,
    /// Of each host.
    foundations: Vec<Arc<Foundation>>,
}

impl Template {
    /// Makes a template of a guest of each trace; `storages` are the hosts' ways to the server.
    pub(super) async fn make(
        engine: &Engine,
        compute: &Arc<dyn Compute>,
        traces: &[Trace],
        seed: u64,
        world: &dyn World,
        storages: &[Arc<dyn Storage>],
    ) -> Result<Self, EngineError> {
        // The parser wants at least one host.
        let storage = &*storages[0];
        let options = || SaveOptions { uuid: world.uuid(), created_unix_s: 0, replace: false };
        let progress = Progress::default();
        let (mut names, mut images) = (Vec::new(), Vec::new());
        for (number, trace) in traces.iter().enumerate() {
            let source = ReplayedGuest::new(clone_source(trace, seed), compute);
            let name = format!("source-{number}.comio");
            engine::save(engine, &mut *source.reader(), storage, &name, &options(), &progress).await?;
            images.push(Image::open(storage.open(&name).await?).await?);
            names.push(name);
        }
        let (key, options) = (random_key(world), options());
        let making =
            engine::make_template(engine, &images, key, TABLE_BYTES, storage, NAME, &options, &progress);
        let stored_bytes = making.await?.stored_bytes;
        drop(images);
        for name in names {
            storage.remove(&name).await?;
        }
        let mut foundations = Vec::with_capacity(storages.len());
        for storage in storages {
            foundations.push(Arc::new(open(&**storage).await?));
        }
        Ok(Self { stored_bytes, foundations })
    }

    /// Bytes of the template itself.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The template as a host has opened it.
    pub(super) fn foundation(&self, host: usize) -> Arc<Foundation> {
        Arc::clone(&self.foundations[host])
    }

    /// Removes it from the server.
    pub(super) async fn remove(self, storages: &[Arc<dyn Storage>]) -> Result<(), EngineError> {
        drop(self.foundations);
        Ok(storages[0].remove(NAME).await?)
    }
}

async fn open(storage: &dyn Storage) -> Result<Foundation, EngineError> {
    let image = Image::open(storage.open(NAME).await?).await?;
    let known = engine::open_template(&image, TABLE_BYTES).await?;
    Foundation::new(None, Some((Relative { name: NAME.to_owned(), image }, known)))
}

fn random_key(world: &dyn World) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    for half in key.chunks_exact_mut(16) {
        half.copy_from_slice(&world.uuid());
    }
    key
}
