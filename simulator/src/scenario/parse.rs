//! From text to scenarios, with errors that point into the text.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::sweep::{self, Sweep, SweepPlaces};
use super::{Scenario, ScenarioError, figures, sense, single, words};

/// Whether there is a trace of a name; if not, what those are called that are there.
pub type FindTrace<'a> = &'a dyn Fn(&str) -> Result<(), Vec<String>>;

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
pub(super) struct Places {
    pub(super) methods: Spanned<Value>,
    pub(super) guests: GuestPlaces,
    pub(super) hosts: Option<Spanned<Keys>>,
    pub(super) server: Option<Spanned<Keys>>,
    pub(super) network: Option<Spanned<Keys>>,
    pub(super) operation: Spanned<Value>,
    pub(super) sweep: Option<Spanned<SweepPlaces>>,
    pub(super) nights: Option<Spanned<Value>>,
    pub(super) background: Option<Spanned<Keys>>,
    pub(super) faults: Option<Spanned<Value>>,
}

/// The keys of a table, each with its place.
pub(super) type Keys = BTreeMap<String, Spanned<Value>>;

#[derive(Deserialize)]
pub(super) struct GuestPlaces {
    pub(super) count: Spanned<Value>,
    pub(super) memory: Spanned<Value>,
    pub(super) traces: Spanned<Vec<Spanned<Value>>>,
}

/// Parses `text`, the contents of `file`.
///
/// # Errors
/// [`ScenarioError`] with the line, and what would be right.
pub fn parse(file: &str, text: &str, find_trace: FindTrace<'_>) -> Result<ScenarioFile, ScenarioError> {
    let wrong = |span: Option<Range<usize>>, problem| ScenarioError::at(file, text, span, problem);
    let toml_error = |error: toml::de::Error| wrong(error.span(), words::plain(error.message()));
    let scenario: Scenario = toml::from_str(text).map_err(toml_error)?;
    let places: Places = toml::from_str(text).map_err(toml_error)?;
    let senses: sense::Places = toml::from_str(text).map_err(toml_error)?;
    let singles: single::Places = toml::from_str(text).map_err(toml_error)?;
    let mut problems = figures::problems(&scenario, &places, find_trace);
    problems.extend(sense::problems(&scenario, &senses));
    problems.extend(single::problems(&scenario, &singles));
    if let Some((span, problem)) = problems.into_iter().min_by_key(|(span, _)| span.start) {
        return Err(wrong(Some(span), problem));
    }
    let points = match (&scenario.sweep, &places.sweep) {
        (Some(sweep), Some(places)) => points(sweep, places.get_ref(), text, find_trace)
            .map_err(|(span, problem)| wrong(Some(span), problem))?,
        _ => vec![Point { label: None, scenario: scenario.clone() }],
    };
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
    find_trace: FindTrace<'_>,
) -> Result<ScenarioFile, ScenarioError> {
    let parsed = parse(file, text, find_trace)?;
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
        sweep::set(&mut table, key, &value_of(value)).map_err(|problem| wrong(&problem))?;
    }
    let text = toml::to_string(&table).map_err(|error| wrong(&error.to_string()))?;
    let parsed = parse(file, &text, find_trace).map_err(|error| wrong(&error.problem))?;
    let swept = parsed.scenario.sweep.as_ref().map(|sweep| &sweep.parameter);
    match swept.filter(|swept| settings.iter().any(|(key, _)| sweep::overlap(key, swept))) {
        Some(swept) => Err(wrong(&format!(
            "{swept} takes the values of the sweep: set those, for example sweep.values = [1, 2]"
        ))),
        None => Ok(parsed),
    }
}

