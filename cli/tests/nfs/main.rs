//! The program and an NFS server that is slow, or goes away while it is needed: a signal ends it soon.

#![allow(clippy::disallowed_methods, reason = "a test waits, and forwards in threads")]

#[path = "../common/mod.rs"]
mod common;
mod ganesha;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use comio_backends::embedded::EmbeddedServer;
use common::host::{GUEST, Host, wait_until};
use common::{Place, comio, done, sample};

/// A signal is obeyed within a second; the machine may be busy.
const SOON: Duration = Duration::from_secs(5);

/// A guest's memory takes a minute.
const SLOW: &str = "&bandwidth=8k&wsize=4096";

/// A guest's memory in `place`.
fn dump(place: &Place) -> String {
    let path = place.path("guest.raw");
    fs::write(&path, vec![7; 512 << 10]).expect("writable");
    path
}

/// Starts the program.
fn start(args: &[&str]) -> Child {
    comio().args(args).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Interrupts the program, which must end soon, saying that it was stopped.
fn interrupt(mut program: Child) {
    let signalled = Instant::now();
    let sent = Command::new("kill").args(["-INT", &program.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let mut ended = None;
    wait_until("the program to end", || {
        ended = program.try_wait().expect("it is ours");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(130));
    assert!(signalled.elapsed() < SOON, "{:?}", signalled.elapsed());
}

/// A way to `server` that goes silent for good once `file` is there: calls vanish. Gives its port, and
/// what tells of the first call that has vanished.
fn way_until(server: &EmbeddedServer, file: &Path) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (vanished, told) = channel();
    let (server, file): (_, Arc<Path>) = (server.port(), file.into());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
            let (back_from, back_to) =
                (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
            std::thread::spawn(move || forward(back_from, back_to, || false));
            let (file, vanished) = (Arc::clone(&file), vanished.clone());
            std::thread::spawn(move || forward(client, server, || is_away(&file, &vanished)));
        }
    });
    (port, told)
}

/// A way to `server` on which answers vanish while `is_mute`. Gives its port.
fn way_mute_while(server: &EmbeddedServer, is_mute: impl Fn() -> bool + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (server, is_mute) = (server.port(), Arc::new(is_mute));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
            let (back_from, back_to) =
                (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
            let is_mute = Arc::clone(&is_mute);
            std::thread::spawn(move || forward(back_from, back_to, || is_mute()));
            std::thread::spawn(move || forward(client, server, || false));
        }
    });
    port
}

/// Saves the guest over a way on which the answer to the renaming is lost, and all that follow until
/// the guest runs again, or for ever. Gives the host and what was said.
fn save_in_doubt(for_ever: bool) -> (Arc<Host>, String) {
    let host = Arc::new(Host::new());
    let images = host.place.path("images");
    let server = EmbeddedServer::start(Path::new(&images), 1).expect("starts");
    let at = Arc::clone(&host);
    let is_mute = move || Path::new(&at.image("web.comio")).exists() && (for_ever || !at.runs(GUEST));
    let port = way_mute_while(&server, is_mute);
    let said = host.fails(&["save", GUEST, &url(port, "web.comio", "&soft=1")]);
    assert!(host.runs(GUEST), "{said}");
    assert!(host.is_whole("web.comio"), "{said}");
    assert!(host.journal().is_empty(), "{said}");
    (host, said)
}

/// The guest runs first: only then does the server answer again.
#[test]
fn an_image_whose_publishing_is_in_doubt_is_marked_once_its_guest_runs() {
    let (host, said) = save_in_doubt(false);
    assert!(said.contains("it is marked as used"), "{said}");
    let refused = host.fails(&["restore", &host.image("web.comio")]);
    assert!(refused.contains("its guest went on"), "{refused}");
}

#[test]
fn an_image_in_doubt_that_cannot_be_marked_is_told_of() {
    let (host, said) = save_in_doubt(true);
    assert!(said.contains("never restore it"), "{said}");
    assert!(!host.images().iter().any(|name| name.ends_with(".comio-used")), "{:?}", host.images());
}

fn is_away(file: &Path, vanished: &Sender<()>) -> bool {
    let away = file.exists();
    if away {
        // The test may be over.
        let _ = vanished.send(());
    }
    away
}

/// Copies what comes, but for what comes while `is_away`.
fn forward(mut from: TcpStream, mut to: TcpStream, is_away: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !is_away() && to.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

fn url(port: u16, name: &str, options: &str) -> String {
    format!("nfs://127.0.0.1:{port}/{name}?mountport={port}&noresvport{options}")
}

#[test]
fn a_save_over_nfs_that_is_interrupted_leaves_nothing() {
    let (place, other) = (Place::new(), Place::new());
    let server = EmbeddedServer::start(Path::new(&place.path("")), 1).expect("starts");
    let image = url(server.port(), "x.comio", SLOW);
    let program = start(&["pack", "--level", "raw", &dump(&other), &image]);
    wait_until("the image to be begun", || !place.names().is_empty());
    interrupt(program);
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_save_whose_server_is_away_can_be_interrupted() {
    let (place, other) = (Place::new(), Place::new());
    let server = EmbeddedServer::start(Path::new(&place.path("")), 1).expect("starts");
    let away = other.path("away");
    let (port, vanished) = way_until(&server, Path::new(&away));
    let image = url(port, "x.comio", SLOW);
    let program = start(&["pack", "--level", "raw", &dump(&other), &image]);
    wait_until("the image to be begun", || !place.names().is_empty());
    fs::write(&away, "").expect("writable");
    vanished.recv().expect("it calls on");
    interrupt(program);
}

/// After the copy the marks are looked at once more.
#[test]
fn a_copy_whose_server_goes_away_at_its_end_can_be_interrupted() {
    let (place, other) = (Place::new(), Place::new());
    done(&["pack", &sample("hvm.xl"), &place.path("x.comio")]);
    let server = EmbeddedServer::start(Path::new(&place.path("")), 1).expect("starts");
    let copy = other.path("copy.comio");
    let (port, vanished) = way_until(&server, Path::new(&copy));
    let program = start(&["cp", &url(port, "x.comio", ""), &copy]);
    vanished.recv().expect("it calls on");
    interrupt(program);
    assert!(fs::read(&copy).expect("copied") == fs::read(place.path("x.comio")).expect("packed"));
}
