//! What has the right form and makes no sense: each with its place, and what would be right.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Expectation, FaultKind, Mode, Operation, Pattern, Point, Scenario};
use crate::report::{Phase, Resource};
use crate::units::Span;

/// Where the values stand.
#[derive(Deserialize)]
pub(super) struct Places {
    name: Spanned<Value>,
    methods: Spanned<Value>,
    arrival: Option<Spanned<Value>>,
    #[serde(default)]
    faults: Vec<Spanned<Value>>,
    #[serde(default)]
    expect: Vec<Spanned<Value>>,
}

type Problem = (Range<usize>, String);

/// What is wrong with the scenario itself.
pub(super) fn problems(scenario: &Scenario, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    if !is_file_name(&scenario.name) {
        let problem =
            "name becomes a directory: use letters, digits, '-', '_' and '.', for example \"evening\"";
        found.push((places.name.span(), problem.to_owned()));
    }
    let mut seen = BTreeSet::new();
    if let Some(method) = scenario.methods.iter().find(|method| !seen.insert(**method)) {
        found.push((places.methods.span(), format!("{method} is named twice: name each method once")));
    }
    if let Some(place) = &places.arrival {
        found.extend(arrival_problem(scenario).map(|problem| (place.span(), problem.to_owned())));
    }
    for (fault, place) in scenario.faults.iter().zip(&places.faults) {
        let link = scenario.server.link;
        let problem = match (fault.kind, fault.rate) {
            (FaultKind::SlowLink, None) => {
                "say what is left of the link, for example rate = \"100 Mbit/s\"".to_owned()
            }
            (FaultKind::SlowLink, Some(rate)) if rate > link => {
                format!(
                    "the server's link carries {link}: what is left of it cannot be {rate}; give a lower rate"
                )
            }
            (FaultKind::ServerRestart, Some(_)) => {
                "a server that restarts has no rate: leave it out".to_owned()
            }
            _ => continue,
        };
        found.push((place.span(), problem));
    }
    found
}

/// Names that stay in their directory.
fn is_file_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

fn arrival_problem(scenario: &Scenario) -> Option<&'static str> {
    let arrival = &scenario.arrival;
    match (arrival.pattern, arrival.every == Span::default()) {
        (Pattern::Staggered | Pattern::Poisson, true) => {
            Some("say how long it is from one to the next, for example every = \"2 s\"")
        }
        (Pattern::AtOnce, false) => {
            Some("all come at once: leave out every, or set pattern = \"staggered\" or \"poisson\"")
        }
        _ => None,
    }
}

/// Expectations about what is not measured, at any of `points`.
pub(super) fn expectations(scenario: &Scenario, points: &[Point], places: &Places) -> Vec<Problem> {
    let problem = |(expected, place): (&Expectation, &Spanned<Value>)| {
        unmeasured(expected, points).map(|problem| (place.span(), problem))
    };
    scenario.expect.iter().zip(&places.expect).filter_map(problem).collect()
}

fn unmeasured(expected: &Expectation, points: &[Point]) -> Option<String> {
    if let Some(problem) = unbounded(expected, points) {
        return Some(problem);
    }
    if expected.is_about_limits() && points.iter().any(|point| point.scenario.mode == Mode::Real) {
        return Some("what limits a run is only known of models: set mode = \"virtual\"".to_owned());
    }
    let methods: BTreeSet<_> = points.iter().flat_map(|point| &point.scenario.methods).collect();
    if let Some(method) =
        [expected.method, expected.faster_than].into_iter().flatten().find(|method| !methods.contains(method))
    {
        return Some(format!("{method} is not among this scenario's methods"));
    }
    let phases: BTreeSet<_> = points.iter().flat_map(|point| phases(point.scenario.operation)).collect();
    if let Some(phase) = expected.operation.filter(|phase| !phases.contains(phase.name())) {
        return Some(format!("there is no {} in this scenario", phase.name()));
    }
    let labels: Vec<String> = points.iter().flat_map(labels).collect();
    let point = expected.point.as_ref().filter(|point| !labels.contains(point))?;
    Some(if labels.is_empty() {
        format!("there is no point {point:?}: this scenario has no sweep; leave point out")
    } else {
        format!("there is no point {point:?}; points are {}", labels.join(", "))
    })
}

/// Bounds that are kept or missed whatever is measured.
fn unbounded(expected: &Expectation, points: &[Point]) -> Option<String> {
    if !expected.has_bound() {
        return Some("give a bound, for example makespan-max = \"30 s\"".to_owned());
    }
    if expected.late_max.is_some() && points.iter().any(|point| point.scenario.deadline.is_none()) {
        return Some("late-max counts who misses the deadline: set one, deadline = \"5 min\"".to_owned());
    }
    let has_switch = |point: &Point| point.scenario.network.switch.is_some();
    if expected.limited_by == Some(Resource::Switch) && !points.iter().all(has_switch) {
        return Some("the switch is no limit: give it a rate, network.switch = \"10 Gbit/s\"".to_owned());
    }
    match (expected.method, expected.faster_than?) {
        (Some(method), other) if method == other => {
            Some(format!("{method} is never faster than itself: name another method"))
        }
        (None, other) => Some(format!("say which method is to be faster than {other}: method = \"comio\"")),
        _ => None,
    }
}

fn phases(operation: Operation) -> impl Iterator<Item = &'static str> {
    let phases: &[Phase] = match operation {
        Operation::Save => &[Phase::Save],
        Operation::SaveThenRestore | Operation::Nightly => &[Phase::Save, Phase::Restore],
        Operation::Restore => &[Phase::Restore],
        Operation::Extract => &[Phase::Save, Phase::Extract],
    };
    phases.iter().map(|phase| phase.name())
}

/// What results call the point: its value, or its nights.
fn labels(point: &Point) -> Vec<String> {
    match &point.scenario.nights {
        Some(nights) => (0..=nights.count).map(|night| night.to_string()).collect(),
        None => point.label.clone().into_iter().collect(),
    }
}
