//! From text to scenarios, with errors that point into the text.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::{Mode, Scenario, ScenarioError, nights, sense, single, sweep};
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
    hosts: Option<Spanned<Keys>>,
    server: Option<Spanned<Keys>>,
    operation: Spanned<toml::Value>,
    sweep: Option<Spanned<toml::Value>>,
    nights: Option<Spanned<toml::Value>>,
    background: Option<Spanned<toml::Value>>,
    faults: Option<Spanned<toml::Value>>,
}

/// The keys of a table, each with its place.
type Keys = BTreeMap<String, Spanned<toml::Value>>;

/// Where `key` stands, or its table if it is not there.
fn place_of(table: &Spanned<Keys>, key: &str) -> Range<usize> {
    table.get_ref().get(key).map_or_else(|| table.span(), Spanned::span)
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
    let senses: sense::Places = toml::from_str(text).map_err(toml_error)?;
    let singles: single::Places = toml::from_str(text).map_err(toml_error)?;
    let mut problems = problems(&scenario, &places, has_trace);
    problems.extend(sense::problems(&scenario, &senses));
    problems.extend(single::problems(&scenario, &singles));
    if let Some((span, problem)) = problems.into_iter().min_by_key(|(span, _)| span.start) {
        return Err(wrong(Some(span), problem));
    }
    let points = points(&scenario, text, has_trace)
        .map_err(|problem| wrong(places.sweep.as_ref().map(Spanned::span), problem))?;
    if let Some((span, problem)) = sense::expectations(&scenario, &points, &senses).into_iter().next() {
        return Err(wrong(Some(span), problem));
    }
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    Ok(ScenarioFile { scenario, points, hash })
}

/// As [`parse`], with keys (dots between their parts) set to other values: as in a scenario file,
/// or a text without its quotes.
///
/// # Errors
/// As [`parse`]; for what the settings break, with the settings instead of a line.
pub fn parse_with(
    file: &str,
    text: &str,
    settings: &[(String, String)],
    has_trace: &dyn Fn(&str) -> bool,
) -> Result<ScenarioFile, ScenarioError> {
    let parsed = parse(file, text, has_trace)?;
    if settings.is_empty() {
        return Ok(parsed);
    }
    let words: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let wrong = |problem: &str| {
        let problem = format!("with {}: {problem}", words.join(", "));
        ScenarioError { file: file.to_owned(), place: None, problem }
    };
    let mut table: toml::Table = toml::from_str(text).map_err(|error| wrong(error.message()))?;
    for (key, value) in settings {
        sweep::set(&mut table, key, &value_of(value)).ok_or_else(|| wrong("there is no such key"))?;
    }
    let text = toml::to_string(&table).map_err(|error| wrong(&error.to_string()))?;
    parse(file, &text, has_trace).map_err(|error| wrong(&error.problem))
}

