//! `comio trace ls`: which traces there are, and what is in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comio_core::PAGE_SIZE;
use comio_core::engine::Image;
use comio_core::storage::Storage;
use serde::Serialize;

use super::super::inspect::{classes, tape_name};
use crate::args::{Resources, TraceList};
use crate::exit::Exit;
use crate::output;
use crate::session::Session;
use crate::traces::{self, Found, Notes};

#[derive(Serialize)]
struct Listed {
    name: String,
    guest: String,
    tape: &'static str,
    /// Pages of the guest.
    pages: u64,
    guest_bytes: u64,
    /// Bytes of all steps.
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_s: Option<f64>,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_s: Option<f64>,
    stored_bytes: u64,
    pages: u64,
    /// Pages by class and coder.
    classes: BTreeMap<&'static str, u64>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(super) async fn run(args: TraceList) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = session.directory(&args.directory).await?;
    let mut listed = Vec::new();
    for found in traces::find(&*storage).await? {
        listed.push(look_into(&*storage, found).await?);
    }
    if args.json {
        output::json(&listed)?;
    } else {
        output::data(&table(&listed))?;
    }
    Ok(Exit::Done)
}

async fn look_into(storage: &dyn Storage, found: Found) -> anyhow::Result<Listed> {
    let notes = match Notes::read(storage, &found.name).await {
        Ok(notes) => notes,
        Err(error) => {
            output::say(&format!("{error:#}"));
            None
        }
    };
    let mut steps = Vec::with_capacity(found.steps.len());
    let mut tape = "unknown";
    for (&number, object) in &found.steps {
        let noted = notes.as_ref().and_then(|notes| notes.steps.get(number as usize));
        let mut step = Step {
            file: object.name.clone(),
            at_s: noted.and_then(|step| step.at_s),
            stored_bytes: object.len,
            pages: 0,
            classes: BTreeMap::new(),
            problem: None,
        };
        match Image::open(storage.open(&object.name).await?).await {
            Ok(image) => {
                tape = tape_name(image.superblock().tape_format);
                step.pages = image.footer().totals.pages;
                step.classes = classes(&image).into_iter().map(|class| (class.name, class.pages)).collect();
            }
            Err(error) => step.problem = Some(error.to_string()),
        }
        steps.push(step);
    }
    let pages = steps.iter().map(|step| step.pages).max().unwrap_or(0);
    Ok(Listed {
        guest: notes.as_ref().map_or_else(|| found.name.clone(), |notes| notes.guest.clone()),
        name: found.name,
        tape,
        pages,
        guest_bytes: pages * PAGE_SIZE as u64,
        stored_bytes: steps.iter().map(|step| step.stored_bytes).sum(),
        every_s: notes.and_then(|notes| notes.every_s),
        steps,
    })
}

fn table(listed: &[Listed]) -> String {
    let name_width = listed.iter().map(|trace| trace.name.len()).max().unwrap_or(0).max(5);
    let guest_width = listed.iter().map(|trace| trace.guest.len()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:name_width$} {:guest_width$} {:>5} {:>8} {:>10} {:>12} PAGES BY CLASS\n",
        "TRACE", "GUEST", "STEP", "AT", "PAGES", "STORED"
    );
    for trace in listed {
        for (number, step) in trace.steps.iter().enumerate() {
            let (name, guest) =
                if number == 0 { (trace.name.as_str(), trace.guest.as_str()) } else { ("", "") };
            let label =
                traces::parse_step_name(&step.file).map_or(String::new(), |(_, step)| step.to_string());
            let at = step.at_s.map_or_else(|| "-".to_owned(), |at_s| format!("{at_s:.1} s"));
            let what = step.problem.clone().unwrap_or_else(|| shares(step));
            let _ = writeln!(
                text,
                "{name:name_width$} {guest:guest_width$} {label:>5} {at:>8} {:>10} {:>12} {what}",
                step.pages, step.stored_bytes
            );
        }
    }
    text
}

/// "72 % zero, 28 % zstd", the largest first.
fn shares(step: &Step) -> String {
    let mut classes: Vec<_> = step.classes.iter().collect();
    classes.sort_by_key(|(_, pages)| std::cmp::Reverse(**pages));
    let share = |pages: u64| 100.0 * super::super::share(pages, step.pages);
    let words = classes.into_iter().map(|(name, &pages)| format!("{:.1} % {name}", share(pages)));
    words.collect::<Vec<_>>().join(", ")
}
