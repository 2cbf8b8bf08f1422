//! Running the program in tests.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program, ready for arguments.
pub fn comio() -> Command {
    Command::new(env!("CARGO_BIN_EXE_comio"))
}

/// Runs the program with `args`; gives what came out.
pub fn run(args: &[&str]) -> Output {
    comio().args(args).output().expect("the program starts")
}

/// Runs the program, which must succeed; gives its standard output.
pub fn done(args: &[&str]) -> Vec<u8> {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// As [`done`], with the output as JSON.
pub fn done_json(args: &[&str]) -> serde_json::Value {
    serde_json::from_slice(&done(args)).expect("JSON")
}

/// The exit code of the program run with `args`.
pub fn code(args: &[&str]) -> i32 {
    run(args).status.code().expect("no signal")
}

/// A directory for a test, and paths in it as text.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// The names of all files in it, hidden ones too.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").to_owned()
}

/// Real guest memory: the flat dump in the shipped trace `name`, unpacked into `place`.
pub fn real_dump(place: &Place, name: &str) -> String {
    let trace = repository().join("scenarios/traces").join(format!("{name}.comio"));
    let dump = place.path(&format!("{name}.raw"));
    done(&["unpack", trace.to_str().expect("UTF-8"), &dump]);
    dump
}

/// A sample Xen save file.
pub fn sample(name: &str) -> String {
    repository().join("backends/testdata").join(name).to_str().expect("UTF-8").to_owned()
}
