//! `comio trace check`: every byte of traces, and whether their steps belong together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use comio_core::engine::{self, EngineError, Image};
use comio_core::format::ImageUuid;
use comio_core::format::ancestor::Role;
use comio_core::storage::{Storage, StorageErrorKind};
use comio_core::tape::TapeFormat;
use serde::Serialize;

use crate::args::TraceCheck;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;
use crate::traces::{self, Found, Notes, step_name};

#[derive(Serialize)]
struct Report {
    whole: bool,
    traces: Vec<Checked>,
}

#[derive(Serialize)]
struct Checked {
    name: String,
    whole: bool,
    steps: Vec<Step>,
    /// Of the trace as such.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Step {
    file: String,
    pages: u64,
    problems: Vec<String>,
}

pub(super) async fn run(args: TraceCheck) -> anyhow::Result<Exit> {
    let mut session = Session::new(&args.resources)?;
    let (storage, found) = find(&args.place, &session).await?;
    let mut report = Report { whole: true, traces: Vec::new() };
    for found in found {
        let checked = check(&mut session, &*storage, found).await?;
        report.whole &= checked.whole;
        if !args.json {
            tell(&checked);
        }
        report.traces.push(checked);
    }
    if args.json {
        output::json(&report)?;
    }
    Ok(if report.whole { Exit::Done } else { Exit::Damaged })
}

/// The traces that `place` means: a directory's, or the one of a step or name.
async fn find(place: &str, session: &Session) -> anyhow::Result<(Arc<dyn Storage>, Vec<Found>)> {
    let is_url = place.starts_with("nfs://");
    if is_url || Path::new(place).is_dir() {
        match session.directory(place).await {
            Ok(storage) => {
                let found = traces::find(&*storage).await?;
                if found.is_empty() {
                    bail!(
                        "there is no trace in {place}: the steps of one are files NAME-0.comio, NAME-1.comio, …"
                    );
                }
                return Ok((storage, found));
            }
            Err(error) if !is_url => return Err(error),
            // A step's URL names no directory.
            Err(_) => {}
        }
    }
    let location = session.image(place).await?;
    let name = traces::parse_step_name(&location.name).map_or(location.name.as_str(), |(trace, _)| trace);
    let found = traces::find(&*location.storage).await?.into_iter().find(|found| found.name == name);
    let Some(found) = found else {
        bail!("{place} is no step of a trace: those are called NAME-0.comio, NAME-1.comio, …")
    };
    Ok((location.storage, vec![found]))
}

async fn check(session: &mut Session, storage: &dyn Storage, found: Found) -> anyhow::Result<Checked> {
    let mut checked =
        Checked { name: found.name.clone(), whole: true, steps: Vec::new(), problems: Vec::new() };
    let last = found.steps.keys().next_back().copied().unwrap_or(0);
    let missing = (0..last).filter(|step| !found.steps.contains_key(step));
    for step in missing.take(10) {
        checked.problems.push(format!("{} is missing", step_name(&found.name, step)));
    }
    let mut family = Family::default();
    for (&number, object) in &found.steps {
        let mut step = Step { file: object.name.clone(), pages: 0, problems: Vec::new() };
        match open(storage, &object.name).await? {
            Ok(image) => {
                step.pages = image.footer().totals.pages;
                step.problems = family.problems(number, &image);
                session.begin_next();
                step.problems.extend(damages(session, &image, &object.name).await?);
            }
            Err(problem) => step.problems.push(problem),
        }
        checked.steps.push(step);
    }
    checked.problems.extend(family.notes_problems(storage, &found).await);
    checked.whole = checked.problems.is_empty() && checked.steps.iter().all(|step| step.problems.is_empty());
    Ok(checked)
}

/// Opens an image; what is no whole image is a problem, a storage that fails an error.
async fn open(storage: &dyn Storage, name: &str) -> anyhow::Result<Result<Image, String>> {
    match Image::open_with_ancestors(storage, name, &[]).await {
        Ok(image) => Ok(Ok(image)),
        Err(EngineError::Storage(error)) if error.kind != StorageErrorKind::NotFound => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// What a deep verification finds.
async fn damages(session: &Session, image: &Image, name: &str) -> anyhow::Result<Vec<String>> {
    let verifying = async {
        match image.check_complete() {
            Ok(()) => engine::verify_deep(&session.engine, image, &session.progress).await.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    };
    Ok(match session.run(&format!("checking {name}"), verifying).await? {
        Ok(report) => report
            .damages
            .iter()
            .map(|damage| format!("part {}: {}", damage.number, damage.problem))
            .collect(),
        Err(error) => vec![error.to_string()],
    })
}

/// The steps that were looked at, against which the next one is held.
#[derive(Default)]
struct Family {
    first: Option<(TapeFormat, u64)>,
    steps: BTreeMap<ImageUuid, u32>,
}

impl Family {
    fn problems(&mut self, number: u32, image: &Image) -> Vec<String> {
        let (superblock, pages) = (image.superblock(), image.footer().totals.pages);
        let (format, first_pages) = *self.first.get_or_insert((superblock.tape_format, pages));
        let mut problems = Vec::new();
        if superblock.tape_format != format {
            problems.push("it was recorded in another way than the first step".to_owned());
        } else if format == TapeFormat::RAW && pages != first_pages {
            problems.push(format!("it has {pages} pages and the first step {first_pages}"));
        }
        let parent = superblock.ancestors.iter().find(|ancestor| ancestor.role == Role::Parent);
        match parent.map(|parent| self.steps.get(&parent.uuid)) {
            None if number > 0 => problems.push("it rests on no step before it".to_owned()),
            Some(None) => problems.push("the image that it was saved upon is no step before it".to_owned()),
            _ => {}
        }
        self.steps.insert(superblock.uuid, number);
        problems
    }

    async fn notes_problems(&self, storage: &dyn Storage, found: &Found) -> Vec<String> {
        let notes = match Notes::read(storage, &found.name).await {
            Ok(Some(notes)) => notes,
            Ok(None) => return Vec::new(),
            Err(error) => return vec![format!("{error:#}")],
        };
        let mut problems = Vec::new();
        if notes.steps.len() != found.steps.len() {
            let (noted, there) = (notes.steps.len(), found.steps.len());
            problems.push(format!("its notes are of {noted} steps, and there are {there}"));
        }
        for (number, step) in (0u32..).zip(&notes.steps) {
            let uuid = step.uuid.parse::<uuid::Uuid>().map(uuid::Uuid::into_bytes);
            if !uuid.is_ok_and(|uuid| self.steps.get(&uuid) == Some(&number)) {
                problems.push(format!("the image of step {number} is not the one that the notes name"));
            }
        }
        let times: Vec<f64> = notes.steps.iter().filter_map(|step| step.at_s).collect();
        if times.windows(2).any(|pair| pair[1] <= pair[0]) {
            problems.push("its notes go back in time".to_owned());
        }
        problems
    }
}

fn tell(checked: &Checked) {
    for problem in &checked.problems {
        output::say(&format!("{}: {problem}", checked.name));
    }
    for step in &checked.steps {
        for problem in &step.problems {
            output::say(&format!("{}: {problem}", step.file));
        }
    }
    if checked.whole {
        let pages: u64 = checked.steps.iter().map(|step| step.pages).sum();
        output::say(&format!("{}: whole, {pages} pages in {} steps", checked.name, checked.steps.len()));
    }
}
