//! All guests of a host, through an `xl` that fails where it is told to.

mod common;

use std::fs;

use common::host::{GUEST, Host, UUID, signal, wait_until, words};

/// A host with two guests more.
fn busy() -> Host {
    let host = Host::new();
    host.add(8, "mail", "-b----", "11111111-2222-4333-8444-555555555556");
    host.add(9, "build", "-b----", "11111111-2222-4333-8444-555555555557");
    host
}

#[test]
fn all_guests_are_saved_but_those_left_out() {
    let host = busy();
    let images = host.place.path("images");
    let report = host.done_json(&["save", "--all", "--exclude", "build", "--json", &images]);
    assert_eq!((&report["done"], &report["failed"], &report["left_out"]), (&2.into(), &0.into(), &1.into()));
    assert_eq!(host.images(), ["mail.comio", "web.comio"]);
    assert!(host.runs("build"));
    assert_eq!((host.state("mail"), host.state(GUEST)), (None, None));
}

#[test]
fn one_guests_failure_stops_no_other() {
    let host = busy();
    host.add(8, "mail", "---s--", "11111111-2222-4333-8444-555555555556");
    let output = host.run(&["save", "--all", "--json", &host.place.path("images")]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["done"], &report["failed"]), (&2.into(), &1.into()));
    assert_eq!(host.images(), ["build.comio", "web.comio"]);
}

#[test]
fn one_guests_parent_is_not_all_guests() {
    let host = busy();
    let output = host.run(&["save", "--all", "--parent", "any.comio", &host.place.path("images")]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(host.images().is_empty() && host.runs("mail"));
}

/// A signal stops the whole host's save, not only the guests in hand.
#[test]
fn a_signal_begins_no_further_guest() {
    let host = busy();
    // The calls: list; then for the first guest list, save.
    let args = ["save", "--all", "--jobs", "1", &host.place.path("images")];
    let mut saving = host.start_until(&args, "3 middle").expect("saves");
    signal(&saving, "-TERM");
    host.go();
    wait_until("the end", || saving.try_wait().expect("a child").is_some());
    assert_eq!(saving.wait().expect("a child").code(), Some(130));
    let saves = host.calls().into_iter().filter(|call| call.contains(" save ")).count();
    assert_eq!(saves, 1, "{:?}", host.calls());
    for guest in [GUEST, "mail", "build"] {
        assert!(host.runs(guest), "{guest}");
    }
    assert!(host.images().is_empty(), "{:?}", host.images());
}

#[test]
fn what_happens_at_the_deadline_is_the_users_choice() {
    for (choice, outcome) in [("keep-running", "deadline"), ("shutdown", "shut-down")] {
        let host = Host::new();
        let config = host.place.path("host.toml");
        fs::write(&config, format!("on_deadline = \"{choice}\"\n")).expect("writable");
        let images = host.place.path("images");
        let mut command = host.comio();
        command.args(["save", "--all", "--deadline", "1s", "--json", "--config", &config, &images]);
        host.set("stop-at", "3 middle");
        let saving =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
        let mut saving = saving.expect("the program starts");
        let mut said = String::new();
        let mut stderr = std::io::BufReader::new(saving.stderr.take().expect("piped"));
        while !said.contains("deadline") {
            let read = std::io::BufRead::read_line(&mut stderr, &mut said).expect("readable");
            assert!(read > 0, "{said}");
        }
        host.go();
        let output = saving.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(1));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["guests"][0]["outcome"], outcome);
        assert_eq!(host.runs(GUEST), choice == "keep-running");
        assert!(host.images().is_empty(), "{:?}", host.images());
    }
}

#[test]
fn a_guest_is_left_out_by_name_number_or_uuid_and_a_wrong_word_is_told() {
    let images = |host: &Host| host.place.path("images");
    for domain in ["build", "9", "11111111-2222-4333-8444-555555555557"] {
        let host = busy();
        host.done_json(&["save", "--all", "--exclude", domain, "--json", &images(&host)]);
        assert_eq!(host.images(), ["mail.comio", "web.comio"], "{domain}");
        assert!(host.runs("build"), "{domain}");
    }
    let host = busy();
    let told = host.fails(&["save", "--all", "--exclude", "bulid", &images(&host)]);
    assert!(told.contains("--exclude") && told.contains("bulid"), "{told}");
    assert!(host.images().is_empty() && host.runs(GUEST));
}

