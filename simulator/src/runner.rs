//! Runs a scenario in real mode: real bytes, a real server, wall time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::buffer::Payload;
use comio_core::compute::Compute;
use comio_core::engine::{self, Engine, EngineError, Image, Progress};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{GuestWriter, TapeError, TapeItem};

use crate::herd::{self, Arrived, HerdError, Member};
use crate::hypervisor::{GuestState, Replay, ReplayHypervisor};
use crate::replay::ReplayedGuest;
use crate::report::{Phase, RESULTS_FORMAT, Results, Run};
use crate::scenario::{Method, Missed, Operation, Scenario, ScenarioFile};
use crate::trace::{BadTrace, SyntheticGuest, Trace};
use crate::world::{World, WorldError};

/// Memory for loading traces, in bytes.
const LOADING_BYTES: usize = 64 << 20;
/// The largest trace that is held in memory, in bytes.
const TRACE_BYTES_MAX: usize = 8 << 30;

/// What a scenario gave.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub results: Results,
    /// The bounds that were missed.
    pub missed: Vec<Missed>,
}

/// A scenario that could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The program could not give what the scenario needs.
    #[error("cannot {action}")]
    World {
        /// What was tried.
        action: String,
        /// Why not.
        #[source]
        problem: WorldError,
    },
    /// A trace cannot be read.
    #[error("cannot load the trace {name:?}")]
    Trace {
        /// Which.
        name: String,
        /// Why not.
        #[source]
        problem: EngineError,
    },
    /// A trace holds no memory.
    #[error(transparent)]
    BadTrace(#[from] BadTrace),
    /// Saving or restoring failed.
    #[error("{method} could not {phase}", phase = phase.name())]
    Herd {
        /// By which method.
        method: Method,
        /// In which phase.
        phase: Phase,
        /// Which guest, and why.
        #[source]
        problem: HerdError,
    },
}

fn world_error(action: &str) -> impl FnOnce(WorldError) -> RunError {
    move |problem| RunError::World { action: action.to_owned(), problem }
}

/// Runs `file`'s scenario on what `world` gives, method after method.
///
/// # Errors
/// [`RunError`]. A bound that is missed is no error: see [`Outcome::missed`].
pub async fn run(file: &ScenarioFile, world: &dyn World) -> Result<Outcome, RunError> {
    let scenario = &file.scenario;
    let compute = world.compute(scenario.hosts.cores).map_err(world_error("start the worker pool"))?;
    let traces = load_traces(scenario, world, &compute).await?;
    let server = world.start_server(&scenario.server).await.map_err(world_error("start the server"))?;
    let mut storages = Vec::new();
    for _ in 0..scenario.hosts.count {
        let storage = server.connect(scenario.hosts.connections).await;
        storages.push(storage.map_err(world_error("connect to the server"))?);
    }
    let stage = Stage { scenario, world, compute, traces, storages };
    let mut runs = Vec::new();
    for &method in &scenario.methods {
        runs.extend(stage.measure(method).await?);
    }
    drop(stage);
    server.stop().await.map_err(world_error("stop the server"))?;
    let missed = scenario.expect.iter().flat_map(|expected| expected.check(&runs)).collect();
    let results = Results {
        format: RESULTS_FORMAT,
        scenario: scenario.name.clone(),
        scenario_hash: file.hash.clone(),
        seed: scenario.seed,
        runs,
    };
    Ok(Outcome { results, missed })
}

/// What all methods share.
struct Stage<'a> {
    scenario: &'a Scenario,
    world: &'a dyn World,
    compute: Arc<dyn Compute>,
    traces: Vec<Trace>,
    storages: Vec<Arc<dyn Storage>>,
}

