//! One parameter that takes several values.

use std::collections::BTreeSet;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Spanned, Table, Value};

/// The most values of a sweep.
const VALUES_MAX: usize = 200;

/// The `[sweep]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sweep {
    /// A key of the scenario, with dots: `guests.count`.
    pub parameter: String,
    /// What it is set to, one after the other.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub values: Vec<Value>,
}

/// Where they stand.
#[derive(Deserialize)]
pub(super) struct SweepPlaces {
    pub(super) parameter: Spanned<Value>,
    pub(super) values: Spanned<Vec<Spanned<Value>>>,
}

impl Sweep {
    /// Whether the sweep can be run at all; else where, and what would be right.
    pub(super) fn problem(&self, places: &SweepPlaces) -> Option<(Range<usize>, String)> {
        if let Some(problem) = self.parameter_problem() {
            return Some((places.parameter.span(), problem));
        }
        if self.values.is_empty() || self.values.len() > VALUES_MAX {
            let problem = format!("give from 1 to {VALUES_MAX} values, for example [1, 2, 4]");
            return Some((places.values.span(), problem));
        }
        let mut seen = BTreeSet::new();
        let mut values = self.values.iter().zip(places.values.get_ref());
        let (value, place) = values.find(|(value, _)| !seen.insert(self.label(value)))?;
        let problem = format!("{} is named twice: name each value once", self.label(value));
        Some((place.span(), problem))
    }

    fn parameter_problem(&self) -> Option<String> {
        let parameter = &self.parameter;
        if parameter.is_empty() || parameter.split('.').any(str::is_empty) {
            return Some("name a key of this scenario, with dots, for example \"guests.count\"".to_owned());
        }
        match parameter.split('.').next() {
            Some("sweep" | "expect") => Some(format!("{parameter} cannot be swept: name another key")),
            Some("mode") => Some(
                "mode cannot be swept: run the scenario once in each mode, with --set mode=real".to_owned(),
            ),
            _ => None,
        }
    }

    /// `scenario` with the parameter set to `value` and without the sweep; else what is wrong with
    /// the parameter.
    pub(super) fn apply(&self, scenario: &Table, value: &Value) -> Result<Table, String> {
        let mut table = scenario.clone();
        table.remove("sweep");
        // They are about all points together.
        table.remove("expect");
        set(&mut table, &self.parameter, value)?;
        Ok(table)
    }

    /// The name of the point at which the parameter is `value`.
    pub fn label(&self, value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// Whether one of two keys is the other, or in it.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    one.split('.').zip(other.split('.')).all(|(one, other)| one == other)
}

/// Sets a key, with dots, to `value`; else tells what is wrong with the key.
pub(super) fn set(scenario: &mut Table, key: &str, value: &Value) -> Result<(), String> {
    let mut parts = key.split('.');
    let mut walked = parts.next().unwrap_or_default().to_owned();
    let mut place = entry(scenario, &walked);
    for part in parts {
        place = step(place, part, &walked)?;
        walked = format!("{walked}.{part}");
    }
    *place = value.clone();
    Ok(())
}

/// The part of `place`, which is called `walked`.
fn step<'a>(place: &'a mut Value, part: &str, walked: &str) -> Result<&'a mut Value, String> {
    match place {
        Value::Table(table) => Ok(entry(table, part)),
        Value::Array(list) if list.is_empty() => Err(format!("{walked} is empty: it has no {part}")),
        Value::Array(list) => {
            let last = list.len() - 1;
            let found = part.parse().ok().and_then(|index: usize| list.get_mut(index));
            found.ok_or_else(|| format!("{walked} is a list: name one of {walked}.0 to {walked}.{last}"))
        }
        _ => Err(format!("{walked} has no keys: name it without .{part}")),
    }
}

/// The value of a key, made if there is none.
fn entry<'a>(table: &'a mut Table, key: &str) -> &'a mut Value {
    table.entry(key).or_insert_with(|| Value::Table(Table::new()))
}
