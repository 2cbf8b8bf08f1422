//! One parameter that takes several values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

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

impl Sweep {
    /// Whether the sweep can be run at all; else what would be right.
    pub(super) fn problem(&self) -> Option<String> {
        if self.parameter.is_empty() || self.parameter.split('.').any(str::is_empty) {
            return Some("name a key of this scenario, with dots, for example \"guests.count\"".to_owned());
        }
        if self.parameter.starts_with("sweep") || self.parameter.starts_with("expect") {
            return Some(format!("{} cannot be swept", self.parameter));
        }
        if self.values.is_empty() || self.values.len() > VALUES_MAX {
            return Some(format!("give from 1 to {VALUES_MAX} values, for example [1, 2, 4]"));
        }
        None
    }

    /// `scenario` with the parameter set to `value` and without the sweep.
    pub(super) fn apply(&self, scenario: &Table, value: &Value) -> Option<Table> {
        let mut table = scenario.clone();
        table.remove("sweep");
        // They are about all points together.
        table.remove("expect");
        set(&mut table, &self.parameter, value)?;
        Some(table)
    }

    /// The name of the point at which the parameter is `value`.
    pub fn label(&self, value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// Sets a key, with dots, to `value`; `None` if a part of it is no table.
pub(super) fn set(scenario: &mut Table, key: &str, value: &Value) -> Option<()> {
    let mut keys: Vec<&str> = key.split('.').collect();
    let last = keys.pop()?;
    let mut place = scenario;
    for key in keys {
        place = place.entry(key).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
    }
    place.insert(last.to_owned(), value.clone());
    Some(())
}
