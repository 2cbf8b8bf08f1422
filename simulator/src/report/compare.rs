//! Two result sets side by side: what moved.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::LoadError;

/// A figure that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Which run, or the whole scenario.
    pub run: String,
    /// Which figure.
    pub field: String,
    /// What it was; `None` if there was none.
    pub before: Option<Value>,
    /// What it is; `None` if there is none any more.
    pub now: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{}: {} was {}, is {}", self.run, self.field, text(&self.before), text(&self.now))?;
        let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
        match (number(&self.before), number(&self.now)) {
            (Some(before), Some(now)) if before != 0.0 => {
                write!(f, " ({:+.2} %)", (now / before - 1.0) * 100.0)
            }
            _ => Ok(()),
        }
    }
}

/// What differs between two `results.json`; nothing for equal ones.
///
/// # Errors
/// [`LoadError`] when one of them is not a result file.
pub fn compare(before: &[u8], now: &[u8]) -> Result<Vec<Difference>, LoadError> {
    let (before, now) = (fields(before)?, fields(now)?);
    let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    let differs = |key: &&(String, String)| before.get(*key) != now.get(*key);
    let difference = |key: &(String, String)| Difference {
        run: key.0.clone(),
        field: key.1.clone(),
        before: before.get(key).cloned(),
        now: now.get(key).cloned(),
    };
    Ok(keys.filter(differs).map(difference).collect())
}

type Fields = BTreeMap<(String, String), Value>;

/// Every figure under its run and name.
fn fields(json: &[u8]) -> Result<Fields, LoadError> {
    let malformed = |error: serde_json::Error| LoadError::malformed("results.json", &error);
    let document: BTreeMap<String, Value> = serde_json::from_slice(json).map_err(malformed)?;
    let mut fields = Fields::new();
    for (name, value) in document {
        match value {
            Value::Array(runs) if name == "runs" => runs.iter().for_each(|run| add_run(run, &mut fields)),
            other => drop(fields.insert(("the scenario".to_owned(), name), other)),
        }
    }
    Ok(fields)
}

fn add_run(run: &Value, fields: &mut Fields) {
    let text = |key: &str| run.get(key).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
    let label: Vec<String> = ["operation", "method", "point"]
        .into_iter()
        .filter_map(|key| text(key).filter(|text| text != "null"))
        .collect();
    add(&label.join(" "), "", run, fields);
}

/// Adds the figures of `value`, nested ones by their path.
fn add(run: &str, path: &str, value: &Value, fields: &mut Fields) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                add(run, &path, member, fields);
            }
        }
        other => drop(fields.insert((run.to_owned(), path.to_owned()), other.clone())),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::Results;
    use crate::report::test::{results, swept};

    fn json(results: &Results) -> Vec<u8> {
        results.files().unwrap().swap_remove(0).contents
    }

    #[test]
    fn equal_results_do_not_differ() {
        assert_eq!(compare(&json(&swept()), &json(&swept())), Ok(Vec::new()));
    }

    #[test]
    fn what_moved_is_told_with_its_share() {
        let mut now = swept();
        now.runs[4].makespan_s *= 1.1;
        let found = compare(&json(&swept()), &json(&now)).unwrap();
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(text.starts_with("save raw 2: makespan_s was 20.0, is 22"), "{text}");
        assert!(text.ends_with("(+10.00 %)"), "{text}");
    }

    #[test]
    fn runs_that_came_or_went_differ() {
        let mut now = results();
        now.runs.pop();
        let found = compare(&json(&results()), &json(&now)).unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| one.now.is_none() && one.run == "restore comio"));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(compare(b"[]", b"{}").is_err());
    }
}
