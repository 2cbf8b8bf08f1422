//! Figures that are out of range or mean nothing in the scenario's mode, and traces that are not there.

use std::ops::Range;

use toml::Spanned;

use super::names::nearest_first;
use super::parse::{FindTrace, Keys, Places};
use super::{Guests, Mode, Operation, Scenario, Server, nights};
use crate::trace::RUN_PAGES;
use crate::units::{Rate, Size};

/// The most memory a guest may have: four times the largest machines of today.
const GUEST_BYTES_MAX: u64 = 64 << 40;
/// The most guests of a scenario, and the most hosts.
const GUESTS_MAX: usize = 100_000;
/// The most cores of a machine, several times the largest of today.
const CORES_MAX: usize = 4096;
/// The most threads of a server.
const THREADS_MAX: usize = 65_536;
/// The most connections of a host, and of other people.
const CONNECTIONS_MAX: usize = 1024;
/// The least memory of a host for buffers.
const HOST_BYTES_MIN: u64 = 16 << 20;

const NO_RATE: &str = "links, switches and disks must carry something, for example \"1 Gbit/s\"";

/// Keys of the server that only a model can follow.
const MODELLED: [&str; 7] = ["round-trip", "threads", "cores", "disk", "cache", "commit", "cold"];

type Problem = (Range<usize>, String);

/// What is wrong with the figures of a scenario that has the right form, and where.
pub(super) fn problems(scenario: &Scenario, places: &Places, find_trace: FindTrace<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    if scenario.methods.is_empty() {
        let problem = "name at least one method, for example [\"raw\", \"comio\"]";
        found.push((places.methods.span(), problem.to_owned()));
    }
    found.extend(guest_problems(&scenario.guests, places));
    found.extend(trace_problems(&scenario.guests, places, find_trace));
    let tables = [(&places.hosts, host_problems(scenario)), (&places.server, server_problems(scenario))];
    for (table, problems) in tables {
        let Some(table) = table else { continue };
        found.extend(problems.into_iter().map(|(key, problem)| (place_of(table, key), problem)));
    }
    if let (Some(Rate(0)), Some(table)) = (scenario.network.switch, &places.network) {
        found.push((place_of(table, "switch"), NO_RATE.to_owned()));
    }
    if let (Some(background), Some(table)) = (scenario.background, &places.background) {
        let problem = out_of_range("connections", background.connections, CONNECTIONS_MAX);
        found.extend(problem.map(|(key, problem)| (place_of(table, key), problem)));
    }
    found.extend(modelled_only(scenario, places));
    let nights = nights::Places {
        methods: &places.methods,
        operation: &places.operation,
        nights: places.nights.as_ref(),
        sweep: places.sweep.as_ref().map(Spanned::span),
    };
    found.extend(nights::problems(scenario, &nights));
    found
}

/// Where `key` stands, or its table if it is not there.
fn place_of(table: &Spanned<Keys>, key: &str) -> Range<usize> {
    table.get_ref().get(key).map_or_else(|| table.span(), Spanned::span)
}

