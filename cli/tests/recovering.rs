//! What `comio recover` leaves behind: marks on images, guests that cannot be let run, xl still at work.

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::host::{GUEST, Host, UUID, kill_9, wait_until};

/// A host whose restore was killed when all of the guest was there; nobody has let it run.
fn restored_but_not_started() -> Host {
    let host = Host::new();
    host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
    // The calls: list, restore.
    let restoring = host.start_until(&["restore", &host.image("web.comio")], "2 middle");
    kill_9(restoring.expect("restores"));
    host.go();
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"));
    host
}

fn outcome(host: &Host, args: &[&str]) -> String {
    let done = host.done_json(&[&["recover", "--json"], args].concat());
    done[0]["outcome"].as_str().expect("text").to_owned()
}

fn is_refused(host: &Host) -> bool {
    host.fails(&["restore", &host.image("web.comio")]).contains("must not be restored")
}

#[test]
fn an_image_stays_used_once_recover_has_said_that_its_guest_may_run() {
    for runs_meanwhile in [true, false] {
        let host = restored_but_not_started();
        assert_eq!(outcome(&host, &[]), "not-started");
        host.add(20, GUEST, "-b----", UUID);
        if runs_meanwhile {
            assert_eq!(outcome(&host, &[]), "runs");
        }
        host.clear("domains/20");
        host.run(&["recover"]);
        assert!(host.journal().is_empty());
        assert!(is_refused(&host), "runs meanwhile: {runs_meanwhile}");
    }
}

#[test]
fn an_image_is_used_when_its_guest_was_let_run_without_recover() {
    let host = restored_but_not_started();
    host.add(20, GUEST, "-b----", UUID);
    assert_eq!(outcome(&host, &[]), "runs");
    host.clear("domains/20");
    assert!(is_refused(&host));
}

#[test]
fn an_image_whose_guest_was_removed_before_it_ran_can_be_restored() {
    let host = restored_but_not_started();
    assert_eq!(outcome(&host, &[]), "not-started");
    assert_eq!(outcome(&host, &["--finish"]), "removed-half-made");
    host.done_json(&["restore", "--json", &host.image("web.comio")]);
    assert!(host.runs(GUEST));
}

/// The memory runs out and takes xl, which would have resumed the guest.
#[test]
fn a_guest_whose_xl_was_killed_is_resumed_or_stays_in_the_journal() {
    for resumable in [true, false] {
        let host = Host::new();
        if !resumable {
            host.set("fail-resume", "");
        }
        let saving = host.start_until(&["save", GUEST, &host.image("web.comio")], "3 middle").expect("saves");
        host.clear("stop-at");
        let entry = fs::read(host.place.path(&format!("state/journal/{UUID}.json"))).expect("readable");
        let entry: serde_json::Value = serde_json::from_slice(&entry).expect("JSON");
        let kill = Command::new("kill").args(["-9", &entry["xl"]["pid"].to_string()]).status();
        assert!(kill.expect("kill").success());
        host.clear("working-3");
        let output = saving.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(host.runs(GUEST), resumable);
        assert_eq!(host.journal().len(), usize::from(!resumable));
        if resumable {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("could not be resumed") && said.contains("xl destroy"), "{said}");
        let again = host.fails(&["recover"]);
        assert!(again.contains("xl destroy"), "{again}");
        assert_eq!(host.journal().len(), 1);
        host.clear("fail-resume");
        assert_eq!(outcome(&host, &[]), "unpaused");
        assert!(host.runs(GUEST) && host.journal().is_empty());
    }
}

/// An xl whose comio was killed ends by itself, and only then it is known what it leaves.
#[test]
#[expect(clippy::disallowed_methods, reason = "time for the program to come to its wait")]
fn recover_waits_for_the_xl_of_a_killed_process() {
    let host = Host::new();
    let saving = host.start_until(&["save", GUEST, &host.image("web.comio")], "3 after").expect("saves");
    host.clear("stop-at");
    kill_9(saving);
    let mut recover = host.comio();
    let recover = recover.args(["recover", "--json"]).stdout(Stdio::piped()).spawn().expect("starts");
    let begun = Instant::now();
    wait_until("a while to be over", || begun.elapsed() > Duration::from_millis(500));
    host.go();
    let output = recover.wait_with_output().expect("a child");
    assert!(output.status.success());
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(done[0]["outcome"], "unpaused");
    assert!(host.runs(GUEST) && host.journal().is_empty());
}