/// A value as TOML writes it, or a text.
fn value_of(text: &str) -> toml::Value {
    let table = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| toml::Value::String(text.to_owned()))
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
        let counts = [("count", hosts.count), ("cores", hosts.cores), ("connections", hosts.connections)];
        for (key, _) in counts.into_iter().filter(|(_, count)| *count == 0) {
            say(place_of(place, key), format!("{key} must be at least 1"));
        }
        if hosts.memory.0 < 16 << 20 {
            say(place_of(place, "memory"), "a host needs at least \"16 MiB\" of memory for buffers".into());
        }
        if hosts.link.0 == 0 {
            say(place_of(place, "link"), NO_RATE.into());
        }
    }
    if let Some(place) = &places.server {
        for (key, problem) in server_problems(scenario) {
            say(place_of(place, key), problem.to_owned());
        }
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

const NO_RATE: &str = "links and disks must carry something, for example \"1 Gbit/s\"";

/// What is wrong with the server, by key.
fn server_problems(scenario: &Scenario) -> impl Iterator<Item = (&'static str, &'static str)> {
    let server = &scenario.server;
    let lost = scenario.mode == Mode::Real && !is_location(&server.location);
    let problems = [
        (lost, "location", "location must be \"embedded\" or a URL such as \"nfs://server/export\""),
        (server.link.0 == 0, "link", NO_RATE),
        (server.disk.is_some_and(|disk| disk.0 == 0), "disk", NO_RATE),
        (server.threads == 0, "threads", "threads must be at least 1"),
        (server.cores == 0, "cores", "cores must be at least 1"),
    ];
    problems.into_iter().filter(|(wrong, ..)| *wrong).map(|(_, key, problem)| (key, problem))
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
    fn settings_change_keys_and_are_named_if_they_break_it() {
        let parse_set = |settings: &[(&str, &str)]| {
            let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            let settings: Vec<_> = settings.iter().map(own).collect();
            parse_with("q.toml", GOOD, &settings, &|_| true)
        };
        let file =
            parse_set(&[("guests.count", "7"), ("guests.memory", "1 GiB"), ("mode", "virtual")]).unwrap();
        assert_eq!((file.scenario.guests.count, file.scenario.guests.memory.0), (7, 1 << 30));
        assert_eq!(file.scenario.mode, Mode::Virtual);
        let file = parse_set(&[("methods", "[\"raw\", \"comio\"]"), ("one-machine", "true")]).unwrap();
        assert!(file.scenario.methods == [Method::Raw, Method::Comio] && file.scenario.one_machine);
        for (key, value, word) in [("guests.counts", "7", "unknown field"), ("name.x", "1", "no such key")] {
            let error = parse_set(&[(key, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("q.toml: with {key} = {value}: ")), "{error}");
            assert!(error.contains(word), "{error}");
        }
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
            let line = GOOD.lines().position(|line| line.contains(from)).unwrap() + 1;
            let error = error_of(from, to);
            assert!(error.starts_with(&format!("q.toml:{line}:")), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_line() {
        for (from, to, word) in [
            ("name = \"quickstart\"", "name = \"../x\"", "name becomes a directory"),
            ("\"zstd1\"", "\"raw\"", "raw is named twice"),
            ("[hosts]", "[arrival]\npattern = \"poisson\"\n[hosts]", "every = \"2 s\""),
            ("[hosts]", "[arrival]\npattern = \"at-once\"\nevery = \"1 s\"\n[hosts]", "leave out every"),
            ("method = \"comio\"", "method = \"comio-dense\"", "not among this scenario's methods"),
            ("method = \"comio\"", "method = \"comio\"\npoint = \"3\"", "this scenario has no sweep"),
            ("ratio-min = 2.5", "of-limit-max = 1.05", "only known of models"),
        ] {
            let error = error_of(from, to);
            assert!(error.contains(word), "{error}");
            assert!(error.starts_with("q.toml:"), "{error}");
        }
        let faults = |fault: &str| {
            let text = GOOD.replace("mode = \"real\"", "mode = \"virtual\"");
            let text = format!("{text}\n[[faults]]\nat = \"1 s\"\nlasts = \"1 s\"\n{fault}\n");
            parse("q.toml", &text, &|_| true).map_err(|error| error.to_string())
        };
        let line = GOOD.lines().count() + 2;
        for fault in ["kind = \"slow-link\"", "kind = \"server-restart\"\nrate = \"1 Gbit/s\""] {
            let error = faults(fault).unwrap_err();
            assert!(error.starts_with(&format!("q.toml:{line}:")) && error.contains("rate"), "{error}");
        }
        assert!(faults("kind = \"slow-link\"\nrate = \"1 Mbit/s\"").is_ok());
    }

    #[test]
    fn expectations_name_points_of_the_sweep() {
        let swept = |point: &str| {
            let more = "\n[sweep]\nparameter = \"guests.count\"\nvalues = [1, 8]\n";
            let text = format!("{GOOD}\npoint = \"{point}\"\n{more}");
            parse("q.toml", &text, &|_| true).map_err(|error| error.to_string())
        };
        assert!(swept("8").is_ok());
        assert!(swept("9").unwrap_err().contains("points are 1, 8"));
    }
}
