//! From text to scenarios, with errors that point into the text.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::{Mode, Scenario, ScenarioError, nights};
use crate::trace::RUN_PAGES;

/// The most memory a guest may have: four times the largest machines of today.
const GUEST_BYTES_MAX: u64 = 64 << 40;
/// The most guests of a scenario.
const GUESTS_MAX: usize = 100_000;

/// A scenario file, parsed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenarioFile {
    /// The scenario as it stands in the file.
    pub scenario: Scenario,
    /// What is run: the points of its sweep, or the scenario itself.
    pub points: Vec<Point>,
    /// Identifies the file's contents in results.
    pub hash: String,
}

/// One point of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The parameter's value, as text; `None` without a sweep.
    pub label: Option<String>,
    /// The scenario at this point.
    pub scenario: Scenario,
}

/// Where the values stand that are checked after parsing.
#[derive(Deserialize)]
struct Places {
    methods: Spanned<toml::Value>,
    guests: GuestPlaces,
    hosts: Option<Spanned<toml::Value>>,
    server: Option<Spanned<toml::Value>>,
    operation: Spanned<toml::Value>,
    sweep: Option<Spanned<toml::Value>>,
    nights: Option<Spanned<toml::Value>>,
    background: Option<Spanned<toml::Value>>,
    faults: Option<Spanned<toml::Value>>,
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
    let points = points(&scenario, text, has_trace)
        .map_err(|problem| wrong(places.sweep.as_ref().map(Spanned::span), problem))?;
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    Ok(ScenarioFile { scenario, points, hash })
}

/// The points of the sweep, each checked as a scenario of its own.
fn points(scenario: &Scenario, text: &str, has_trace: &dyn Fn(&str) -> bool) -> Result<Vec<Point>, String> {
    let Some(sweep) = &scenario.sweep else {
        return Ok(vec![Point { label: None, scenario: scenario.clone() }]);
    };
    if let Some(problem) = sweep.problem() {
        return Err(problem);
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let point = |value| {
        let label = sweep.label(value);
        let wrong = |problem: &str| format!("with {} = {label}: {problem}", sweep.parameter);
        let table = sweep.apply(&table, value).ok_or_else(|| wrong("there is no such key"))?;
        let text = toml::to_string(&table).map_err(|error| wrong(&error.to_string()))?;
        let file = parse("the sweep", &text, has_trace).map_err(|error| wrong(&error.problem))?;
        Ok(Point { label: Some(label.clone()), scenario: file.scenario })
    };
    sweep.values.iter().map(point).collect()
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
                     the scenario or give its directory with --traces, or name one that is there"
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
        && let Some(problem) = server_problem(scenario)
    {
        say(place.span(), problem);
    }
    found.extend(modelled_only(scenario, places));
    let nights = nights::Places {
        methods: &places.methods,
        operation: &places.operation,
        nights: places.nights.as_ref(),
        sweep: places.sweep.as_ref(),
    };
    found.extend(nights::problems(scenario, &nights));
    found
}

fn server_problem(scenario: &Scenario) -> Option<String> {
    let server = &scenario.server;
    if scenario.mode == Mode::Real && !is_location(&server.location) {
        return Some("location must be \"embedded\" or a URL such as \"nfs://server/export\"".to_owned());
    }
    if server.link.0 == 0 || server.disk.is_some_and(|disk| disk.0 == 0) {
        return Some("links and disks must carry something, for example \"1 Gbit/s\"".to_owned());
    }
    if server.threads == 0 || server.cores == 0 {
        return Some("threads and cores must each be at least 1".to_owned());
    }
    if server.on_host && scenario.hosts.count != 1 {
        return Some("on-host takes one host: set hosts.count = 1".to_owned());
    }
    None
}

/// What only models can do, in a scenario of real mode.
fn modelled_only(scenario: &Scenario, places: &Places) -> Vec<(Range<usize>, String)> {
    if scenario.mode == Mode::Virtual {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut say = |place: Option<&Spanned<toml::Value>>, what: &str| {
        if let Some(place) = place {
            found.push((place.span(), format!("{what} can only be modelled: set mode = \"virtual\"")));
        }
    };
    say(places.background.as_ref(), "other people's traffic");
    say(places.faults.as_ref(), "faults");
    if scenario.operation == super::Operation::Restore {
        say(Some(&places.operation), "images that were saved before");
    }
    if let Some(method) = scenario.methods.iter().find(|method| method.coder().is_none()) {
        say(Some(&places.methods), &format!("methods such as {method}"));
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
    fn a_sweep_sets_the_parameter_at_each_point() {
        let text = format!("{GOOD}\n[sweep]\nparameter = \"guests.count\"\nvalues = [1, 8]\n");
        let points = parse("q.toml", &text, &|_| true).unwrap().points;
        let counts: Vec<_> = points.iter().map(|point| point.scenario.guests.count).collect();
        assert_eq!(counts, [1, 8]);
        assert_eq!(points[1].label.as_deref(), Some("8"));
    }

    #[test]
    fn impossible_sweeps_are_refused_with_their_line() {
        let line = GOOD.lines().count() + 2;
        for (parameter, values, word) in [
            ("guests.counts", "[1]", "unknown field `counts`"),
            ("guests.count", "[0]", "count must be"),
            ("guests.count", "[]", "values"),
            ("guests.memory", "[\"1 GB/s\"]", "not a size"),
            ("guests..count", "[1]", "with dots"),
            ("name.x", "[1]", "no such key"),
        ] {
            let text = format!("{GOOD}\n[sweep]\nparameter = \"{parameter}\"\nvalues = {values}\n");
            let error = parse("q.toml", &text, &|_| true).unwrap_err().to_string();
            assert!(error.starts_with(&format!("q.toml:{line}:")) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_only_modelled_is_refused_in_real_mode() {
        for (from, to) in [
            ("\"save-then-restore\"", "\"restore\""),
            ("\"zstd1\"", "\"pipe-zstd\""),
            ("[hosts]", "[background]\nrate = \"1 Gbit/s\"\n[hosts]"),
            ("[hosts]", "[[faults]]\nkind = \"slow-link\"\nat = \"1 s\"\nlasts = \"1 s\"\n[hosts]"),
        ] {
            let error = error_of(from, to);
            assert!(error.contains("mode = \"virtual\""), "{error}");
        }
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
