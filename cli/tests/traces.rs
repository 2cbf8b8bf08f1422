//! Traces from the command line: made, listed, checked, and replayed in scenarios.

mod common;

use std::fs;

use common::{Place, code, done, done_json, real_dump, repository, run, sample};

fn stderr(args: &[&str]) -> String {
    String::from_utf8_lossy(&run(args).stderr).into_owned()
}

/// Two moments of a recorded desktop as flat dumps.
fn desktop(place: &Place) -> [String; 2] {
    [real_dump(place, "desktop-0"), real_dump(place, "desktop-1")]
}

/// A trace of these, as `DIR/pc-0.comio` and `DIR/pc-1.comio`.
fn trace(place: &Place) -> [String; 2] {
    let [first, second] = desktop(place);
    let directory = place.path("traces");
    fs::create_dir(&directory).expect("creates");
    let output = format!("{directory}/pc");
    done(&["trace", "make", "--output", &output, "--guest", "my desktop", "--every", "10s", &first, &second]);
    [format!("{output}-0.comio"), format!("{output}-1.comio")]
}

fn pages_of(list: &serde_json::Value, step: usize, class: &str) -> u64 {
    list[0]["steps"][step]["classes"][class].as_u64().unwrap_or(0)
}

#[test]
fn dumps_become_a_trace_whose_steps_are_increments() {
    let place = Place::new();
    let steps = trace(&place);
    for (step, name) in steps.iter().zip(["desktop-0.raw", "desktop-1.raw"]) {
        let out = place.path("out.raw");
        done(&["unpack", step, &out]);
        assert!(fs::read(&out).expect("reads") == fs::read(place.path(name)).expect("reads"));
    }
    let list = done_json(&["trace", "ls", "--json", &place.path("traces")]);
    assert_eq!((&list[0]["name"], &list[0]["guest"]), (&"pc".into(), &"my desktop".into()));
    assert_eq!((&list[0]["every_s"], &list[0]["pages"]), (&10.0.into(), &6144.into()));
    assert_eq!(list[0]["steps"][1]["at_s"], 10.0);
    // As recorded: 285 pages of the second moment differ from the first.
    assert_eq!(pages_of(&list, 0, "same"), 0);
    assert_eq!(pages_of(&list, 1, "same"), 5859);
    let bytes = |step: usize| list[0]["steps"][step]["stored_bytes"].as_u64().expect("a number");
    assert!(bytes(1) * 10 < bytes(0), "{list}");
    let text = String::from_utf8(done(&["trace", "ls", &place.path("traces")])).expect("UTF-8");
    assert!(text.contains("my desktop") && text.contains("95.4 % same"), "{text}");
}

#[test]
fn images_and_save_files_become_steps_too() {
    let place = Place::new();
    let dumps = desktop(&place);
    let packed = [place.path("a.comio"), place.path("b.comio")];
    done(&["pack", &dumps[0], &packed[0]]);
    done(&["pack", "--parent", &packed[0], &dumps[1], &packed[1]]);
    // An image, a dump, and an image that is itself an increment.
    done(&["trace", "make", "--output", &place.path("mixed"), &packed[0], &dumps[1], &packed[1]]);
    assert_eq!(code(&["trace", "check", &place.path("mixed")]), 0);
    let report = done_json(&["inspect", "--json", &place.path("mixed-2.comio")]);
    // Nothing changed between the last two: all rests on the step before or what that rests on.
    let kept: u64 = report["classes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|class| !["same", "zero", "fill"].contains(&class["name"].as_str().expect("text")))
        .map(|class| class["pages"].as_u64().expect("a number"))
        .sum();
    assert_eq!(kept, 0, "{report}");
    let xl = sample("pv.xl");
    done(&["trace", "make", "--output", &place.path("xen"), &xl, &xl]);
    let out = place.path("out.xl");
    done(&["unpack", &place.path("xen-1.comio"), &out]);
    assert!(fs::read(out).expect("reads") == fs::read(&xl).expect("reads"));
}

#[test]
fn what_makes_no_trace_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let [first, second] = desktop(&place);
    let (small, output) = (place.path("small.raw"), place.path("t"));
    fs::write(&small, vec![1; 8192]).expect("writes");
    let make = |inputs: &[&str]| stderr(&[&["trace", "make", "--output", &output], inputs].concat());
    assert!(make(&[&first, &small]).contains("that is another guest"));
    assert!(make(&[&first, &sample("pv.xl")]).contains("of another kind (xl)"));
    assert!(make(&[&first, &place.path("nowhere")]).contains("nowhere"));
    assert_eq!(place.names(), ["desktop-0.raw", "desktop-1.raw", "small.raw"]);
    done(&["trace", "make", "--output", &output, &first]);
    assert!(make(&[&second]).contains("there is a trace \"t\" of 1 steps"));
    assert_eq!(code(&["trace", "make", "--output", &output, "--every", "10", &first]), 2);
}

