//! Signals while a guest is in hand: it runs on, whatever the storage does.

mod common;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use comio_backends::embedded::EmbeddedServer;
use common::host::{GUEST, Host, signal, wait_until};

/// Lets xl go on and awaits the end, which must come soon; gives the exit code and what was said.
#[expect(clippy::disallowed_methods, reason = "the time until the program ends is what is tested")]
fn ends_soon(host: &Host, mut child: Child) -> (Option<i32>, String) {
    let begun = Instant::now();
    host.go();
    wait_until("the end", || child.try_wait().expect("a child").is_some());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let output = child.wait_with_output().expect("a child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// In the stream, after it, and when the guest is looked at once more: a closed terminal is no
/// reason to leave a guest paused either.
#[test]
fn a_signal_lets_the_guest_run_on() {
    for point in ["3 middle", "3 after", "4 before"] {
        for name in ["-TERM", "-INT", "-HUP", "-QUIT"] {
            let host = Host::new();
            let args = ["save", GUEST, &host.image("web.comio")];
            let saving = host.start_until(&args, point).expect("saves");
            signal(&saving, name);
            let (code, said) = ends_soon(&host, saving);
            assert_eq!(code, Some(130), "{name} at {point}: {said}");
            assert!(host.runs(GUEST), "{name} at {point}");
            assert!(host.images().is_empty(), "{name} at {point}: {:?}", host.images());
            assert!(host.journal().is_empty(), "{name} at {point}");
        }
    }
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let host = Host::new();
    let comio = host.comio();
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(comio.get_program());
    nohup.envs(comio.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.args(["save", GUEST, &host.image("web.comio")]);
    let saving = host.spawn_until(nohup, "3 middle").expect("saves");
    signal(&saving, "-HUP");
    assert_eq!(ends_soon(&host, saving).0, Some(0));
    assert!(host.is_whole("web.comio"));
}

/// A server that is gone cannot remove what was written; that is tried only after the guest runs.
#[test]
fn a_dead_server_keeps_no_guest_from_running_on() {
    for point in ["3 middle", "3 after"] {
        let host = Host::new();
        let server = EmbeddedServer::start(Path::new(&host.place.path("images")), 1).expect("serves");
        let url = server.url().replace("/?", "/web.comio?");
        let saving = host.start_until(&["save", GUEST, &url], point).expect("saves");
        drop(server);
        signal(&saving, "-TERM");
        let (code, said) = ends_soon(&host, saving);
        assert_eq!(code, Some(130), "{point}: {said}");
        assert!(said.contains("comio clean"), "{point}: {said}");
        assert!(host.runs(GUEST), "{point}");
        assert!(host.journal().is_empty(), "{point}");
    }
}

/// The deadline of a whole host must end the command even then: the host is to go off.
#[test]
fn a_dead_server_does_not_hold_up_the_deadline() {
    let host = Host::new();
    let server = EmbeddedServer::start(Path::new(&host.place.path("images")), 1).expect("serves");
    let args = ["save", "--all", "--deadline", "2s", &server.url()];
    let saving = host.start_until(&args, "3 after").expect("saves");
    drop(server);
    let (code, said) = ends_soon(&host, saving);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the deadline is over"), "{said}");
    assert!(host.runs(GUEST));
    assert!(host.journal().is_empty());
}
