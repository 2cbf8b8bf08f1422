//! Guests that come to be while others are restored, and guests with names that mean something else.

mod common;

use common::host::{GUEST, Host, UUID};

const OTHER: &str = "99999999-2222-4333-8444-555555555555";

/// A host whose guest was saved.
fn saved() -> Host {
    let host = Host::new();
    host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
    host
}

/// Whatever a failed restore removes, it is not what somebody else has started meanwhile.
#[test]
fn a_failed_restore_destroys_nobody_elses_guest() {
    for (uuid, in_journal) in [(OTHER, 0), (UUID, 1)] {
        let host = saved();
        host.set("fail-restore", "");
        let restoring = host.start_until(&["restore", &host.image("web.comio")], "2 middle");
        let restoring = restoring.expect("restores");
        host.add(9, GUEST, "-b----", uuid);
        host.go();
        let output = restoring.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(1));
        assert!(host.runs(GUEST), "{uuid}: {:?}", host.calls());
        assert_eq!(host.journal().len(), in_journal, "{uuid}");
    }
}

#[test]
fn a_guest_whose_name_is_a_uuid_hides_no_other() {
    let host = Host::new();
    host.add(8, OTHER, "-b----", "11111111-2222-4333-8444-555555555556");
    host.done_json(&["save", "--json", GUEST, &host.image("web.comio")]);
    assert_eq!(host.done_json(&["list", "--json"])[1]["name"], OTHER);
}
