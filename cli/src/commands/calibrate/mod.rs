//! `comio calibrate`: what coding costs on this machine, piping through compressors, and moving bytes.

mod streams;
mod transfers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use comio_backends::pool::WorkerPool;
use comio_core::compute::Compute;
use comio_simulator::model::calibrate::cost_table;
use comio_simulator::model::cost::CostTable;
use comio_simulator::runner::load_traces;
use comio_simulator::scenario::Method;
use comio_simulator::world::World;

use crate::args::Calibrate;
use crate::exit::Exit;
use crate::output;
use crate::world::RealWorld;

pub(super) async fn run(args: &Calibrate) -> anyhow::Result<Exit> {
    let compute: Arc<dyn Compute> = Arc::new(WorkerPool::new(1)?);
    let mut traces = Vec::new();
    let mut watch = None;
    for path in &args.traces {
        let (directory, name) = trace_at(path)?;
        let world = RealWorld::new(directory.clone(), directory);
        traces.extend(load_traces([&name], &world, &compute).await?.into_values());
        watch = Some(world);
    }
    let world = watch.context("name at least one trace")?;
    output::say("coding their pages, over and over; leave the machine alone");
    let mut table = cost_table(CostTable::checked_in()?, &args.machine, &traces, &|| world.now());
    output::say("copying pages, and piping them through lz4, lzop and zstd");
    table.hypervisor = streams::copying(&|| world.now())?;
    for method in [Method::PipeLz4, Method::PipeLzop, Method::PipeZstd] {
        let Some(name) = method.tool() else { continue };
        match streams::tool(method, &traces, &|| world.now())? {
            Some(costs) => drop(table.pipes.insert(name.to_owned(), costs)),
            None => {
                output::say(&format!("{name} is not installed: its costs stay those of the built-in table"));
            }
        }
    }
    if args.netns {
        output::say("moving bytes to nfs-ganesha in network namespaces and back");
        (table.client, table.server) = transfers::measure(table.client, table.server).await?;
    }
    let table = table.to_toml()?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, table).with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => output::data(&table)?,
    }
    Ok(Exit::Done)
}

/// The directory and the name of a trace's file.
fn trace_at(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    let stem = path.extension().filter(|extension| *extension == "comio").and(path.file_stem());
    let name = stem.with_context(|| format!("{} is no trace: its name ends in .comio", path.display()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")).to_owned(), name.to_string_lossy().into_owned()))
}
