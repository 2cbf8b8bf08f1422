//! A running Xen domain, recorded until the plan is done or a signal comes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use comio_backends::pool::WorkerPool;
use comio_backends::record::{self, Plan, RecordError, Recorder, Tracking};
use comio_backends::xen::control::{self, Control, Kind, XenGuest};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use serde::Serialize;

use super::sink::{ImageSink, StepReport};
use super::stopping::Stopping;
use crate::args::Record;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;
use crate::signals::Signals;
use crate::traces::TraceWriter;

/// After a signal, this long for the step under way to be given up.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Report {
    trace: String,
    guest: String,
    domain: u32,
    kind: &'static str,
    /// How changed pages were found.
    tracking: &'static str,
    pages: u64,
    /// Whether a signal ended it.
    stopped: bool,
    /// The longest that the guest stood still.
    paused_ms_max: f64,
    steps: Vec<StepReport>,
}

pub(super) async fn record(args: Record) -> anyhow::Result<Exit> {
    // From here on: nothing must be left behind, whatever comes.
    let mut signals = Signals::listen()?;
    free_those_of_killed()?;
    let guest = XenGuest::find(Control::open()?, &args.domain)?;
    let session = Session::with_coder(&args.resources, EcbcCoder::new(args.level, Placement::Hybrid))?;
    let is_url = args.directory.starts_with("nfs://");
    if !is_url {
        std::fs::create_dir_all(&args.directory)
            .with_context(|| format!("cannot create {}", args.directory))?;
    }
    let name = args.name.clone().unwrap_or_else(|| guest.name().to_owned());
    let (storage, every_s) = (session.directory(&args.directory).await?, args.every.0.as_secs_f64());
    let writer =
        TraceWriter::begin(Arc::clone(&storage), name.clone(), guest.name().to_owned(), Some(every_s));
    let stopping = Stopping::new();
    let mut sink = ImageSink {
        writer: writer.await?,
        engine: session.engine.clone(),
        storage,
        stopping: stopping.clone(),
        quiet: args.json,
        steps: Vec::new(),
    };
    let shadow = shadow_file(&args.directory, is_url)?;
    let mut report = Report {
        trace: name,
        guest: guest.name().to_owned(),
        domain: guest.domain().id,
        kind: match guest.domain().kind {
            Kind::Pv => "pv",
            Kind::Pvh => "pvh",
            Kind::Hvm => "hvm",
        },
        tracking: "",
        pages: 0,
        stopped: false,
        paused_ms_max: 0.0,
        steps: Vec::new(),
    };
    // Calls that block are made there; dropping it waits until the guest is free.
    let thread = WorkerPool::new(1).context("cannot start a thread")?;
    let (clock, flag) = (stopping.clock(), stopping.flag());
    let begun = thread.submit_io(move || Recorder::begin(guest, shadow, clock, flag)).await?;
    let recorder = begun?;
    report.pages = recorder.page_count();
    report.tracking = match recorder.tracking() {
        Tracking::Dirty => "log-dirty",
        Tracking::Compare => "pause and compare",
    };
    if !args.json {
        let Report { guest, pages, tracking, .. } = &report;
        output::say(&format!("recording {guest}: {pages} pages, {tracking}"));
    }
    let plan = Plan { every: args.every.0, lasts: args.lasts.0 };
    let recorded = {
        let recording = record::run(recorder, &thread, &session.pool, &mut sink, &stopping, plan);
        let mut recording = std::pin::pin!(recording);
        tokio::select! {
            recorded = &mut recording => recorded,
            () = signals.any() => {
                stopping.stop();
                #[expect(clippy::disallowed_methods, reason = "the program's own limit, after a signal")]
                let ended = tokio::time::timeout(STOP_LIMIT, recording).await;
                ended.unwrap_or(Err(RecordError::Stopped))
            }
        }
    };
    drop(thread);
    report.stopped = stopping.is_stopping();
    report.paused_ms_max = sink.steps.iter().map(StepReport::paused_ms).fold(0.0, f64::max);
    report.steps = sink.steps;
    finish(&args, &report, recorded)
}

/// Frees the domains of recordings that were killed, and tells of each.
pub(in super::super) fn free_those_of_killed() -> anyhow::Result<()> {
    let free = || {
        if !control::are_some_left()? {
            return Ok(Vec::new());
        }
        control::free_those_of_killed(&Control::open()?)
    };
    for freed in free().context("cannot set right what a killed recording left")? {
        output::say(&freed);
    }
    Ok(())
}

/// A file without a name for the guest's memory: beside the trace, or where temporary files go.
fn shadow_file(directory: &str, is_url: bool) -> anyhow::Result<File> {
    let place = if is_url { std::env::temp_dir() } else { Path::new(directory).to_owned() };
    tempfile::tempfile_in(&place)
        .with_context(|| format!("cannot keep the guest's memory in {}", place.display()))
}

/// Tells what there is, and why there is no more.
fn finish(args: &Record, report: &Report, recorded: Result<(), RecordError>) -> anyhow::Result<Exit> {
    if args.json {
        output::json(report)?;
    } else {
        output::say(&format!(
            "{} steps of {} in {}; the guest stood still for at most {:.1} ms",
            report.steps.len(),
            report.trace,
            args.directory,
            report.paused_ms_max
        ));
    }
    match recorded {
        // A step that was given up for the stop is no failure of its own, a guest that could
        // not be unpaused is.
        Err(error @ RecordError::StillPaused { .. }) => Err(error.into()),
        _ if report.stopped => Ok(Exit::Stopped),
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(error.into()),
    }
}
