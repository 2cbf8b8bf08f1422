//! Single pages: how many are coded together, and that they are taken out of images.

use std::ops::Range;

use comio_core::format::entry::UNIT_PAGES_MAX;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Mode, Operation, Scenario};

/// Where the keys stand.
#[derive(Deserialize)]
pub(super) struct Places {
    operation: Spanned<Value>,
    guests: GuestPlaces,
}

#[derive(Deserialize)]
struct GuestPlaces {
    unit: Option<Spanned<Value>>,
}

/// What is wrong with them.
pub(super) fn problems(scenario: &Scenario, places: &Places) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let mut say = |place: &Spanned<Value>, problem: String| found.push((place.span(), problem));
    let modelled = scenario.mode == Mode::Virtual;
    if modelled && scenario.operation == Operation::Extract {
        say(&places.operation, "pages taken out of images are real: set mode = \"real\"".to_owned());
    }
    match &places.guests.unit {
        Some(place) if !(1..=UNIT_PAGES_MAX).contains(&scenario.guests.unit) => {
            say(place, format!("unit must be from 1 to {UNIT_PAGES_MAX} pages"));
        }
        Some(place) if modelled && scenario.guests.unit > 1 => {
            say(place, "pages that are coded together are real: set mode = \"real\"".to_owned());
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod test {
    use crate::scenario::parse;

    const GOOD: &str = include_str!("../../../scenarios/units.toml");

    #[test]
    fn units_that_cannot_be_are_refused_with_what_can() {
        assert!(parse("u.toml", GOOD, &|_| Ok(())).is_ok());
        for (from, to, word) in [
            ("[guests]", "[guests]\nunit = 0", "unit must be from 1 to 16"),
            ("[guests]", "[guests]\nunit = 17", "unit must be from 1 to 16"),
            ("values = [1, 4, 16]", "values = [1, 32]", "unit must be from 1 to 16"),
            ("mode = \"real\"", "mode = \"virtual\"", "set mode = \"real\""),
        ] {
            assert!(GOOD.contains(from), "the scenario has no {from:?}");
            let error = parse("u.toml", &GOOD.replace(from, to), &|_| Ok(())).unwrap_err().to_string();
            assert!(error.starts_with("u.toml:") && error.contains(word), "{to:?}: {error}");
        }
        let text = GOOD.replace("\"real\"", "\"virtual\"").replace("\"extract\"", "\"save\"");
        let error = parse("u.toml", &text, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("coded together"), "{error}");
    }
}
