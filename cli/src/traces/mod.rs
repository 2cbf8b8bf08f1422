//! Traces on disk: a guest at several moments, one image each.
//!
//! The steps of the trace NAME are the images `NAME-0.comio`, `NAME-1.comio`, … of one
//! directory. The first is whole, each further one was saved upon the one before. When they
//! were taken, and of whom, stands beside them in `NAME.trace.json`, as far as it is known;
//! a trace without that file is one all the same.

mod notes;
mod writer;

use std::collections::BTreeMap;

use comio_core::storage::{ObjectInfo, Storage, StorageError};

pub(crate) use notes::Notes;
#[cfg(feature = "xen")]
pub(crate) use notes::Recorded;
pub(crate) use writer::TraceWriter;

/// What the names of steps end in.
const ENDING: &str = ".comio";

/// A trace that was found in a directory.
pub(crate) struct Found {
    /// Its name.
    pub(crate) name: String,
    /// Its steps by number, without those that are missing.
    pub(crate) steps: BTreeMap<u32, ObjectInfo>,
}

/// The file of a step.
pub(crate) fn step_name(trace: &str, step: u32) -> String {
    format!("{trace}-{step}{ENDING}")
}

/// The trace and the number of the step in the file `name`, if it is one.
pub(crate) fn parse_step_name(name: &str) -> Option<(&str, u32)> {
    let (trace, number) = name.strip_suffix(ENDING)?.rsplit_once('-')?;
    let step: u32 = number.parse().ok()?;
    // One name for each step: no signs, no leading zeros.
    (!trace.is_empty() && step.to_string() == number).then_some((trace, step))
}

/// The traces in `storage`, by name.
pub(crate) async fn find(storage: &dyn Storage) -> Result<Vec<Found>, StorageError> {
    let mut traces: BTreeMap<String, BTreeMap<u32, ObjectInfo>> = BTreeMap::new();
    for object in storage.list().await? {
        if let Some((trace, step)) = parse_step_name(&object.name) {
            traces.entry(trace.to_owned()).or_default().insert(step, object);
        }
    }
    Ok(traces.into_iter().map(|(name, steps)| Found { name, steps }).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn steps_have_one_name_each() {
        assert_eq!(parse_step_name(&step_name("web-server", 12)), Some(("web-server", 12)));
        for name in ["a-01.comio", "a-+1.comio", "a-.comio", "-1.comio", "a.comio", "a-1", "a-1.raw"] {
            assert_eq!(parse_step_name(name), None, "{name}");
        }
    }
}
