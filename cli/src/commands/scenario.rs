//! `comio scenario`: the testbed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use comio_simulator::model::cost::CostTable;
use comio_simulator::report::{ResultFile, compare};
use comio_simulator::runner;
use comio_simulator::scenario::{Mode, ScenarioFile, Server, parse_with, schema};
use comio_simulator::world::World;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Scenario, ScenarioRun, Setting};
use crate::circumstances;
use crate::exit::Exit;
use crate::output;
use crate::world::RealWorld;

pub(super) async fn run(args: Scenario) -> anyhow::Result<Exit> {
    match args {
        Scenario::Run(args) => run_scenario(&args).await,
        Scenario::Check { file, traces } => {
            let (scenario, _) = load(&file, traces, &[])?;
            output::say(&format!("{} can be run", scenario.scenario.name));
            Ok(Exit::Done)
        }
        Scenario::Schema => {
            output::data(&schema())?;
            Ok(Exit::Done)
        }
        Scenario::Compare { before, now } => compare_results(&before, &now),
    }
}

fn compare_results(before: &Path, now: &Path) -> anyhow::Result<Exit> {
    let read = |directory: &Path| {
        let path = directory.join("results.json");
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let differences = compare(&read(before)?, &read(now)?)?;
    for difference in &differences {
        output::data(&format!("{difference}\n"))?;
    }
    Ok(if differences.is_empty() { Exit::Done } else { Exit::Missed })
}

/// Whether the scenario can be run in network namespaces.
fn check_netns(file: &ScenarioFile) -> anyhow::Result<()> {
    if file.scenario.mode == Mode::Virtual {
        bail!("--netns builds real links: set mode = \"real\"");
    }
    if file.scenario.server.location != Server::EMBEDDED {
        bail!("--netns starts a server of its own: leave out server.location");
    }
    Ok(())
}

/// Waits for `work`; SIGINT and SIGTERM end it, so that what it has started ends with it.
async fn unless_stopped<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => Ok(done),
        _ = interrupt.recv() => bail!("stopped"),
        _ = terminate.recv() => bail!("stopped"),
    }
}

/// The costs that virtual mode charges.
fn costs(args: &ScenarioRun) -> anyhow::Result<CostTable> {
    let Some(path) = &args.costs else { return Ok(CostTable::checked_in()?) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(CostTable::parse(&text)?)
}

/// The scenario, and a world that has its traces: in `traces`, or beside it.
fn load(
    file: &Path,
    traces: Option<PathBuf>,
    settings: &[Setting],
) -> anyhow::Result<(ScenarioFile, RealWorld)> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let directory = file.parent().unwrap_or(Path::new(".")).to_owned();
    let traces = traces.unwrap_or_else(|| directory.join("traces"));
    let find_trace = |trace: &str| crate::world::find_trace(&directory, &traces, trace);
    let settings: Vec<_> = settings.iter().map(|set| (set.key.clone(), set.value.clone())).collect();
    let scenario = parse_with(&name, &text, &settings, &find_trace)?;
    Ok((scenario, RealWorld::new(directory, traces)))
}

async fn run_scenario(args: &ScenarioRun) -> anyhow::Result<Exit> {
    let (file, world) = load(&args.file, args.traces.clone(), &args.set)?;
    if args.netns {
        check_netns(&file)?;
    }
    let (world, costs) = (world.with_netns(args.netns), costs(args)?);
    let outcome = unless_stopped(runner::run_with_costs(&file, &world, &costs)).await??;
    let directory = args.output.clone().unwrap_or_else(|| Path::new("results").join(&file.scenario.name));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for result in outcome.results.files()? {
        write(&directory, &result)?;
    }
    write(&directory, &circumstances::now(world.now().as_secs_f64()).file())?;
    if args.json {
        output::json(&outcome.results)?;
    } else {
        output::data(&outcome.results.table().to_string())?;
    }
    output::say(&format!("results are in {}", directory.display()));
    for missed in &outcome.missed {
        output::say(&format!("missed: {missed}"));
    }
    Ok(if outcome.missed.is_empty() { Exit::Done } else { Exit::Missed })
}

fn write(directory: &Path, file: &ResultFile) -> anyhow::Result<()> {
    let path = directory.join(&file.name);
    std::fs::write(&path, &file.contents).with_context(|| format!("cannot write {}", path.display()))
}
