//! Guests saved and restored through an `xl` that fails where it is told to.

mod common;

use std::fs;

use common::host::{GUEST, Host, ID, UUID, words};

#[test]
fn a_guest_is_destroyed_once_its_image_is_whole_and_comes_back() {
    let host = Host::new();
    let image = host.image("web.comio");
    let saved = host.done_json(&["save", "--json", GUEST, &image]);
    assert_eq!((saved["guest"].as_str(), saved["guest_uuid"].as_str()), (Some(GUEST), Some(UUID)));
    assert!(saved["downtime_s"].as_f64() <= saved["seconds"].as_f64());
    assert_eq!(host.state(GUEST), None);
    assert!(host.is_whole("web.comio"));
    assert!(host.journal().is_empty());

    let restored = host.done_json(&["restore", "--json", &image]);
    assert_eq!(restored["guest"], GUEST);
    assert!(host.runs(GUEST));
    let xen = |file: &str| fs::read(host.place.path(&format!("xen/{file}"))).expect("readable");
    assert!(xen("restored") == xen("stream"), "xl got another stream than it had given");
    assert!(host.journal().is_empty());
}

#[test]
fn a_guest_is_found_by_name_number_and_uuid_and_goes_on_if_it_is_to() {
    for (domain, options, state) in [
        (GUEST, "--checkpoint", "-b----"),
        (&*ID.to_string(), "-c", "-b----"),
        (UUID, "--pause", "--p---"),
        (&*UUID.to_uppercase(), "-p", "--p---"),
    ] {
        let host = Host::new();
        host.done_json(&["save", "--json", options, domain, &host.image("web.comio")]);
        assert_eq!(host.state(GUEST).as_deref(), Some(state), "{domain} {options}");
        assert!(host.is_whole("web.comio"), "{domain} {options}");
        assert!(host.journal().is_empty(), "{domain} {options}");
    }
}

#[test]
fn what_cannot_be_begun_touches_no_guest() {
    let host = Host::new();
    let image = host.image("web.comio");
    fs::write(&image, "somebody's").expect("writable");
    let exists = host.fails(&["save", "--no-clobber", GUEST, &image]);
    assert!(exists.contains("web.comio"), "{exists}");
    assert!(host.runs(GUEST));
    assert_eq!(fs::read(&image).expect("readable"), b"somebody's");

    let no_such = host.fails(&["save", "mail", &image]);
    assert!(no_such.contains("no guest \"mail\""), "{no_such}");
    let control = host.fails(&["save", "Domain-0", &image]);
    assert!(control.contains("control domain"), "{control}");
    host.add(ID, GUEST, "--p---", UUID);
    let paused = host.fails(&["save", GUEST, &image]);
    assert!(paused.contains("paused") && paused.contains("unpause"), "{paused}");
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"), "whoever paused it wants it so");
    let saves = host.calls().into_iter().filter(|call| call.contains(" save ")).count();
    assert!(saves <= 1, "{:?}", host.calls());
    assert!(host.journal().is_empty());
}

#[test]
fn a_host_without_xl_or_rights_is_told_so() {
    let host = Host::new();
    let missing = host.comio().env("COMIO_XL", "/nonexistent/xl").args(["list"]).output().expect("starts");
    assert_eq!(missing.status.code(), Some(1));
    assert!(words(&missing).contains("/nonexistent/xl") && words(&missing).contains("xen-utils"));
    host.set("fail-list", "");
    assert!(host.fails(&["list"]).contains("only root on a Xen host"));
}

#[test]
fn a_save_that_fails_leaves_the_guest_running_and_nothing_visible() {
    for (failure, said) in
        [("fail-save", "resuming domain"), ("deaf", "acknowledge suspend"), ("fail-list-later", "")]
    {
        let host = Host::new();
        host.set(failure, "");
        let told = if failure == "fail-list-later" {
            // A directory that is no place for images.
            host.fails(&["save", GUEST, "/dev/null/web.comio"])
        } else {
            host.fails(&["save", GUEST, &host.image("web.comio")])
        };
        assert!(told.contains(said), "{failure}: {told}");
        assert!(host.runs(GUEST), "{failure}");
        assert!(host.images().is_empty(), "{failure}: {:?}", host.images());
        assert!(host.journal().is_empty(), "{failure}");
    }
}

