//! Images that were used: what the program shows and keeps of their marks.

mod common;

use std::fs;

use common::{Place, code, done, done_json, sample};

/// An image `x.comio` with a mark; the mark's name.
fn marked(place: &Place) -> String {
    let image = place.path("x.comio");
    done(&["pack", &sample("pv.xl"), &image]);
    let report = done_json(&["inspect", "--json", &image]);
    assert!(report.get("consumed").is_none(), "a new image is unused");
    let uuid = report["uuid"].as_str().expect("text").replace('-', "");
    let mark = format!(".{uuid}.comio-used");
    fs::write(place.path(&mark), "comio-used 1\nrestored\nxen1\n1700000000\n").expect("writable");
    mark
}

#[test]
fn a_used_image_is_shown_as_such_and_its_mark_is_no_image() {
    let place = Place::new();
    marked(&place);
    let report = done_json(&["inspect", "--json", &place.path("x.comio")]);
    assert_eq!(report["consumed"]["why"], "restored");
    assert_eq!(report["consumed"]["host"], "xen1");
    assert_eq!(report["consumed"]["unix_seconds"], 1_700_000_000);
    let text = String::from_utf8(done(&["inspect", &place.path("x.comio")])).expect("UTF-8");
    assert!(text.contains("its guest was restored (on xen1"), "{text}");
    let listed = done_json(&["ls", "--json", &place.path("")]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["image"]["consumed"]["why"], "restored");
    let table = String::from_utf8(done(&["ls", &place.path("")])).expect("UTF-8");
    assert!(table.contains("[restored]") && !table.contains("comio-used"), "{table}");
}

#[test]
fn a_copy_of_a_used_image_is_used() {
    let (place, other) = (Place::new(), Place::new());
    let mark = marked(&place);
    done(&["cp", &place.path("x.comio"), &other.path("y.comio")]);
    assert_eq!(other.names(), [mark.as_str(), "y.comio"]);
    assert_eq!(done_json(&["inspect", "--json", &other.path("y.comio")])["consumed"]["host"], "xen1");
}

#[test]
fn the_mark_goes_with_the_last_image_of_its_uuid() {
    let place = Place::new();
    let mark = marked(&place);
    done(&["cp", &place.path("x.comio"), &place.path("y.comio")]);
    done(&["rm", &place.path("x.comio")]);
    assert_eq!(place.names(), [mark.as_str(), "y.comio"]);
    done(&["rm", &place.path("y.comio")]);
    assert!(place.names().is_empty());
}

#[test]
fn clean_removes_marks_of_images_that_are_gone_only() {
    let place = Place::new();
    let mark = marked(&place);
    assert_eq!(done(&["clean", &place.path("")]), b"");
    assert_eq!(place.names(), [mark.as_str(), "x.comio"]);
    fs::remove_file(place.path("x.comio")).expect("removable");
    assert_eq!(code(&["clean", "--dry-run", &place.path("")]), 0);
    assert_eq!(place.names(), [mark.as_str()]);
    done(&["clean", &place.path("")]);
    assert!(place.names().is_empty());
}
