//! Scenarios in real mode against nfs-ganesha. Needs root and what `ci/nfs` installs, which runs it.
#![expect(clippy::print_stdout, reason = "a test that is left out says so")]

use std::fs;

use comio_backends::netns::{Export, Lab, Plan};

use crate::common::{Place, comio, done_json, repository};

const SCENARIO: &str = r#"
name = "small"
question = "Does it work?"
mode = "real"
operation = "save-then-restore"
methods = ["raw", "comio"]

[guests]
count = 2
memory = "8 MiB"
traces = ["idle-0"]

[hosts]
count = 2

[server]
location = "LOCATION"
link = "200 Mbit/s"
"#;

/// Whether tests with nfs-ganesha are wanted; says so if not.
fn is_wanted() -> bool {
    let wanted = std::env::var_os("COMIO_GANESHA").is_some();
    if !wanted {
        println!("skipped: needs nfs-ganesha and root; ci/nfs runs it");
    }
    wanted
}

/// The runs of the scenario against that server.
fn runs(location: &str, more: &[&str]) -> Vec<serde_json::Value> {
    let place = Place::new();
    let (file, output) = (place.path("small.toml"), place.path("results"));
    fs::write(&file, SCENARIO.replace("LOCATION", location)).expect("writable");
    let traces = repository().join("scenarios/traces");
    let traces = traces.to_str().expect("UTF-8");
    let words = ["scenario", "run", &file, "--traces", traces, "--output", &output, "--json"];
    let results = done_json(&[&words, more].concat());
    let runs = results["runs"].as_array().expect("a list").clone();
    assert_eq!(runs.len(), 4, "two methods, saving and restoring");
    assert!(runs.iter().all(|run| run["identical"] == true), "{runs:?}");
    runs
}

/// Links of network namespaces carry what the scenario says, not what this machine can.
#[test]
fn a_scenario_runs_over_links_of_network_namespaces() {
    if !is_wanted() {
        return;
    }
    for run in runs("embedded", &["--netns"]).iter().filter(|run| run["method"] == "raw") {
        // 16 MiB at 25 MB/s; a token bucket lets the first few hundred KiB through.
        assert!(run["makespan_s"].as_f64().expect("a number") > 0.6, "{run}");
    }
}

/// The server of an URL is used, is left running, and holds nothing afterwards.
#[test]
fn a_scenario_runs_on_a_server_that_was_there() {
    if !is_wanted() {
        return;
    }
    let plan = Plan {
        exports: vec![Export::OPEN],
        size_bytes: 128 << 20,
        hosts: 1,
        server_link: None,
        host_link: None,
    };
    let lab = Lab::start(plan).expect("starts");
    let url = lab.url(0, "/open", "");
    runs(&url, &[]);
    let listed = comio().args(["ls", &url]).output().expect("starts");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let left = fs::read_dir(lab.path("open")).expect("readable").count();
    assert_eq!(left, 0, "images are removed");
}
