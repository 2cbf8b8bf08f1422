//! Runs scenarios.
//!
//! Both modes move the same herds with the same engine. `real` does it with bytes, on the
//! storages and threads that the program hands in; `modelled` on an event clock.

mod extract;
mod modelled;
mod real;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::buffer::{NotBytes, Payload};
use comio_core::compute::{Compute, ComputeError};
use comio_core::ecbc;
use comio_core::engine::{self, Engine, EngineError, Progress};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::tape::{GuestWriter, TapeError, TapeItem};

use crate::herd::{Arrived, HerdError};
use crate::model::clock::Standstill;
use crate::model::cost::{CostError, CostTable};
use crate::report::{Phase, RESULTS_FORMAT, Results, Run, Spread, Timeline};
use crate::scenario::{Method, Missed, Mode, Scenario, ScenarioFile};
use crate::trace::{BadTrace, Trace};
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
    /// The template that guests are to be saved upon cannot be made.
    #[error("cannot make the template")]
    Template(#[source] EngineError),
    /// The cost table lacks something.
    #[error(transparent)]
    Costs(#[from] CostError),
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
    /// A model waits for itself.
    #[error(transparent)]
    Standstill(#[from] Standstill),
    /// The worker pool is gone.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

fn world_error(action: &str) -> impl FnOnce(WorldError) -> RunError {
    move |problem| RunError::World { action: action.to_owned(), problem }
}

/// Runs `file`'s scenario on what `world` gives, method after method; in virtual mode with the
/// cost table that is checked in.
///
/// # Errors
/// [`RunError`]. A bound that is missed is no error: see [`Outcome::missed`].
pub async fn run(file: &ScenarioFile, world: &dyn World) -> Result<Outcome, RunError> {
    run_with_costs(file, world, &CostTable::checked_in()?).await
}

/// As [`run`], with a cost table of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_with_costs(
    file: &ScenarioFile,
    world: &dyn World,
    costs: &CostTable,
) -> Result<Outcome, RunError> {
    let scenario = &file.scenario;
    let (runs, costs_hash) = match scenario.mode {
        Mode::Real => (real::run(&file.points, world).await?, None),
        Mode::Virtual => (modelled::run(&file.points, world, costs).await?, Some(costs.hash()?)),
    };
    let missed = scenario.expect.iter().flat_map(|expected| expected.check(&runs)).collect();
    let results = Results {
        format: RESULTS_FORMAT,
        scenario: scenario.name.clone(),
        question: scenario.question.clone(),
        parameter: parameter(scenario),
        scenario_hash: file.hash.clone(),
        costs_hash,
        seed: scenario.seed,
        runs,
    };
    Ok(Outcome { results, missed })
}

/// What the runs' points are values of.
fn parameter(scenario: &Scenario) -> Option<String> {
    let night = scenario.nights.map(|_| "night".to_owned());
    scenario.sweep.as_ref().map(|sweep| sweep.parameter.clone()).or(night)
}

/// What a herd's arrival means.
fn run_of(
    scenario: &Scenario,
    point: Option<&String>,
    method: Method,
    operation: Phase,
    arrived: Arrived,
    stored_bytes: u64,
) -> Run {
    let guests = &scenario.guests;
    let guest_bytes = guests.memory.0 * guests.count as u64;
    let late = scenario.deadline.map(|deadline| {
        let deadline = deadline.duration().as_secs_f64();
        arrived.times.iter().filter(|time| time.end_s > deadline).count()
    });
    Run {
        method,
        operation,
        guests: guests.count,
        point: point.cloned(),
        makespan_s: arrived.makespan.as_secs_f64(),
        guest_bytes,
        stored_bytes,
        goodput_bytes_per_s: per_second(guest_bytes, arrived.makespan),
        identical: None,
        guest_s: Spread::of(arrived.times.iter().map(|time| time.end_s - time.start_s).collect()),
        page_s: None,
        late,
        limits: None,
        history: None,
        timeline: Timeline { guests: arrived.times, usage: Vec::new() },
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people and plots")]
fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

/// The named traces, each loaded once.
///
/// # Errors
/// A trace that is not there or cannot be read.
pub async fn load_traces(
    names: impl IntoIterator<Item = &String>,
    world: &dyn World,
    compute: &Arc<dyn Compute>,
) -> Result<BTreeMap<String, Trace>, RunError> {
    let mut loaded = BTreeMap::new();
    for name in names {
        if !loaded.contains_key(name) {
            world.tell(&format!("loading the trace {name}"));
            loaded.insert(name.clone(), load_trace(name, world, compute).await?);
        }
    }
    Ok(loaded)
}

/// The scenario's traces in its order.
fn in_order(scenario: &Scenario, loaded: &BTreeMap<String, Trace>) -> Vec<Trace> {
    scenario.guests.traces.iter().filter_map(|name| loaded.get(name).cloned()).collect()
}

async fn load_trace(name: &str, world: &dyn World, compute: &Arc<dyn Compute>) -> Result<Trace, RunError> {
    let image = world.trace(name).await.map_err(world_error(&format!("open the trace {name:?}")))?;
    let coder = Arc::new(EcbcCoder::new(ecbc::Method::Raw, Placement::Hybrid));
    let engine = Engine::new(Arc::clone(compute), coder, LOADING_BYTES);
    let mut memory = Collected(Vec::new());
    let loaded = engine::restore(&engine, &image, &mut memory, &Progress::default()).await;
    loaded.map_err(|problem| RunError::Trace { name: name.to_owned(), problem })?;
    Ok(Trace::new(name, memory.0)?)
}

/// A guest's pages, one after the other.
struct Collected(Vec<u8>);

#[async_trait]
impl GuestWriter for Collected {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        if let TapeItem::Batch(batch) = item {
            let Payload::Bytes(pages) = batch.pages else { return Err(NotBytes.into()) };
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