#[test]
fn a_guest_that_cannot_be_destroyed_is_noted_and_recover_lets_it_run() {
    let host = Host::new();
    host.set("fail-destroy", "");
    let told = host.fails(&["save", GUEST, &host.image("web.comio")]);
    assert!(told.contains("destroy"), "{told}");
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"));
    assert!(host.is_whole("web.comio"));
    let again = host.fails(&["save", GUEST, &host.image("other.comio")]);
    assert!(again.contains("comio recover"), "{again}");
    host.clear("fail-destroy");
    assert_eq!(host.done_json(&["recover", "--json"])[0]["outcome"], "unpaused");
    assert!(host.runs(GUEST));
}

#[test]
fn one_guest_is_saved_once_at_a_time() {
    let host = Host::new();
    let first = host.image("first.comio");
    let mut saving = host.start_until(&["save", GUEST, &first], "3 middle").expect("saves");
    host.clear("stop-at");
    let refused = host.fails(&["save", GUEST, &host.image("second.comio")]);
    assert!(refused.contains(&format!("process {}", saving.id())), "{refused}");
    host.go();
    assert!(saving.wait().expect("a child").success());
    assert_eq!(host.state(GUEST), None);
    assert!(host.is_whole("first.comio"));
}

#[test]
fn a_restore_that_fails_leaves_no_domain() {
    for half_made in [false, true] {
        let host = saved();
        host.set("fail-restore", "");
        if half_made {
            host.set("half-made", "");
        }
        let told = host.fails(&["restore", &host.image("web.comio")]);
        assert!(told.contains("truncated"), "{told}");
        assert_eq!(host.state(GUEST), None, "half made: {half_made}");
        assert!(host.journal().is_empty());
        host.clear("fail-restore");
        host.done_json(&["restore", "--json", &host.image("web.comio")]);
        assert!(host.runs(GUEST));
    }
}

/// xl draws a uuid for a configuration that has none: the new guest must be known all the same.
#[test]
fn a_guest_is_restored_by_another_configuration_or_leaves_no_domain() {
    let configs = [
        "name = \"web2\"\nmemory = 128",
        "name = \"web2\"\nuuid = \"99999999-2222-4333-8444-555555555555\"\n",
    ];
    for (text, uuid) in configs.into_iter().zip([UUID, "99999999-2222-4333-8444-555555555555"]) {
        let host = saved();
        let (image, config) = (host.image("web.comio"), host.place.path("web2.cfg"));
        fs::write(&config, text).expect("writable");
        host.set("fail-restore", "");
        host.set("half-made", "");
        host.fails(&["restore", "--config", &config, &image]);
        assert_eq!((host.state("web2"), host.state(GUEST)), (None, None));
        assert!(host.journal().is_empty());
        host.clear("fail-restore");
        // As xl has it.
        let restored = host.done_json(&["restore", "--json", &config, &image]);
        assert_eq!((restored["guest"].as_str(), restored["guest_uuid"].as_str()), (Some("web2"), Some(uuid)));
        assert!(host.runs("web2"));
        assert_eq!(host.uuid("web2"), uuid);
        assert!(host.journal().is_empty());
    }
}

#[test]
fn a_damaged_image_becomes_no_guest() {
    let host = saved();
    let image = host.image("web.comio");
    let mut bytes = fs::read(&image).expect("readable");
    // In the first segment's header, behind the superblock.
    bytes[4096 + 40] ^= 1;
    fs::write(&image, bytes).expect("writable");
    let output = host.run(&["restore", &image]);
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    assert_eq!(host.state(GUEST), None);
    assert!(host.journal().is_empty());
}

