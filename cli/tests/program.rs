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
    let circumstances = fs::read(format!("{output}/circumstances.json")).expect("written");
    let circumstances: serde_json::Value = serde_json::from_slice(&circumstances).expect("JSON");
    let commit = circumstances["commit"].as_str().expect("a text");
    assert!(commit == "unknown" || commit.len() == 40, "{commit}");
    assert!(circumstances["machine"].as_str().expect("a text").contains("cores, "), "{circumstances}");
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

/// The bench reads dumps and images, writes what it is told to, and its levels give pages back.
#[test]
fn the_codec_bench_writes_tables_figures_and_plots() {
    let place = Place::new();
    let (dump, image) = (place.path("text.raw"), place.path("image.comio"));
    let mut text = fs::read(repository().join("LICENSE")).expect("shipped").repeat(20);
    text.truncate(text.len() / 4096 * 4096);
    fs::write(&dump, &text).expect("written");
    done(&["pack", &dump, &image]);
    let (csv, svg) = (place.path("figures.csv"), place.path("plots"));
    let told = done(&["bench", "codec", "--rounds", "1", "--csv", &csv, "--svg", &svg, &dump, &image]);
    let told = String::from_utf8(told).expect("text");
    for title in ["Units of 64 pages", "front", "output bandwidth", "zeros"] {
        assert!(told.contains(title), "{title}: {told}");
    }
    let figures = fs::read_to_string(&csv).expect("written");
    assert!(figures.starts_with("set,coder,level,unit_pages,ratio,compress_mb_s,decompress_mb_s\n"));
    for row in [
        "text,lz4,8,1,",
        "image,zstd,-1,16,",
        "mean,ecbc,turbo,1,",
        "text,wkdm,,1,",
        "mean,memcpy,,64,1.0000,",
    ] {
        assert!(figures.contains(row), "{row}: {figures}");
    }
    // An image holds the pages that the dump had: the ratios are the same.
    let ratio = |row: &str| {
        let line = figures.lines().find(|line| line.starts_with(row)).expect("measured");
        line.split(',').nth(4).map(str::to_owned)
    };
    assert_eq!(ratio("text,ecbc,balanced,1,"), ratio("image,ecbc,balanced,1,"));
    assert!(fs::read_to_string(format!("{svg}/codec-1.svg")).expect("drawn").contains("<svg"));
}
