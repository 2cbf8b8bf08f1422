//! From text to scenarios, with errors that point into the text.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::{Mode, Scenario, ScenarioError};
use crate::trace::RUN_PAGES;

/// The most memory a guest may have: four times the largest machines of today.
const GUEST_BYTES_MAX: u64 = 64 << 40;
/// The most guests of a scenario.
const GUESTS_MAX: usize = 100_000;

/// A scenario file, parsed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenarioFile {
    /// The scenario.
    pub scenario: Scenario,
    /// Identifies the file's contents in results.
    pub hash: String,
}

/// Where the values stand that are checked after parsing.
#[derive(Deserialize)]
struct Places {
    methods: Spanned<toml::Value>,
    guests: GuestPlaces,
    hosts: Option<Spanned<toml::Value>>,
    server: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
struct GuestPlaces {
    count: Spanned<toml::Value>,
    memory: Spanned<toml::Value>,
    traces: Spanned<Vec<Spanned<toml::Value>>>,
}

/// Parses `text`, the contents of `file`; `has_trace` tells which traces there are.
///
/// # Errors
/// [`ScenarioError`] with the line, and what would be right.
pub fn parse(
    file: &str,
    text: &str,
    has_trace: &dyn Fn(&str) -> bool,
) -> Result<ScenarioFile, ScenarioError> {
    let wrong = |span: Option<Range<usize>>, problem| ScenarioError::at(file, text, span, problem);
    let toml_error = |error: toml::de::Error| wrong(error.span(), error.message().to_owned());
    let scenario: Scenario = toml::from_str(text).map_err(toml_error)?;
    let places: Places = toml::from_str(text).map_err(toml_error)?;
    for (span, problem) in problems(&scenario, &places, has_trace) {
        return Err(wrong(Some(span), problem));
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    Ok(ScenarioFile { scenario, hash })
}

/// What is wrong with a scenario that has the right form, in the order of the file's keys.
fn problems(
    scenario: &Scenario,
    places: &Places,
    has_trace: &dyn Fn(&str) -> bool,
) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let mut say = |span: Range<usize>, problem: String| found.push((span, problem));
    if scenario.methods.is_empty() {
        say(places.methods.span(), "name at least one method, for example [\"raw\", \"comio\"]".into());
    }
    let guests = &scenario.guests;
    if !(1..=GUESTS_MAX).contains(&guests.count) {
        say(places.guests.count.span(), format!("count must be from 1 to {GUESTS_MAX}"));
    }
    let run_bytes = RUN_PAGES as u64 * 4096;
    if guests.memory.0 == 0 || !guests.memory.0.is_multiple_of(4096) || guests.memory.0 > GUEST_BYTES_MAX
    {
        say(
            places.guests.memory.span(),
            format!(
                "memory must be whole 4 KiB pages and at most 64 TiB, for example \"{}\"",
                crate::units::Size(guests.memory.0.clamp(run_bytes, GUEST_BYTES_MAX).next_multiple_of(run_bytes))
            ),
        );
    }
    if guests.traces.is_empty() {
        say(places.guests.traces.span(), "name at least one trace, for example [\"desktop-0\"]".into());
    }
    for (name, place) in guests.traces.iter().zip(places.guests.traces.get_ref()) {
        if !has_trace(name) {
            say(
                place.span(),
                format!(
                    "there is no trace {name:?}: put {name}.comio into the directory `traces` beside \
                     the scenario, or name one that is there"
                ),
            );
        }
    }
    if let Some(place) = &places.hosts {
        let hosts = &scenario.hosts;
        if hosts.count == 0 || hosts.cores == 0 || hosts.connections == 0 {
            say(place.span(), "hosts, cores and connections must each be at least 1".into());
        }
        if hosts.memory.0 < 16 << 20 {
            say(place.span(), "a host needs at least \"16 MiB\" of memory for buffers".into());
        }
    }
    if let Some(place) = &places.server
        && scenario.mode == Mode::Real
        && !is_location(&scenario.server.location)
    {
        say(
            place.span(),
            "location must be \"embedded\" or a URL such as \"nfs://server/export\"".into(),
        );
    }
    found
}

fn is_location(location: &str) -> bool {
    location == super::Server::EMBEDDED || location.starts_with("nfs://")
}