#[test]
fn checking_tells_damage_and_steps_of_others() {
    let place = Place::new();
    let [first, second] = trace(&place);
    let directory = place.path("traces");
    for good in [&directory, &first, &second, &place.path("traces/pc")] {
        assert_eq!(code(&["trace", "check", good]), 0);
    }
    assert_eq!(code(&["trace", "check", &place.path("")]), 1, "there is none");
    // A whole image, and not of this trace.
    let whole = fs::read(&second).expect("reads");
    done(&["pack", &place.path("desktop-1.raw"), &place.path("full.comio")]);
    fs::copy(place.path("full.comio"), &second).expect("copies");
    let report = run(&["trace", "check", "--json", &directory]);
    assert_eq!(report.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["traces"][0]["steps"][1]["problems"][0], "it rests on no step before it");
    // A byte of a page that the second step needs of the first.
    fs::write(&second, whole).expect("writes");
    let mut damaged = fs::read(&first).expect("reads");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&first, damaged).expect("writes");
    let words = stderr(&["trace", "check", &directory]);
    assert_eq!(code(&["trace", "check", &directory]), 3);
    assert!(words.contains("pc-0.comio: ") && words.contains("pc-1.comio: "), "{words}");
    fs::remove_file(&first).expect("removes");
    let words = stderr(&["trace", "check", &directory]);
    assert!(words.contains("pc: pc-0.comio is missing"), "{words}");
}

#[test]
fn the_shipped_traces_are_whole() {
    let shipped = repository().join("scenarios/traces");
    let shipped = shipped.to_str().expect("UTF-8");
    assert_eq!(code(&["trace", "check", shipped]), 0);
    let list = done_json(&["trace", "ls", "--json", shipped]);
    let bytes: u64 = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|trace| trace["stored_bytes"].as_u64().unwrap_or(0))
        .sum();
    assert!(bytes < 40 << 20, "{bytes} bytes of traces are too many for the repository");
}

const SCENARIO: &str = r#"
name = "replay"
question = "Does a step that is an increment replay?"
mode = "MODE"
seed = 5
operation = "save-then-restore"
methods = ["raw", "comio"]

[guests]
count = 2
memory = "8 MiB"
traces = ["TRACE"]

[[expect]]
method = "comio"
ratio-min = 1.5
"#;

#[test]
fn steps_replay_in_scenarios_from_any_directory() {
    let place = Place::new();
    trace(&place);
    fs::rename(place.path("traces"), place.path("recorded")).expect("renames");
    let (file, output, elsewhere) = (place.path("s.toml"), place.path("results"), place.path("recorded"));
    for mode in ["virtual", "real"] {
        let text = |trace: &str| SCENARIO.replace("MODE", mode).replace("TRACE", trace);
        fs::write(&file, text("pc-1")).expect("writes");
        let words = stderr(&["scenario", "check", &file]);
        assert!(words.contains("s.toml:12:") && words.contains("--traces"), "{words}");
        assert_eq!(code(&["scenario", "check", "--traces", &elsewhere, &file]), 0);
        let by_option =
            done_json(&["scenario", "run", "--json", "--output", &output, "--traces", &elsewhere, &file]);
        fs::write(&file, text("recorded/pc-1")).expect("writes");
        let by_path = done_json(&["scenario", "run", "--json", "--output", &output, &file]);
        for run in [&by_option, &by_path].into_iter().flat_map(|all| all["runs"].as_array().expect("runs")) {
            assert_eq!((&run["identical"], &run["guest_bytes"]), (&true.into(), &(16 << 20).into()), "{run}");
        }
        let stored = |all: &serde_json::Value| all["runs"][2]["stored_bytes"].as_u64().expect("a number");
        assert!(mode == "real" || stored(&by_option) == stored(&by_path));
    }
}
