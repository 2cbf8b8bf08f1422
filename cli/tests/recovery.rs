//! The program killed by SIGKILL at each of its calls of xl, before, in and after it: no guest is
//! lost, and `comio recover` puts right what is left.

mod common;

use std::fs;

use common::host::{GUEST, Host, UUID, kill_9};

const POINTS: [&str; 3] = ["before", "middle", "after"];

/// More calls than any command makes.
const CALLS_MAX: u32 = 20;

/// Kills `args` at every point; `check` gets the host with no process left at work. Gives the
/// number of points.
fn kill_everywhere(
    prepare: impl Fn() -> Host,
    args: impl Fn(&Host) -> Vec<String>,
    check: impl Fn(&Host, &str),
) -> usize {
    let mut points = 0;
    for call in 1..CALLS_MAX {
        let mut reached = false;
        for point in POINTS {
            let host = prepare();
            let point = format!("{call} {point}");
            let args = args(&host);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            if let Some(child) = host.start_until(&args, &point) {
                reached = true;
                points += 1;
                kill_9(child);
                host.go();
                check(&host, &point);
            }
        }
        if !reached {
            return points;
        }
    }
    panic!("the program makes more calls than {CALLS_MAX}")
}

fn save(host: &Host) -> Vec<String> {
    ["save", GUEST, &host.image("web.comio")].map(ToOwned::to_owned).to_vec()
}

/// The guest is there, or its whole image is.
fn assert_not_lost(host: &Host, point: &str) {
    let published = host.images().contains(&"web.comio".to_owned());
    assert!(host.state(GUEST).is_some() || host.is_whole("web.comio"), "lost at {point}");
    assert!(!published || host.is_whole("web.comio"), "a broken image is visible at {point}");
}

#[test]
fn a_killed_save_loses_no_guest_and_recover_lets_it_run() {
    let points = kill_everywhere(Host::new, save, |host, point| {
        assert_not_lost(host, point);
        // An xl that has been started to destroy it does so, whoever is killed.
        let gone = host.state(GUEST).is_none();
        host.done_json(&["recover", "--json"]);
        assert_not_lost(host, point);
        assert_eq!(host.state(GUEST).is_none(), gone, "recover destroyed it at {point}");
        assert!(gone || host.runs(GUEST), "{point}: {:?}", host.state(GUEST));
        assert!(host.journal().is_empty(), "{point}: {:?}", host.journal());
    });
    assert!(points >= 10, "only {points} points were tried");
}

#[test]
fn finishing_a_killed_save_destroys_only_what_has_a_whole_image() {
    let points = kill_everywhere(Host::new, save, |host, point| {
        host.done_json(&["recover", "--finish", "--json"]);
        assert_not_lost(host, point);
        assert!(host.state(GUEST).is_none() || host.runs(GUEST), "{point}");
        assert!(host.journal().is_empty(), "{point}");
    });
    assert!(points >= 10, "only {points} points were tried");
}

#[test]
fn a_killed_checkpoint_leaves_the_guest_running_after_recover() {
    let args = |host: &Host| ["checkpoint", GUEST, &host.image("web.comio")].map(ToOwned::to_owned).to_vec();
    for recover in [&["recover", "--json"][..], &["recover", "--finish", "--json"]] {
        kill_everywhere(Host::new, args, |host, point| {
            host.done_json(recover);
            assert!(host.runs(GUEST), "{recover:?} {point}: {:?}", host.state(GUEST));
            assert!(host.journal().is_empty(), "{point}");
        });
    }
}

#[test]
fn a_killed_restore_keeps_its_image_and_leaves_no_half_made_guest() {
    let saved = || {
        let host = Host::new();
        host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
        host
    };
    let restore = |host: &Host| ["restore", &host.image("web.comio")].map(ToOwned::to_owned).to_vec();
    let points = kill_everywhere(saved, restore, |host, point| {
        assert!(host.is_whole("web.comio"), "{point}");
        host.run(&["recover"]);
        host.done_json(&["recover", "--finish", "--json"]);
        assert!(host.state(GUEST).is_none() || host.runs(GUEST), "{point}: {:?}", host.state(GUEST));
        assert!(host.journal().is_empty(), "{point}");
    });
    assert!(points >= 8, "only {points} points were tried");
}

