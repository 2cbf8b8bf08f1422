//! The program around its commands: signals, scenarios, manual.

mod common;

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, comio, done, repository};

/// A pack that waits for its input is stopped by SIGTERM within a second, leaving nothing.
#[test]
#[expect(clippy::disallowed_methods, reason = "the time until the program ends is what is tested")]
fn sigterm_stops_within_a_second() {
    let place = Place::new();
    let mut packing =
        comio().args(["pack", "-", &place.path("x.comio")]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut input = packing.stdin.take().expect("piped");
    // More than a pipe holds: once it is written, the program has begun to read.
    input.write_all(&vec![1; 1 << 20]).expect("read");
    let started = Instant::now();
    let pid = packing.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    let status = packing.wait().expect("ends");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(130));
    assert!(place.names().is_empty(), "{:?}", place.names());
}

const SCENARIO: &str = r#"
name = "small"
question = "Does it work?"
mode = "real"
seed = 5
operation = "save-then-restore"
methods = ["raw", "comio"]

[guests]
count = 2
memory = "8 MiB"
traces = ["idle-0"]

[[expect]]
method = "comio"
ratio-min = RATIO
"#;

#[test]
fn a_scenario_gives_results_and_checks_its_expectations() {
    let place = Place::new();
    let traces = repository().join("scenarios/traces");
    std::os::unix::fs::symlink(traces, place.path("traces")).expect("writable");
    let (file, output) = (place.path("small.toml"), place.path("results"));
    for (ratio, code) in [("1.5", 0), ("1000.0", 4)] {
        fs::write(&file, SCENARIO.replace("RATIO", ratio)).expect("writable");
        let ran = comio().args(["scenario", "run", &file, "--output", &output]).output().expect("starts");
        assert_eq!(ran.status.code(), Some(code), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(format!("{output}/results.json")).expect("written")).expect("JSON");
    let runs = results["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 4);
    for run in runs {
        assert_eq!(run["identical"], true, "{run}");
        assert_eq!(run["guest_bytes"], 16 << 20, "{run}");
    }
    let svgs = fs::read_dir(&output).expect("written").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|kind| kind == "svg"))
    });
    assert!(svgs.count() > 0);
}

#[test]
fn completions_and_man_pages_are_generated() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(!done(&["completions", shell]).is_empty());
    }
    done(&["man", "--output", &place.path("man")]);
    assert!(fs::read(place.path("man/comio-pack.1")).expect("written").starts_with(b".ie"));
}
