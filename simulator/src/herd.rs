//! A herd: many guests moved at once by the engine, each timed.

use std::sync::Arc;
use std::time::Duration;

use comio_core::engine::{self, Engine, EngineError, Progress, SaveOptions};
use comio_core::storage::Storage;
use futures::future::try_join_all;

use crate::hypervisor::ReplayHypervisor;
use crate::report::GuestTime;
use crate::world::World;

/// A guest of the herd, and what moves it.
pub(crate) struct Member {
    /// The guest's name.
    pub(crate) guest: String,
    /// The storage as its host sees it.
    pub(crate) storage: Arc<dyn Storage>,
    /// The engine with buffers of this guest's own: guests that shared them could wait for
    /// each other's.
    pub(crate) engine: Engine,
}

/// A herd that has arrived.
pub(crate) struct Arrived {
    /// From the first start to the last end.
    pub(crate) makespan: Duration,
    /// Each guest's start and end.
    pub(crate) times: Vec<GuestTime>,
    /// Bytes that each guest stored or read.
    pub(crate) stored_bytes: u64,
}

/// A guest that failed.
#[derive(Debug, thiserror::Error)]
#[error("guest {guest}: {problem}")]
pub struct HerdError {
    /// Which.
    pub guest: String,
    /// Why.
    #[source]
    pub problem: EngineError,
}

/// What happened to one guest.
struct Moved {
    start: Duration,
    end: Duration,
    stored_bytes: u64,
}

impl Member {
    fn image(&self) -> String {
        format!("{}.comio", self.guest)
    }

    async fn save(&self, world: &dyn World, from: &ReplayHypervisor) -> Result<Moved, HerdError> {
        let start = world.now();
        let options = SaveOptions { uuid: world.uuid(), created_unix_s: 0, replace: false };
        let progress = Progress::default();
        let (image, storage) = (self.image(), &*self.storage);
        engine::save_guest(&self.engine, from, &self.guest, storage, &image, &options, &progress)
            .await
            .map(|report| Moved { start, end: world.now(), stored_bytes: report.stored_bytes })
            .map_err(|problem| self.failed(problem))
    }

    async fn restore(&self, world: &dyn World, to: &ReplayHypervisor) -> Result<Moved, HerdError> {
        let start = world.now();
        let progress = Progress::default();
        let (image, storage) = (self.image(), &*self.storage);
        engine::restore_guest(&self.engine, storage, &image, to, &self.guest, &progress)
            .await
            .map(|_| Moved { start, end: world.now(), stored_bytes: progress.stored_bytes() })
            .map_err(|problem| self.failed(problem))
    }

    fn failed(&self, problem: EngineError) -> HerdError {
        HerdError { guest: self.guest.clone(), problem }
    }
}

/// Saves every member at once.
pub(crate) async fn save(
    herd: &[Member],
    world: &dyn World,
    hypervisor: &ReplayHypervisor,
) -> Result<Arrived, HerdError> {
    let moved = try_join_all(herd.iter().map(|member| member.save(world, hypervisor))).await?;
    Ok(arrived(herd, &moved))
}

/// Restores every member at once.
pub(crate) async fn restore(
    herd: &[Member],
    world: &dyn World,
    hypervisor: &ReplayHypervisor,
) -> Result<Arrived, HerdError> {
    let moved = try_join_all(herd.iter().map(|member| member.restore(world, hypervisor))).await?;
    Ok(arrived(herd, &moved))
}

/// Removes the images of every member.
pub(crate) async fn remove_images(herd: &[Member]) -> Result<(), HerdError> {
    for member in herd {
        let removed = member.storage.remove(&member.image()).await;
        removed.map_err(|error| member.failed(error.into()))?;
    }
    Ok(())
}

fn arrived(herd: &[Member], moved: &[Moved]) -> Arrived {
    let first = moved.iter().map(|moved| moved.start).min().unwrap_or_default();
    let last = moved.iter().map(|moved| moved.end).max().unwrap_or_default();
    let since = |moment: Duration| moment.saturating_sub(first).as_secs_f64();
    let time = |(member, moved): (&Member, &Moved)| GuestTime {
        guest: member.guest.clone(),
        start_s: since(moved.start),
        end_s: since(moved.end),
    };
    Arrived {
        makespan: last.saturating_sub(first),
        times: herd.iter().zip(moved).map(time).collect(),
        stored_bytes: moved.iter().map(|moved| moved.stored_bytes).sum(),
    }
}