impl Stage<'_> {
    async fn measure(&self, method: Method) -> Result<Vec<Run>, RunError> {
        let failed = |phase| move |problem| RunError::Herd { method, phase, problem };
        let hypervisor = ReplayHypervisor::new(self.guests());
        let herd = self.herd(method);
        self.world.tell(&format!("{}: saving {} guests", method.title(), herd.len()));
        let saved = herd::save(&herd, self.world, &hypervisor).await.map_err(failed(Phase::Save))?;
        let stored_bytes = saved.stored_bytes;
        let mut runs = vec![self.run_of(method, Phase::Save, saved, stored_bytes)];
        if self.scenario.operation == Operation::SaveThenRestore {
            self.world.tell(&format!("{}: restoring {} guests", method.title(), herd.len()));
            let restored = herd::restore(&herd, self.world, &hypervisor).await;
            let restored = restored.map_err(failed(Phase::Restore))?;
            runs.push(self.run_of(method, Phase::Restore, restored, stored_bytes));
            let identical = herd.iter().all(|member| {
                hypervisor.state(&member.guest) == Some(GuestState::Restored { identical: true })
            });
            for run in &mut runs {
                run.identical = Some(identical);
            }
        }
        herd::remove_images(&herd).await.map_err(failed(Phase::Save))?;
        Ok(runs)
    }

    fn guest_name(number: usize) -> String {
        format!("guest-{number:04}")
    }

    fn guests(&self) -> impl Iterator<Item = (String, Arc<dyn Replay>)> {
        let guests = &self.scenario.guests;
        // Guests fit this machine's address space: the parser bounds their memory.
        let page_count = usize::try_from(guests.memory.0).unwrap_or(usize::MAX) / PAGE_SIZE;
        self.traces.iter().cycle().take(guests.count).zip(0u64..).map(move |(trace, number)| {
            let memory = SyntheticGuest::new(trace, page_count, guests.private.0, self.scenario.seed, number);
            let guest: Arc<dyn Replay> = Arc::new(ReplayedGuest::new(memory, &self.compute));
            (Self::guest_name(usize::try_from(number).unwrap_or(usize::MAX)), guest)
        })
    }

    fn herd(&self, method: Method) -> Vec<Member> {
        let Scenario { guests, hosts, .. } = self.scenario;
        let coder = Arc::new(EcbcCoder::new(method.coder(), Placement::Hybrid));
        let guests_per_host = guests.count.div_ceil(hosts.count);
        let memory = usize::try_from(hosts.memory.0).unwrap_or(usize::MAX) / guests_per_host;
        let engine = Engine::new(Arc::clone(&self.compute), coder, memory.max(Engine::MEMORY_MIN));
        let member = |(number, storage): (usize, &Arc<dyn Storage>)| Member {
            guest: Self::guest_name(number),
            storage: Arc::clone(storage),
            engine: engine.with_own_buffers(),
        };
        (0..guests.count).zip(self.storages.iter().cycle()).map(member).collect()
    }

    fn run_of(&self, method: Method, operation: Phase, arrived: Arrived, stored_bytes: u64) -> Run {
        let guests = &self.scenario.guests;
        let guest_bytes = guests.memory.0 * guests.count as u64;
        Run {
            method,
            operation,
            guests: guests.count,
            point: None,
            makespan_s: arrived.makespan.as_secs_f64(),
            guest_bytes,
            stored_bytes,
            goodput_bytes_per_s: per_second(guest_bytes, arrived.makespan),
            identical: None,
            guest_times: arrived.times,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people and plots")]
fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

/// The traces of the scenario in its order, each loaded once.
async fn load_traces(
    scenario: &Scenario,
    world: &dyn World,
    compute: &Arc<dyn Compute>,
) -> Result<Vec<Trace>, RunError> {
    let mut loaded = BTreeMap::new();
    for name in &scenario.guests.traces {
        if !loaded.contains_key(name) {
            world.tell(&format!("loading the trace {name}"));
            loaded.insert(name.clone(), load_trace(name, world, compute).await?);
        }
    }
    Ok(scenario.guests.traces.iter().filter_map(|name| loaded.get(name).cloned()).collect())
}

async fn load_trace(name: &str, world: &dyn World, compute: &Arc<dyn Compute>) -> Result<Trace, RunError> {
    let image = world.trace(name).await.map_err(world_error(&format!("open the trace {name:?}")))?;
    let coder = Arc::new(EcbcCoder::new(Method::Raw.coder(), Placement::Hybrid));
    let engine = Engine::new(Arc::clone(compute), coder, LOADING_BYTES);
    let mut memory = Collected(Vec::new());
    let loaded = async {
        let image = Image::open(image).await?;
        engine::restore(&engine, &image, &mut memory, &Progress::default()).await
    };
    loaded.await.map_err(|problem| RunError::Trace { name: name.to_owned(), problem })?;
    Ok(Trace::new(name, memory.0)?)
}

/// A guest's pages, one after the other.
struct Collected(Vec<u8>);

#[async_trait]
impl GuestWriter for Collected {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        if let TapeItem::Batch(batch) = item {
            let Payload::Bytes(pages) = batch.pages else {
                return Err(comio_core::buffer::NotBytes.into());
            };
            if self.0.len() + pages.len() > TRACE_BYTES_MAX {
                let problem = format!("a trace may hold at most {TRACE_BYTES_MAX} bytes of memory");
                return Err(TapeError::Inconsistent(problem));
            }
            self.0.extend_from_slice(&pages);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}