/// A value as TOML writes it, or a text.
fn value_of(text: &str) -> Value {
    let table = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The points of the sweep, each checked as a scenario of its own.
fn points(
    sweep: &Sweep,
    places: &SweepPlaces,
    text: &str,
    find_trace: FindTrace<'_>,
) -> Result<Vec<Point>, (Range<usize>, String)> {
    if let Some(problem) = sweep.problem(places) {
        return Err(problem);
    }
    let (parameter, values) = (&places.parameter, places.values.get_ref());
    let table: toml::Table =
        toml::from_str(text).map_err(|error| (parameter.span(), error.message().to_owned()))?;
    let point = |(value, place): (&Value, &Spanned<Value>)| {
        let label = sweep.label(value);
        let wrong = |place: &Spanned<Value>, problem: &str| {
            (place.span(), format!("with {} = {label}: {problem}", sweep.parameter))
        };
        let table = sweep.apply(&table, value).map_err(|problem| wrong(parameter, &problem))?;
        let text = toml::to_string(&table).map_err(|error| wrong(place, &error.to_string()))?;
        let file = parse("the sweep", &text, find_trace).map_err(|error| {
            let names_nothing = error.problem.starts_with("unknown field") && !value.is_table();
            wrong(if names_nothing { parameter } else { place }, &error.problem)
        })?;
        Ok(Point { label: Some(label.clone()), scenario: file.scenario })
    };
    sweep.values.iter().zip(values).map(point).collect()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::scenario::{Method, Mode, Operation};

    const GOOD: &str = include_str!("../../../scenarios/quickstart.toml");

    fn error_of(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the quickstart has no {from:?}");
        let text = GOOD.replace(from, to);
        let known = || ["build-0", "postgres-0", "postgres-1"].map(str::to_owned).to_vec();
        let find_trace = |name: &str| if name == "postgers-0" { Err(known()) } else { Ok(()) };
        parse("q.toml", &text, &find_trace).unwrap_err().to_string()
    }

    #[test]
    fn the_quickstart_is_a_scenario() {
        let file = parse("q.toml", GOOD, &|_| Ok(())).unwrap();
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
    fn a_missing_trace_is_refused_with_its_line_and_those_that_are_there() {
        let error = error_of("\"postgres-0\"", "\"postgers-0\"");
        let line = GOOD.lines().position(|line| line.starts_with("traces")).unwrap() + 1;
        assert!(error.starts_with(&format!("q.toml:{line}:")), "{error}");
        assert!(error.contains("postgers-0.comio"), "{error}");
        assert!(error.contains("(postgres-0, postgres-1, build-0)"), "{error}");
    }

    #[test]
    fn an_unknown_method_is_refused_with_the_known_ones() {
        let error = error_of("\"zstd1\"", "\"gzip\"");
        assert!(error.contains("no method \"gzip\"") && error.contains("comio-dense"), "{error}");
    }

    #[test]
    fn a_sweep_sets_the_parameter_at_each_point() {
        let text = format!("{GOOD}\n[sweep]\nparameter = \"guests.count\"\nvalues = [1, 8]\n");
        let points = parse("q.toml", &text, &|_| Ok(())).unwrap().points;
        let counts: Vec<_> = points.iter().map(|point| point.scenario.guests.count).collect();
        assert_eq!(counts, [1, 8]);
        assert_eq!(points[1].label.as_deref(), Some("8"));
    }

    #[test]
    fn settings_change_keys_and_are_named_if_they_break_it() {
        let parse_set = |settings: &[(&str, &str)]| {
            let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            let settings: Vec<_> = settings.iter().map(own).collect();
            parse_with("q.toml", GOOD, &settings, &|_| Ok(()))
        };
        let file =
            parse_set(&[("guests.count", "7"), ("guests.memory", "1 GiB"), ("mode", "virtual")]).unwrap();
        assert_eq!((file.scenario.guests.count, file.scenario.guests.memory.0), (7, 1 << 30));
        assert_eq!(file.scenario.mode, Mode::Virtual);
        let file = parse_set(&[("methods", "[\"raw\", \"comio\"]"), ("one-machine", "true")]).unwrap();
        assert!(file.scenario.methods == [Method::Raw, Method::Comio] && file.scenario.one_machine);
        for (key, value, word) in
            [("guests.counts", "7", "unknown field"), ("name.x", "1", "name has no keys")]
        {
            let error = parse_set(&[(key, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("q.toml: with {key} = {value}: ")), "{error}");
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_swept_cannot_be_set() {
        let swept = |key: &str, value: &str| {
            let text = format!("{GOOD}\n[sweep]\nparameter = \"guests.count\"\nvalues = [1, 8]\n");
            parse_with("q.toml", &text, &[(key.to_owned(), value.to_owned())], &|_| Ok(()))
        };
        for (key, value) in [
            ("guests.count", "2"),
            ("guests", "{ count = 2, memory = \"64 MiB\", traces = [\"desktop-0\"] }"),
        ] {
            let error = swept(key, value).unwrap_err().to_string();
            assert!(error.contains("sweep.values = [1, 2]"), "{error}");
        }
        assert_eq!(swept("sweep.values", "[3]").unwrap().points[0].scenario.guests.count, 3);
        assert!(swept("guests.memory", "16 MiB").is_ok());
    }

    #[test]
    fn impossible_sweeps_are_refused_with_the_line_to_blame() {
        let (parameter_line, values_line) = (GOOD.lines().count() + 3, GOOD.lines().count() + 4);
        for (line, parameter, values, word) in [
            (parameter_line, "guests.counts", "[1]", "unknown field `counts`, expected one of `count`"),
            (values_line, "guests.count", "[1, 0]", "with guests.count = 0: count must be"),
            (values_line, "guests.count", "[]", "values"),
            (values_line, "guests.count", "[1, 2, \"1\"]", "1 is named twice"),
            (values_line, "guests.count", "[\"8\"]", "a whole number without quotes"),
            (values_line, "guests.memory", "[\"1 GB/s\"]", "not a size"),
            (values_line, "guests", "[{ counts = 1 }]", "unknown field `counts`"),
            (parameter_line, "guests..count", "[1]", "with dots"),
            (parameter_line, "name.x", "[1]", "name has no keys"),
            (parameter_line, "mode", "[\"virtual\", \"real\"]", "mode cannot be swept"),
            (parameter_line, "expect.0.ratio-min", "[1.5]", "cannot be swept"),
            (parameter_line, "guests.traces.9", "[\"desktop-0\"]", "guests.traces.0 to guests.traces.3"),
        ] {
            let text = format!("{GOOD}\n[sweep]\nparameter = \"{parameter}\"\nvalues = {values}\n");
            let error = parse("q.toml", &text, &|_| Ok(())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("q.toml:{line}:")) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_sweep_reaches_into_lists() {
        let text = GOOD.replace("mode = \"real\"", "mode = \"virtual\"");
        let fault = "[[faults]]\nkind = \"server-restart\"\nat = \"1 s\"\nlasts = \"1 s\"\n";
        let sweep = "[sweep]\nparameter = \"faults.0.at\"\nvalues = [\"2 s\", \"4 s\"]\n";
        let points = parse("q.toml", &format!("{text}\n{fault}{sweep}"), &|_| Ok(())).unwrap().points;
        let at: Vec<_> = points.iter().map(|point| point.scenario.faults[0].at.0).collect();
        assert_eq!(at, [2_000_000_000, 4_000_000_000]);
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_told_without_rust() {
        for (from, to, words) in [
            (
                "count = 4",
                "count = \"8\"",
                "string \"8\", expected a whole number without quotes, for example 8",
            ),
            ("count = 4", "count = -1", "integer `-1`, expected a whole number without quotes"),
            ("count = 4", "", "count is missing: add a line such as count = 4"),
            ("seed = 1", "seed =", "there is no value that TOML knows"),
            ("seed = 1", "seed = -1", "a whole number"),
            ("ratio-min = 2.5", "ratio-min = \"2.5\"", "a number without quotes"),
            ("ratio-min = 2.5", "late-max = 2.5", "a whole number"),
            ("[hosts]", "hosts = 3\n[x]", "hosts"),
        ] {
            let error = error_of(from, to);
            assert!(error.starts_with("q.toml:") && error.contains(words), "{error}");
            for rust in ["usize", "u64", "f64", "struct", "literal"] {
                assert!(!error.contains(rust), "{error}");
            }
        }
    }

    #[test]
    fn a_missing_table_comes_with_an_example() {
        let text = "name = 'x'\nquestion = 'y?'\nmode = 'virtual'\noperation = 'save'\nmethods = ['raw']\n";
        let error = parse("q.toml", text, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("guests is missing: add a line such as guests = { count = 4, "), "{error}");
    }

    #[test]
    fn what_is_only_modelled_is_refused_in_real_mode() {
        for (from, to) in [
            ("\"save-then-restore\"", "\"restore\""),
            ("\"zstd1\"", "\"pipe-zstd\""),
            ("location = \"embedded\"", "cold = true"),
            ("location = \"embedded\"", "round-trip = \"1 ms\""),
            ("location = \"embedded\"", "threads = 8"),
            ("[hosts]", "[background]\nrate = \"1 Gbit/s\"\n[hosts]"),
            ("[hosts]", "[network]\nswitch = \"10 Gbit/s\"\n[hosts]"),
            ("[hosts]", "[[faults]]\nkind = \"slow-link\"\nat = \"1 s\"\nlasts = \"1 s\"\n[hosts]"),
        ] {
            let error = error_of(from, to);
            assert!(error.contains("mode = \"virtual\""), "{error}");
        }
    }

    #[test]
    fn a_file_of_both_modes_may_say_what_only_models_follow() {
        let text = GOOD
            .replace("[hosts]", "[server]\nthreads = 8\n[hosts]")
            .replace("mode =", "one-machine = true\nmode =");
        let text = text.replace("[server]\nlocation = \"embedded\"\n", "");
        assert!(parse("q.toml", &text, &|_| Ok(())).is_ok());
    }

    #[test]
    fn figures_that_no_machine_has_are_refused_in_virtual_mode_too() {
        let threads = ("location = \"embedded\"", "threads = 4000000000000000000");
        let text = GOOD.replace("mode = \"real\"", "mode = \"virtual\"").replace(threads.0, threads.1);
        let error = parse("q.toml", &text, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("threads must be from 1 to 65536"), "{error}");
    }

    #[test]
    fn impossible_figures_are_refused() {
        for (from, to) in [
            ("count = 4", "count = 0"),
            ("memory = \"64 MiB\"", "memory = \"1 KiB\""),
            ("cores = 2", "cores = 0"),
            ("cores = 2", "cores = 1000000000000"),
            ("cores = 2", "count = 1000000000000"),
            ("cores = 2", "connections = 1000000000000"),
            ("\"embedded\"", "\"ftp://x\""),
            ("\"embedded\"", "\"nfs://\""),
            ("\"embedded\"", "\"nfs://:2049/images\""),
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
            ("method = \"comio\"\nratio-min = 2.5", "method = \"comio\"", "give a bound"),
            ("method = \"comio\"", "method = \"comio\"\nlate-max = 1", "deadline = \"5 min\""),
            ("method = \"comio\"", "method = \"comio\"\nfaster-than = \"comio\"", "faster than itself"),
            ("method = \"comio\"", "faster-than = \"raw\"", "which method"),
            ("method = \"comio\"", "method = \"comio-dense\"", "not among this scenario's methods"),
            ("method = \"comio\"", "method = \"comio\"\npoint = \"3\"", "this scenario has no sweep"),
            ("ratio-min = 2.5", "of-limit-max = 1.05", "only known of models"),
            ("ratio-min = 2.5", "limited-by = \"switch\"", "network.switch"),
        ] {
            let error = error_of(from, to);
            assert!(error.contains(word), "{error}");
            assert!(error.starts_with("q.toml:"), "{error}");
        }
        let faults = |fault: &str| {
            let text = GOOD.replace("mode = \"real\"", "mode = \"virtual\"");
            let text = format!("{text}\n[[faults]]\nat = \"1 s\"\nlasts = \"1 s\"\n{fault}\n");
            parse("q.toml", &text, &|_| Ok(())).map_err(|error| error.to_string())
        };
        let line = GOOD.lines().count() + 2;
        for fault in [
            "kind = \"slow-link\"",
            "kind = \"slow-link\"\nrate = \"10 Gbit/s\"",
            "kind = \"server-restart\"\nrate = \"1 Gbit/s\"",
        ] {
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
            parse("q.toml", &text, &|_| Ok(())).map_err(|error| error.to_string())
        };
        assert!(swept("8").is_ok());
        assert!(swept("9").unwrap_err().contains("points are 1, 8"));
    }
}
