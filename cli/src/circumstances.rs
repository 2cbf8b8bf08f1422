//! What results depend on besides the scenario: program, machine, time.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use comio_simulator::report::Circumstances;

/// Of a run that took so long and ends now.
#[expect(clippy::disallowed_methods, reason = "when a run ended is noted beside its results")]
pub(crate) fn now(wall_s: f64) -> Circumstances {
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Circumstances {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("COMIO_COMMIT").unwrap_or("unknown").to_owned(),
        machine: machine(),
        ended_unix_s: ended.as_secs(),
        wall_s,
    }
}

/// Processor, cores, memory and system, as far as the kernel tells.
fn machine() -> String {
    let value = |file: &str, key: &str| value_of(&fs::read_to_string(file).ok()?, key);
    let processor = value("/proc/cpuinfo", "model name");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = value("/proc/meminfo", "MemTotal").map(|memory| format!(", {memory} of memory"));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} ({}), {cores} cores{}, {} {}",
        processor.as_deref().unwrap_or("unknown processor"),
        std::env::consts::ARCH,
        memory.unwrap_or_default(),
        std::env::consts::OS,
        release.trim()
    )
}

/// The value of the first `key : value` line of that key.
fn value_of(text: &str, key: &str) -> Option<String> {
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC: a processor\nmodel\t\t: 1\n";
        assert_eq!(value_of(text, "model name").as_deref(), Some("AMD EPYC: a processor"));
        assert_eq!(value_of(text, "flags"), None);
    }
}