/// A guest saved upon a parent or a template, by that `option`, which was then moved elsewhere; and
/// both directories.
fn saved_upon(host: &Host, option: &str) -> (String, String) {
    let (base, image, elsewhere) =
        (host.image("base.comio"), host.image("web.comio"), host.place.path("elsewhere"));
    // Templates have no pages that are one word all over, as all of the sample's are.
    let mut stream = fs::read(host.place.path("xen/stream")).expect("readable");
    let page = stream.windows(4096).position(|bytes| bytes == [2; 4096]).expect("a page of twos");
    (0..4096usize).for_each(|i| stream[page + i] = (i % 251).to_le_bytes()[0]);
    host.set("stream", stream);
    host.done_json(&["checkpoint", "--json", GUEST, &base]);
    let stem = if option == "--template" { "template" } else { "base.comio" };
    if option == "--template" {
        host.done_json(&["template", "make", "--json", "--output", &host.image(stem), &base]);
    }
    let saved = host.run(&["save", "--json", option, &host.image(stem), GUEST, &image]);
    let report: serde_json::Value = serde_json::from_slice(&saved.stdout).unwrap_or_default();
    assert!(report.is_null() || report["referenced_pages"].as_u64() > Some(0), "{report}");
    fs::create_dir(&elsewhere).expect("writable");
    fs::rename(host.image(stem), format!("{elsewhere}/{stem}")).expect("writable");
    (image, elsewhere)
}

#[test]
fn a_guest_comes_back_from_an_image_that_rests_on_others() {
    for option in ["--parent", "--template"] {
        let host = Host::new();
        let (image, elsewhere) = saved_upon(&host, option);
        assert_eq!(host.state(GUEST), None);
        let told = host.fails(&["restore", &image]);
        assert!(told.contains("--ancestors"), "{told}");
        host.done_json(&["restore", "--json", "--ancestors", &elsewhere, &image]);
        assert!(host.runs(GUEST), "{option}");
        let xen = |file: &str| fs::read(host.place.path(&format!("xen/{file}"))).expect("readable");
        assert!(xen("restored") == xen("stream"), "{option}");
        let restores = || host.calls().into_iter().filter(|call| call.contains(" restore ")).count();
        assert_eq!(restores(), 1, "none is begun before all is there");
        host.clear("domains/20");
        fs::rename(&elsewhere, host.place.path("gone")).expect("writable");
        for file in fs::read_dir(host.place.path("gone")).expect("readable") {
            let file = file.expect("readable");
            let beside = host.image(file.file_name().to_str().expect("UTF-8"));
            fs::rename(file.path(), beside).expect("writable");
        }
        host.done_json(&["restore", "--json", "--force", &image]);
        assert!(host.runs(GUEST), "{option}");
    }
}

#[test]
fn all_are_restored_from_images_that_rest_on_others() {
    let host = Host::new();
    let (_, elsewhere) = saved_upon(&host, "--parent");
    let images = host.place.path("images");
    let report = host.done_json(&["restore", "--all", "--json", "--ancestors", &elsewhere, &images]);
    assert_eq!(report["done"], 1, "{report}");
    assert!(host.runs(GUEST));
}

#[test]
fn recover_finishes_a_save_upon_an_image_elsewhere() {
    let host = Host::new();
    host.set("fail-destroy", "");
    let (_, elsewhere) = saved_upon(&host, "--parent");
    assert_eq!(host.state(GUEST).as_deref(), Some("--p---"));
    host.clear("fail-destroy");
    let done = host.done_json(&["recover", "--json", "--finish", "--ancestors", &elsewhere]);
    assert_eq!(done[0]["outcome"], "destroyed", "{done}");
    assert_eq!(host.state(GUEST), None);
}

#[test]
fn a_guest_that_is_there_is_not_restored_over() {
    let host = Host::new();
    let image = host.image("web.comio");
    host.done_json(&["checkpoint", "--json", GUEST, &image]);
    let told = host.fails(&["restore", "--force", &image]);
    assert!(told.contains("exists already"), "{told}");
    assert!(host.runs(GUEST));
}

/// A host whose guest was saved.
fn saved() -> Host {
    let host = Host::new();
    host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
    host
}
