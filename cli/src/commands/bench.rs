//! `comio bench codec`: ECBC's levels and their peers on the same pages.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use async_trait::async_trait;
use comio_backends::tape::{SourceFormat, open_source};
use comio_core::buffer::BufferPool;
use comio_core::engine;
use comio_core::format::superblock;
use comio_core::segment::SlotBytes;
use comio_core::tape::{GuestWriter, TapeError, TapeItem};
use comio_lab::{Report, Sampler, Set};

use crate::ancestors;
use crate::args::BenchCodec;
use crate::exit::Exit;
use crate::output::{self, Output};
use crate::session::Session;

/// Where the shipped traces are, from the root of the source tree.
const TRACES: &str = "scenarios/traces";

pub(super) async fn run(args: &BenchCodec) -> anyhow::Result<Exit> {
    let inputs = if args.inputs.is_empty() { shipped_traces()? } else { args.inputs.clone() };
    // What cannot be written is told before the long measurement.
    let csv = args.csv.as_deref().map(Output::create).transpose()?;
    if let Some(directory) = &args.svg {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let session = Session::new(&args.resources)?;
    let mut sets = Vec::new();
    for input in &inputs {
        sets.push(read(input, args, &session).await.with_context(|| format!("cannot read {input}"))?);
    }
    let rounds = usize::from(args.rounds);
    let report = tokio::task::block_in_place(|| comio_lab::run(&sets, rounds, &output::say))?;
    if let Some(mut csv) = csv {
        csv.write(report.csv().as_bytes())?;
        csv.finish()?;
    }
    if let Some(directory) = &args.svg {
        write_plots(&report, directory)?;
    }
    output::data(&report.tables())?;
    Ok(Exit::Done)
}

/// The traces that stand on their own.
fn shipped_traces() -> anyhow::Result<Vec<String>> {
    let directory = fs::read_dir(TRACES)
        .with_context(|| format!("without INPUT the pages are taken from {TRACES}, which is not here"))?;
    let mut traces = Vec::new();
    for entry in directory {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with("-0.comio") {
            traces.push(format!("{TRACES}/{name}"));
        }
    }
    if traces.is_empty() {
        bail!("there is no trace in {TRACES}: name inputs");
    }
    traces.sort();
    Ok(traces)
}

async fn read(input: &str, args: &BenchCodec, session: &Session) -> anyhow::Result<Set> {
    let mut sampler = Sampler::new(set_name(input), args.pages as usize);
    if !is_image(input)? {
        read_tape(Path::new(input), session, &mut sampler).await?;
        return Ok(sampler.finish());
    }
    let location = session.image(input).await?;
    let image = ancestors::open(&location, &args.ancestors.ancestors, session).await?;
    let mut pages = Pages(sampler);
    session.run("reading", engine::restore(&session.engine, &image, &mut pages, &session.progress)).await?;
    Ok(pages.0.finish())
}

/// The file's name up to its first dot.
fn set_name(input: &str) -> &str {
    let name = Path::new(input).file_name().and_then(|name| name.to_str()).unwrap_or(input);
    name.split('.').next().unwrap_or(name).trim_end_matches("-0")
}

/// By its first bytes; everything on a server is an image.
fn is_image(input: &str) -> anyhow::Result<bool> {
    if input.contains("://") {
        return Ok(true);
    }
    let mut first = Vec::new();
    File::open(input)?.take(superblock::MAGIC.len() as u64).read_to_end(&mut first)?;
    Ok(first == superblock::MAGIC)
}

async fn read_tape(path: &Path, session: &Session, sampler: &mut Sampler) -> anyhow::Result<()> {
    let mut reader = open_source(path, SourceFormat::Auto, &session.pool).await?;
    let pool = BufferPool::new(4 * SlotBytes::REAL.pages, SlotBytes::REAL.pages);
    while let Some(item) = reader.next(&pool).await? {
        take(sampler, &item)?;
    }
    Ok(())
}

fn take(sampler: &mut Sampler, item: &TapeItem) -> Result<(), TapeError> {
    if let TapeItem::Batch(batch) = item {
        sampler.take(batch.pages.bytes()?);
    }
    Ok(())
}

/// Takes the pages of a restored image.
struct Pages(Sampler);

#[async_trait]
impl GuestWriter for Pages {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        take(&mut self.0, &item)
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

fn write_plots(report: &Report, directory: &Path) -> anyhow::Result<()> {
    for (name, svg) in report.plots()? {
        let path = directory.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sets_are_called_as_their_files() {
        for (input, name) in
            [("scenarios/traces/idle-0.comio", "idle"), ("/tmp/desktop.series.raw", "desktop"), ("x", "x")]
        {
            assert_eq!(set_name(input), name);
        }
    }
}
