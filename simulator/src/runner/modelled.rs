//! Virtual mode: the same herds and the same engine, on an event clock and models.
//!
//! Every run has a world of its own, so runs go in parallel on the program's threads and give
//! the same figures in any number.

use std::collections::BTreeMap;
use std::sync::Arc;

use comio_core::compute::{self, Compute, Work};
use comio_core::ecbc;
use futures::future::join_all;

use super::{RunError, in_order, load_traces, run_of, world_error};
use crate::herd::{self, Move};
use crate::model::clock::{self, Clock};
use crate::model::coder::CodeTable;
use crate::model::cost::CostTable;
use crate::model::site::{Site, Snapshot};
use crate::report::{History, Phase, Run};
use crate::scenario::{Method, Operation, Point};
use crate::trace::Trace;
use crate::world::World;

/// Tables by trace and coder.
type Tables = BTreeMap<(String, ecbc::Method), Arc<CodeTable>>;

/// Runs every point; `world` gives threads and traces, not time.
pub(super) async fn run(
    points: &[Point],
    world: &dyn World,
    costs: &CostTable,
) -> Result<Vec<Run>, RunError> {
    let cores = world.cores();
    let compute = world.compute(cores).map_err(world_error("start the worker pool"))?;
    let names = points.iter().flat_map(|point| &point.scenario.guests.traces);
    let traces = load_traces(names, world, &compute).await?;
    let tables = make_tables(points, &traces, &compute).await?;
    let simulations = points.iter().flat_map(|point| {
        point.scenario.methods.iter().map(|&method| {
            world.tell(&format!("{}{}", method.title(), at(point)));
            simulation(point, method, &traces, &tables, costs, &compute)
        })
    });
    let mut runs = Vec::new();
    for outcome in join_all(simulations).await {
        runs.extend(outcome?);
    }
    Ok(runs)
}

fn at(point: &Point) -> String {
    point.label.as_ref().map(|label| format!(" at {label}")).unwrap_or_default()
}

async fn make_tables(
    points: &[Point],
    traces: &BTreeMap<String, Trace>,
    compute: &Arc<dyn Compute>,
) -> Result<Tables, RunError> {
    let mut wanted: Vec<(&Trace, ecbc::Method)> = Vec::new();
    for point in points {
        let coders = point.scenario.methods.iter().map(|method| method.nearest_coder());
        for coder in coders {
            for trace in point.scenario.guests.traces.iter().filter_map(|name| traces.get(name)) {
                if !wanted.iter().any(|(other, with)| other.name() == trace.name() && *with == coder) {
                    wanted.push((trace, coder));
                }
            }
        }
    }
    let tables = wanted.into_iter().map(|(trace, coder)| async move {
        let key = (trace.name().to_owned(), coder);
        let trace = trace.clone();
        let table = compute::run(&**compute, move || (CodeTable::new(&trace, coder), Work::Other)).await?;
        Ok::<_, RunError>((key, Arc::new(table)))
    });
    join_all(tables).await.into_iter().collect()
}

/// One method at one point, as a job of its own.
async fn simulation(
    point: &Point,
    method: Method,
    traces: &BTreeMap<String, Trace>,
    tables: &Tables,
    costs: &CostTable,
    compute: &Arc<dyn Compute>,
) -> Result<Vec<Run>, RunError> {
    let with_codes = |trace: Trace| {
        let table = tables.get(&(trace.name().to_owned(), method.nearest_coder())).map(Arc::clone)?;
        Some((trace, table))
    };
    let coded: Vec<_> = in_order(&point.scenario, traces).into_iter().filter_map(with_codes).collect();
    let (point, costs) = (point.clone(), costs.clone());
    compute::run(&**compute, move || (simulate(&point, method, &coded, &costs), Work::Other)).await?
}

/// Runs one method at one point to its end, on the calling thread.
fn simulate(
    point: &Point,
    method: Method,
    coded: &[(Trace, Arc<CodeTable>)],
    costs: &CostTable,
) -> Result<Vec<Run>, RunError> {
    let clock = Clock::default();
    let site = Site::build(&clock, &point.scenario, method, coded, costs)?;
    let operation = point.scenario.operation;
    let mut stored_bytes = 0;
    if operation == Operation::Restore {
        // Before the clock of the scenario starts: without its faults and other traffic.
        let saved = clock::run(&clock, herd::run(&site.herd, Move::Save, &site.pace))?;
        stored_bytes = saved.map_err(failed(method, Phase::Save))?.stored_bytes;
    }
    let moves: &[Move] = match operation {
        // The parser lets neither nights nor single pages into virtual mode.
        Operation::Save | Operation::Nightly | Operation::Extract => &[Move::Save],
        Operation::SaveThenRestore => &[Move::Save, Move::Restore],
        Operation::Restore => &[Move::Restore],
    };
    let mut runs = Vec::new();
    let all = async {
        for &what in moves {
            let (before, phase) = (Snapshot::of(&site), what.phase());
            let arrived = herd::run(&site.herd, what, &site.pace).await;
            let arrived = arrived.map_err(failed(method, phase))?;
            if phase == Phase::Save {
                stored_bytes = arrived.stored_bytes;
            }
            let (scenario, label) = (&point.scenario, point.label.as_ref());
            let mut run = run_of(scenario, label, method, phase, arrived, stored_bytes);
            run.limits = Some(before.limits_until_now(&site));
            run.timeline.usage = before.usage_until_now(&site);
            let digest = format!("{:016x}", clock.digest());
            run.history = Some(History { events: clock.events(), digest });
            runs.push(run);
        }
        Ok::<_, RunError>(())
    };
    clock::run(&clock, site.amid_trouble(&point.scenario, all))??;
    let identical = herd::identical(&site.herd);
    for run in &mut runs {
        run.identical = identical;
    }
    Ok(runs)
}

fn failed(method: Method, phase: Phase) -> impl FnOnce(herd::HerdError) -> RunError {
    move |problem| RunError::Herd { method, phase, problem }
}
