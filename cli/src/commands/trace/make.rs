//! `comio trace make`: a series of dumps, save files or images becomes a trace.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use comio_backends::tape::{SourceFormat, open_source};
use comio_core::engine::{self, EngineError, Image, SaveReport};
use comio_core::format::FormatError;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{GuestReader, TapeFormat};
use serde::Serialize;

use super::super::inspect::tape_name;
use super::super::pack;
use crate::ancestors;
use crate::args::TraceMake;
use crate::exit::Exit;
use crate::location::Location;
use crate::output;
use crate::session::{Session, save_options};
use crate::traces::{TraceWriter, parse_step_name};

/// What was made.
#[derive(Serialize)]
struct Report {
    name: String,
    steps: Vec<StepReport>,
}

#[derive(Serialize)]
struct StepReport {
    file: String,
    input: String,
    #[serde(flatten)]
    saved: pack::Report,
}

/// A moment of the guest.
enum Input {
    Image(Box<Image>),
    Tape(Box<dyn GuestReader>),
}

impl Input {
    fn format(&self) -> TapeFormat {
        match self {
            Self::Image(image) => image.superblock().tape_format,
            Self::Tape(reader) => reader.format(),
        }
    }

    /// Guest memory, where that is to be the same at each moment.
    fn flat_bytes(&self) -> Option<u64> {
        match self {
            Self::Image(image) => Some(image.footer().totals.pages * comio_core::PAGE_SIZE as u64),
            Self::Tape(reader) => reader.size_hint(),
        }
        .filter(|_| self.format() == TapeFormat::RAW)
    }
}

pub(super) async fn run(args: TraceMake) -> anyhow::Result<Exit> {
    let mut session = Session::with_coder(&args.resources, EcbcCoder::new(args.level, Placement::Hybrid))?;
    let (storage, name) = target(&args, &session).await?;
    let guest = args.guest.clone().unwrap_or_else(|| name.clone());
    let every_s = args.every.map(|every| every.0.as_secs_f64());
    let mut writer = TraceWriter::begin(storage, name.clone(), guest, every_s).await?;
    let mut report = Report { name, steps: Vec::new() };
    match Box::pin(add_all(&args, &mut session, &mut writer, &mut report)).await {
        Ok(()) => tell(&args, &report),
        Err(error) => {
            // A trace of some of its moments is not what was asked for.
            if let Err(left) = writer.remove().await {
                output::say(&format!("some steps could not be removed again: {left:#}"));
            }
            Err(error)
        }
    }
}

async fn add_all(
    args: &TraceMake,
    session: &mut Session,
    writer: &mut TraceWriter,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut first = None;
    for (number, text) in (0u32..).zip(&args.inputs) {
        let input = open(text, args, session).await?;
        let same = *first.get_or_insert((input.format(), input.flat_bytes()));
        refuse_another_guest(text, &input, same)?;
        let at_s = args.every.map(|every| every.0.as_secs_f64() * f64::from(number));
        let file = writer.next_name();
        session.begin_next();
        let title = format!("step {} of {}", number + 1, args.inputs.len());
        let saved = save(input, session, writer, &title).await?;
        writer.add(&saved, at_s, None).await?;
        let saved = pack::Report::from(saved);
        if !args.json {
            output::say(&format!("{file}: {}", saved.words()));
        }
        report.steps.push(StepReport { file, input: text.clone(), saved });
    }
    Ok(())
}

/// The storage and the name of the trace to be made.
async fn target(args: &TraceMake, session: &Session) -> anyhow::Result<(Arc<dyn Storage>, String)> {
    let first = args.inputs.first().context("a trace has at least one step")?;
    match &args.output {
        Some(output) if Path::new(output).is_dir() => {
            Ok((session.directory(output).await?, trace_name(first)?))
        }
        Some(output) => {
            let Location { storage, name } = session.image(output).await?;
            Ok((storage, name))
        }
        None => Ok((session.directory(".").await?, trace_name(first)?)),
    }
}

/// What a trace that begins with `input` is called unless the user says.
fn trace_name(input: &str) -> anyhow::Result<String> {
    let name = input.rsplit('/').next().unwrap_or(input);
    if let Some((trace, _)) = parse_step_name(name) {
        return Ok(trace.to_owned());
    }
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
    Ok(stem.with_context(|| format!("what is the trace of {input} called? give --output"))?.to_owned())
}

/// An image, or else what `pack` would take it for.
async fn open(text: &str, args: &TraceMake, session: &Session) -> anyhow::Result<Input> {
    let no_file = !text.starts_with("nfs://") && !Path::new(text).is_file();
    if !no_file {
        let location = session.image(text).await?;
        match ancestors::open(&location, &args.ancestors.ancestors, session).await {
            Ok(image) => return Ok(Input::Image(Box::new(image))),
            Err(error) if !is_no_image(&error) => return Err(error.context(format!("cannot use {text}"))),
            Err(_) => {}
        }
    }
    let reader = open_source(Path::new(text), SourceFormat::Auto, &session.pool).await;
    Ok(Input::Tape(reader.map_err(EngineError::from)?))
}

fn is_no_image(error: &anyhow::Error) -> bool {
    let engine = error.downcast_ref::<EngineError>();
    matches!(engine, Some(EngineError::Format(FormatError::NotAnImage(_))))
}

fn refuse_another_guest(text: &str, input: &Input, first: (TapeFormat, Option<u64>)) -> anyhow::Result<()> {
    let (format, bytes) = first;
    if input.format() != format {
        let (this, that) = (tape_name(input.format()), tape_name(format));
        bail!(
            "{text} is of another kind ({this}) than the first input ({that}): one guest is recorded one way"
        );
    }
    if format == TapeFormat::TEMPLATE {
        bail!("{text} is a template: that is no guest's memory");
    }
    match (bytes, input.flat_bytes()) {
        (Some(first), Some(this)) if first != this => {
            bail!("{text} has {this} bytes of memory and the first input {first}: that is another guest")
        }
        _ => Ok(()),
    }
}

async fn save(
    input: Input,
    session: &Session,
    writer: &TraceWriter,
    title: &str,
) -> anyhow::Result<SaveReport> {
    let foundation = writer.foundation().await?;
    let (storage, name) = (writer.storage(), writer.next_name());
    let mut options = save_options(false);
    let (engine, progress, upon) = (&session.engine, &session.progress, foundation.as_ref());
    let report = match input {
        Input::Image(image) => {
            options.created_unix_s = image.superblock().created_unix_s;
            let saving = engine::repack(engine, upon, &image, storage, &name, &options, progress);
            session.run(title, saving).await?
        }
        Input::Tape(mut reader) => {
            let saving =
                Box::pin(engine::save_upon(engine, upon, &mut *reader, storage, &name, &options, progress));
            session.run(title, saving).await?
        }
    };
    match &report.trouble {
        None => Ok(report),
        // The image is there, and no part of a trace.
        Some(trouble) => {
            storage.remove(&name).await?;
            bail!("{name} does not rest on the step before it, which cannot be read: {trouble}")
        }
    }
}

fn tell(args: &TraceMake, report: &Report) -> anyhow::Result<Exit> {
    if args.json {
        output::json(report)?;
    }
    Ok(Exit::Done)
}
