//! What became of guests, for people and as JSON.

use std::time::Duration;

use comio_core::format::ImageUuid;
use serde::Serialize;

use crate::exit::Exit;
use crate::output;

/// What became of one guest.
#[derive(Serialize)]
pub(super) struct Outcome<T> {
    pub(super) name: String,
    #[serde(rename = "outcome")]
    pub(super) fate: &'static str,
    #[serde(flatten)]
    pub(super) report: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// The image that a save has begun.
    #[serde(skip)]
    pub(super) begun: Option<ImageUuid>,
}

/// What became of all.
#[derive(Serialize)]
struct Summary<T> {
    done: usize,
    failed: usize,
    left_out: usize,
    seconds: f64,
    guests: Vec<Outcome<T>>,
}

impl<T> Outcome<T> {
    pub(super) fn of(name: &str, done: &'static str, result: anyhow::Result<T>) -> Self {
        let name = name.to_owned();
        match result {
            Ok(report) => Self { name, fate: done, report: Some(report), trouble: None, begun: None },
            Err(error) => {
                let trouble = Some(format!("{error:#}"));
                Self { name, fate: "failed", report: None, trouble, begun: None }
            }
        }
    }

    pub(super) fn without(name: &str, fate: &'static str) -> Self {
        Self { name: name.to_owned(), fate, report: None, trouble: None, begun: None }
    }
}

/// Tells the user of one guest.
pub(super) fn tell<T>(outcome: &Outcome<T>) {
    let trouble = outcome.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
    output::say(&format!("{} {}{trouble}", outcome.name, outcome.fate));
}

/// Tells of all; gives the exit code.
pub(super) fn finish<T: Serialize>(
    guests: Vec<Outcome<T>>,
    took: Duration,
    json: bool,
    signalled: bool,
) -> anyhow::Result<Exit> {
    let count = |test: &dyn Fn(&Outcome<T>) -> bool| guests.iter().filter(|guest| test(guest)).count();
    let done = count(&|guest| guest.report.is_some());
    let left_out = count(&|guest| matches!(guest.fate, "excluded" | "consumed"));
    let failed = guests.len() - done - left_out;
    let summary = Summary { done, failed, left_out, seconds: took.as_secs_f64(), guests };
    if json {
        output::json(&summary)?;
    } else {
        output::say(&format!(
            "{done} done, {failed} failed, {left_out} left out, in {:.1} s",
            summary.seconds
        ));
    }
    Ok(match failed {
        0 => Exit::Done,
        _ if signalled => Exit::Stopped,
        _ => Exit::Failed,
    })
}
