//! Guests that are saved night after night.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Method, Mode, Operation, Scenario, words};
use crate::units::Share;

/// The most nights of a scenario.
const NIGHTS_MAX: u32 = 100;

/// What happens to the guests between saves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nights {
    /// How many nights follow the first.
    #[serde(deserialize_with = "words::count")]
    pub count: u32,
    /// Which share of a guest's pages changes from one night to the next.
    pub changed: Share,
}

/// Where the keys stand that decide whether images can rest on others.
pub(super) struct Places<'a> {
    pub(super) methods: &'a Spanned<toml::Value>,
    pub(super) operation: &'a Spanned<toml::Value>,
    pub(super) nights: Option<&'a Spanned<toml::Value>>,
    pub(super) sweep: Option<Range<usize>>,
}

/// What is wrong with nights, and with methods whose images rest on others.
pub(super) fn problems(scenario: &Scenario, places: &Places<'_>) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let mut say = |place: &Spanned<toml::Value>, problem: String| found.push((place.span(), problem));
    let nightly = scenario.operation == Operation::Nightly;
    let resting = scenario.methods.iter().find(|method| method.rests_on_images());
    if scenario.mode == Mode::Virtual {
        if let Some(method) = resting {
            let problem = format!("{method} compares real pages: set mode = \"real\"");
            say(places.methods, problem);
        }
        if nightly {
            say(places.operation, "pages that change are real: set mode = \"real\"".to_owned());
        }
    }
    if !nightly && scenario.methods.contains(&Method::ComioIncrement) {
        let problem = "comio-increment saves upon the night before: set operation = \"nightly\"";
        say(places.methods, problem.to_owned());
    }
    match (&scenario.nights, places.nights) {
        (None, _) if nightly => {
            let problem =
                "say what happens at night, for example: nights = { count = 7, changed = \"10 %\" }";
            say(places.operation, problem.to_owned());
        }
        (Some(_), Some(place)) if !nightly => {
            say(place, "only operation = \"nightly\" has nights".to_owned());
        }
        (Some(nights), Some(place)) if !(1..=NIGHTS_MAX).contains(&nights.count) => {
            say(place, format!("count must be from 1 to {NIGHTS_MAX}"));
        }
        _ => {}
    }
    if let Some(place) = places.sweep.clone().filter(|_| nightly) {
        found.push((place, "a nightly scenario goes along its nights: leave the sweep out".to_owned()));
    }
    found
}

#[cfg(test)]
mod test {
    use crate::scenario::parse;

    const GOOD: &str = include_str!("../../../scenarios/nightly.toml");

    fn error_of(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the scenario has no {from:?}");
        parse("n.toml", &GOOD.replace(from, to), &|_| Ok(())).unwrap_err().to_string()
    }

    #[test]
    fn a_week_of_nights_is_a_scenario() {
        let nights = parse("n.toml", GOOD, &|_| Ok(())).unwrap().scenario.nights.unwrap();
        assert_eq!(nights.count, 7);
        assert!(nights.changed.0 > 0.0);
    }

    #[test]
    fn what_makes_no_nights_is_refused_with_what_would() {
        for (from, to, word) in [
            ("\"real\"", "\"virtual\"", "mode = \"real\""),
            ("\"nightly\"", "\"save\"", "operation = \"nightly\""),
            ("count = 7", "count = 0", "count must be from 1"),
            ("count = 7", "count = 101", "count must be from 1"),
            ("[nights]\ncount = 7\nchanged = \"10 %\"", "", "nights = {"),
            ("[hosts]", "[sweep]\nparameter = \"seed\"\nvalues = [1]\n[hosts]", "leave the sweep out"),
        ] {
            let error = error_of(from, to);
            assert!(error.starts_with("n.toml:") && error.contains(word), "{to:?}: {error}");
        }
    }

    #[test]
    fn nights_without_the_operation_are_refused() {
        let text = GOOD.replace("\"nightly\"", "\"save\"").replace(", \"comio-increment\"", "");
        let text = &text[..text.find("[[expect]]").unwrap_or(text.len())];
        let error = parse("n.toml", text, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("only operation"), "{error}");
    }
}