/// A host whose save was killed when the image was whole and the guest not yet destroyed.
fn killed_before_destroy() -> Host {
    let host = Host::new();
    for call in 4..CALLS_MAX {
        let host = Host::new();
        let point = format!("{call} before");
        let args = ["save", GUEST, &host.image("web.comio")];
        let Some(child) = host.start_until(&args, &point) else { break };
        let destroying = host.calls().last().is_some_and(|call| call.contains(" destroy "));
        kill_9(child);
        if destroying {
            // The script would go on and destroy it.
            host.set("fail-destroy", "");
            host.go();
            host.clear("fail-destroy");
            assert_eq!(host.state(GUEST).as_deref(), Some("--p---"));
            assert!(host.is_whole("web.comio"));
            return host;
        }
        host.go();
    }
    drop(host);
    panic!("the save never came to destroy the guest")
}

#[test]
fn a_whole_image_lets_finish_destroy_the_guest() {
    let host = killed_before_destroy();
    assert_eq!(host.done_json(&["recover", "--finish", "--json"])[0]["outcome"], "destroyed");
    assert_eq!(host.state(GUEST), None);
    assert!(host.is_whole("web.comio"));
}

#[test]
fn finish_leaves_a_guest_alone_that_ran_since() {
    let host = killed_before_destroy();
    host.let_it_run();
    host.run(&["recover", "--finish"]);
    assert!(host.state(GUEST).is_some(), "a guest that ran since was destroyed");
    assert!(!host.calls().iter().any(|call| call.contains(" destroy ") && call.starts_with('9')));
}

#[test]
fn finish_keeps_its_hands_off_when_the_image_cannot_be_checked() {
    let host = killed_before_destroy();
    let images = host.place.path("images");
    let away = host.place.path("away");
    fs::rename(&images, &away).expect("writable");
    let told = host.fails(&["recover", "--finish"]);
    assert!(told.contains(GUEST), "{told}");
    // Not unpaused either: the image may be whole, and be restored elsewhere.
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"));
    assert_eq!(host.journal().len(), 1);
    fs::rename(&away, &images).expect("writable");
    assert_eq!(host.done_json(&["recover", "--finish", "--json"])[0]["outcome"], "destroyed");
}

#[test]
fn finish_destroys_nothing_for_a_damaged_image() {
    let host = killed_before_destroy();
    let image = host.image("web.comio");
    let mut bytes = fs::read(&image).expect("readable");
    bytes[5000] ^= 1;
    fs::write(&image, bytes).expect("writable");
    host.run(&["recover", "--finish"]);
    assert!(host.state(GUEST).is_some(), "the only whole copy of the guest was destroyed");
}

#[test]
fn another_boots_journal_touches_nobody() {
    let host = killed_before_destroy();
    let entry = host.place.path(&format!("state/journal/{UUID}.json"));
    let text = fs::read_to_string(&entry).expect("readable");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("readable");
    let text = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
    fs::write(&entry, text).expect("writable");
    assert_eq!(host.done_json(&["recover", "--finish", "--json"])[0]["outcome"], "gone");
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"), "a domain of this boot is another guest");
    assert!(host.journal().is_empty());
}

#[test]
fn a_guest_in_a_living_hand_is_left_to_it() {
    let host = Host::new();
    let mut saving = host.start_until(&["save", GUEST, &host.image("web.comio")], "3 middle").expect("saves");
    host.clear("stop-at");
    for recover in [&["recover", "--json"][..], &["recover", "--finish", "--json"]] {
        assert_eq!(host.done_json(recover)[0]["outcome"], "in-work");
    }
    host.go();
    assert!(saving.wait().expect("a child").success());
    assert_eq!(host.state(GUEST), None);
    assert!(host.is_whole("web.comio"));
}

/// A restored guest that ran and was paused by its administrator is not a half-made one.
#[test]
fn a_restored_guest_that_ran_is_not_removed() {
    let host = Host::new();
    host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
    let restoring = host.start_until(&["restore", &host.image("web.comio")], "2 middle");
    kill_9(restoring.expect("restores"));
    host.go();
    // xl had all of it: the domain is there and has never run. Then somebody lets it.
    if host.state(GUEST).is_none() {
        host.add(30, GUEST, "--p---", UUID);
    } else {
        let id = fs::read_dir(host.place.path("xen/domains"))
            .expect("readable")
            .map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"))
            .find(|id| id != "0")
            .expect("the guest");
        host.add(id.parse().expect("a number"), GUEST, "--p---", UUID);
    }
    host.run(&["recover", "--finish"]);
    assert!(host.state(GUEST).is_some(), "a guest that had run was destroyed");
}