#[test]
fn a_slow_guest_keeps_no_other_from_being_begun() {
    let host = busy();
    host.add(10, "news", "-b----", "11111111-2222-4333-8444-555555555558");
    let args = ["save", "--all", "--jobs", "2", &host.place.path("images")];
    let mut saving = host.start_until(&args, "save middle").expect("saves");
    let visible = || host.images().iter().filter(|name| !name.starts_with('.')).count();
    wait_until("the others", || visible() == 3);
    host.go();
    assert!(saving.wait().expect("a child").success());
    assert_eq!(visible(), 4);
}

/// The next start of the host would restore it over newer disks.
#[test]
fn an_older_image_of_a_guest_that_could_not_be_saved_is_used() {
    let host = Host::new();
    let images = host.place.path("images");
    host.done_json(&["save", "--all", "--json", &images]);
    // Not restored but started anew.
    host.add(8, GUEST, "-b----", UUID);
    host.set("deaf", "");
    let told = host.fails(&["save", "--all", &images]);
    assert!(told.contains("older image is marked as used"), "{told}");
    assert!(host.runs(GUEST));
    host.clear("domains/8");
    assert!(host.fails(&["restore", &host.image("web.comio")]).contains("must not be restored"));
}

/// What it rests on may be elsewhere: that is no reason to leave it unmarked.
#[test]
fn an_older_image_whose_parent_is_elsewhere_is_used_too() {
    let host = Host::new();
    let (base, image) = (host.image("base.comio"), host.image("web.comio"));
    let mut stream = fs::read(host.place.path("xen/stream")).expect("readable");
    let page = stream.windows(4096).position(|bytes| bytes == [2; 4096]).expect("a page of twos");
    (0..4096usize).for_each(|i| stream[page + i] = (i % 251).to_le_bytes()[0]);
    host.set("stream", stream);
    host.done_json(&["checkpoint", "--json", GUEST, &base]);
    let report = host.done_json(&["save", "--json", "--parent", &base, GUEST, &image]);
    assert!(report["referenced_pages"].as_u64() > Some(0), "{report}");
    fs::rename(&base, host.place.path("base.comio")).expect("writable");
    host.add(8, GUEST, "-b----", UUID);
    host.set("deaf", "");
    let told = host.fails(&["save", "--all", &host.place.path("images")]);
    assert!(told.contains("older image is marked as used"), "{told}");
}

#[test]
fn the_image_of_a_guest_that_could_not_be_destroyed_is_not_used() {
    let host = Host::new();
    host.set("fail-destroy", "");
    host.fails(&["save", "--all", &host.place.path("images")]);
    assert_eq!(host.images(), ["web.comio"]);
    // As after the host's end: the guest is gone, and never ran since.
    host.clear("domains/7");
    host.run(&["recover"]);
    host.done_json(&["restore", "--json", &host.image("web.comio")]);
    assert!(host.runs(GUEST));
}

/// A guest whose save failed is as unsaved as one for which there was no time; but a directory that
/// was named by hand may be a wrong one.
#[test]
fn a_guest_whose_save_failed_is_shut_down_if_the_host_wants_that() {
    for by_hand in [false, true] {
        let host = busy();
        let (config, images) = (host.place.path("host.toml"), host.place.path("images"));
        fs::write(&config, format!("storage = \"{images}\"\non_deadline = \"shutdown\"\n"))
            .expect("writable");
        host.set("deaf", "");
        host.set("unwatched", "");
        host.add(9, "build", "--p---", "11111111-2222-4333-8444-555555555557");
        let mut command = host.comio();
        command.args(["save", "--all", "--config", &config]).args(by_hand.then_some(&images));
        let output = command.output().expect("starts");
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        assert_eq!((host.runs(GUEST), host.runs("mail")), (by_hand, by_hand));
        assert_eq!(host.state("mail").is_some(), by_hand, "nothing of it is left");
        assert_eq!(host.state("build").as_deref(), Some("--p---"), "whoever paused it wants it so");
    }
}
