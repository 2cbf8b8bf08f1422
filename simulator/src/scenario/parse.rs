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
    let problems = problems(&scenario, &places, has_trace);
    if let Some((span, problem)) = problems.into_iter().min_by_key(|(span, _)| span.start) {
        return Err(wrong(Some(span), problem));
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    Ok(ScenarioFile { scenario, hash })
}

/// What is wrong with a scenario that has the right form, and where.
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
    if guests.memory.0 == 0 || !guests.memory.0.is_multiple_of(4096) || guests.memory.0 > GUEST_BYTES_MAX {
        say(
            places.guests.memory.span(),
            format!(
                "memory must be whole 4 KiB pages and at most 64 TiB, for example \"{}\"",
                crate::units::Size(
                    guests.memory.0.clamp(run_bytes, GUEST_BYTES_MAX).next_multiple_of(run_bytes)
                )
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
        say(place.span(), "location must be \"embedded\" or a URL such as \"nfs://server/export\"".into());
    }
    found
}

fn is_location(location: &str) -> bool {
    location == super::Server::EMBEDDED || location.starts_with("nfs://")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::scenario::{Method, Operation};

    const GOOD: &str = include_str!("../../../scenarios/quickstart.toml");

    fn error_of(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the quickstart has no {from:?}");
        let text = GOOD.replace(from, to);
        parse("q.toml", &text, &|name| name != "missing").unwrap_err().to_string()
    }

    #[test]
    fn the_quickstart_is_a_scenario() {
        let file = parse("q.toml", GOOD, &|_| true).unwrap();
        assert_eq!(file.scenario.mode, Mode::Real);
        assert_eq!(file.scenario.operation, Operation::SaveThenRestore);
        assert_eq!(file.scenario.methods.first(), Some(&Method::Raw));
        assert_eq!(file.hash.len(), 16);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
        let error = error_of("count = 4", "counts = 4");
        let line = GOOD.lines().position(|line| line == "count = 4").unwrap() + 1;
        assert!(error.starts_with(&format!("q.toml:{line}:1: unknown field `counts`")), "{error}");
        assert!(error.contains("`count`"), "{error}");
    }

    #[test]
    fn a_quantity_without_unit_is_refused_with_an_example() {
        let number = error_of("memory = \"64 MiB\"", "memory = 64");
        assert!(number.contains("\"512 MiB\""), "{number}");
        let unit = error_of("memory = \"64 MiB\"", "memory = \"64 megs\"");
        assert!(unit.contains("\"64 megs\" is not a size"), "{unit}");
    }

    #[test]
    fn a_missing_trace_is_refused_with_its_line() {
        let error = error_of("\"postgres-0\"", "\"missing\"");
        let line = GOOD.lines().position(|line| line.starts_with("traces")).unwrap() + 1;
        assert!(error.starts_with(&format!("q.toml:{line}:")), "{error}");
        assert!(error.contains("missing.comio"), "{error}");
    }

    #[test]
    fn an_unknown_method_is_refused_with_the_known_ones() {
        let error = error_of("\"zstd1\"", "\"gzip\"");
        assert!(error.contains("no method \"gzip\"") && error.contains("comio-dense"), "{error}");
    }

    #[test]
    fn impossible_figures_are_refused() {
        for (from, to) in [
            ("count = 4", "count = 0"),
            ("memory = \"64 MiB\"", "memory = \"1 KiB\""),
            ("cores = 2", "cores = 0"),
            ("\"embedded\"", "\"ftp://x\""),
            ("methods = [\"raw\", \"lz4\", \"zstd1\", \"comio\"]", "methods = []"),
        ] {
            assert!(error_of(from, to).starts_with("q.toml:"));
        }
    }
}