/// A key and what is wrong with it.
type Wrong = (&'static str, String);

fn out_of_range(key: &'static str, count: usize, max: usize) -> Option<Wrong> {
    (!(1..=max).contains(&count)).then(|| (key, format!("{key} must be from 1 to {max}")))
}

fn guest_problems(guests: &Guests, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some((_, problem)) = out_of_range("count", guests.count, GUESTS_MAX) {
        found.push((places.guests.count.span(), problem));
    }
    let memory = guests.memory.0;
    if memory == 0 || !memory.is_multiple_of(4096) || memory > GUEST_BYTES_MAX {
        let run_bytes = RUN_PAGES as u64 * 4096;
        let right = Size(memory.clamp(run_bytes, GUEST_BYTES_MAX).next_multiple_of(run_bytes));
        let problem = format!("memory must be whole 4 KiB pages and at most 64 TiB, for example \"{right}\"");
        found.push((places.guests.memory.span(), problem));
    }
    found
}

fn trace_problems(guests: &Guests, places: &Places, find_trace: FindTrace<'_>) -> Vec<Problem> {
    let traces = &places.guests.traces;
    if guests.traces.is_empty() {
        let problem = "name at least one trace, for example [\"desktop-0\"]";
        return vec![(traces.span(), problem.to_owned())];
    }
    let missing = |(name, place): (&String, &Spanned<toml::Value>)| {
        let known = find_trace(name).err()?;
        Some((place.span(), missing_trace(name, known)))
    };
    guests.traces.iter().zip(traces.get_ref()).filter_map(missing).collect()
}

/// `known` are the names of the traces that are there.
fn missing_trace(name: &str, known: Vec<String>) -> String {
    let put = format!(
        "put {name}.comio into the directory `traces` beside the scenario or give its directory with --traces"
    );
    if known.is_empty() {
        return format!("there is no trace {name:?}, nor any other where it should be: {put}");
    }
    format!("there is no trace {name:?}: name one that is there ({}), or {put}", nearest_first(name, known))
}

fn host_problems(scenario: &Scenario) -> Vec<Wrong> {
    let hosts = &scenario.hosts;
    let mut found: Vec<Wrong> = [
        out_of_range("count", hosts.count, GUESTS_MAX),
        out_of_range("cores", hosts.cores, CORES_MAX),
        out_of_range("connections", hosts.connections, CONNECTIONS_MAX),
    ]
    .into_iter()
    .flatten()
    .collect();
    if hosts.memory.0 < HOST_BYTES_MIN {
        found.push(("memory", "a host needs at least \"16 MiB\" of memory for buffers".to_owned()));
    }
    if hosts.link.0 == 0 {
        found.push(("link", NO_RATE.to_owned()));
    }
    found
}

fn server_problems(scenario: &Scenario) -> Vec<Wrong> {
    let server = &scenario.server;
    let mut found: Vec<Wrong> = [
        out_of_range("threads", server.threads, THREADS_MAX),
        out_of_range("cores", server.cores, CORES_MAX),
    ]
    .into_iter()
    .flatten()
    .collect();
    if scenario.mode == Mode::Real && !is_location(&server.location) {
        let problem = "location must be \"embedded\" or a URL such as \"nfs://server/export\"";
        found.push(("location", problem.to_owned()));
    }
    if server.link.0 == 0 {
        found.push(("link", NO_RATE.to_owned()));
    }
    if server.disk.is_some_and(|disk| disk.0 == 0) {
        found.push(("disk", NO_RATE.to_owned()));
    }
    found
}

/// What only models can do, in a scenario of real mode. A file that says `one-machine` is made for
/// both modes: there the server's figures are left to the model.
fn modelled_only(scenario: &Scenario, places: &Places) -> Vec<Problem> {
    if scenario.mode == Mode::Virtual {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut say = |place: Option<Range<usize>>, what: &str| {
        let problem = format!("{what} can only be modelled: set mode = \"virtual\"");
        found.extend(place.map(|place| (place, problem)));
    };
    say(places.background.as_ref().map(Spanned::span), "other people's traffic");
    say(places.network.as_ref().map(Spanned::span), "the switch");
    say(places.faults.as_ref().map(Spanned::span), "faults");
    let server = places.server.as_ref().filter(|_| !scenario.one_machine);
    for key in MODELLED {
        let place = server.and_then(|server| server.get_ref().get(key));
        say(place.map(Spanned::span), &format!("the server's {key}"));
    }
    if scenario.operation == Operation::Restore {
        say(Some(places.operation.span()), "images that were saved before");
    }
    if let Some(method) = scenario.methods.iter().find(|method| method.coder().is_none()) {
        say(Some(places.methods.span()), &format!("methods such as {method}"));
    }
    found
}

fn is_location(location: &str) -> bool {
    let host = location.strip_prefix("nfs://").and_then(|rest| rest.split(['/', ':', '?']).next());
    location == Server::EMBEDDED || host.is_some_and(|host| !host.is_empty())
}
