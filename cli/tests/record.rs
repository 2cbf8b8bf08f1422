//! `comio record` where there is no Xen.

mod common;

use common::{Place, code, run};

#[test]
fn without_xen_it_says_so_and_leaves_nothing() {
    if std::path::Path::new("/dev/xen/privcmd").exists() {
        return;
    }
    let place = Place::new();
    let output = run(&["record", "guest", &place.path("traces"), "--every", "1s", "--for", "2s"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    let right = if cfg!(feature = "xen") { "there is no /dev/xen/privcmd" } else { "--features xen" };
    assert!(words.contains(right), "{words}");
    assert!(place.names().is_empty());
    assert_eq!(code(&["record", "guest", &place.path("traces"), "--every", "0s"]), 1);
    assert_eq!(code(&["record", "guest", &place.path("traces"), "--every", "soon"]), 2);
}
