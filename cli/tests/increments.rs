//! Increments and templates from the command line.

mod common;

use std::fs;

use common::{Place, code, done, done_json, run};

/// A flat dump of pages that compress a little; `changes` of them differ with `seed`.
fn dump(pages: usize, seed: u32, changes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pages * 4096);
    for page in 0..pages {
        let differs = page % (pages / changes.max(1)).max(1) == 0 && changes > 0;
        let mut state = u32::try_from(page).expect("small") * 77 + if differs { seed } else { 1 };
        for i in 0..4096u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push(if i % 4 == 0 { state.to_be_bytes()[0] } else { 3 });
        }
    }
    bytes
}

/// A full image of a guest and one increment upon it.
struct Pair {
    place: Place,
    parent: String,
    child: String,
    dump: Vec<u8>,
}

fn pair() -> Pair {
    let place = Place::new();
    let (parent, child) = (place.path("parent.comio"), place.path("child.comio"));
    let old = place.path("old.raw");
    let new = place.path("new.raw");
    fs::write(&old, dump(3000, 1, 0)).expect("writes");
    let later = dump(3000, 9, 100);
    fs::write(&new, &later).expect("writes");
    done(&["pack", "--format", "raw", &old, &parent]);
    done(&["pack", "--format", "raw", "--parent", &parent, &new, &child]);
    Pair { place, parent, child, dump: later }
}

fn says(args: &[&str], words: &str) {
    let output = run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(words), "{args:?} says {text:?}");
}

#[test]
fn an_increment_is_small_and_comes_back() {
    let pair = pair();
    let out = pair.place.path("out.raw");
    done(&["unpack", &pair.child, &out]);
    assert!(fs::read(&out).expect("reads") == pair.dump);
    let len = |path: &str| fs::metadata(path).expect("exists").len();
    assert!(len(&pair.child) < len(&pair.parent) / 10);
    assert_eq!(code(&["verify", "--deep", &pair.child]), 0);
    let report = done_json(&["inspect", "--json", &pair.child]);
    assert_eq!(report["ancestors"][0]["role"], "parent");
}

#[test]
fn needed_images_stay() {
    let pair = pair();
    assert_eq!(code(&["rm", &pair.parent]), 1);
    says(&["rm", &pair.parent], "is needed by child.comio");
    // Nor can one be replaced, by another or by what rests on it.
    let new = pair.place.path("new.raw");
    assert_eq!(code(&["pack", "--format", "raw", &new, &pair.parent]), 1);
    assert_eq!(code(&["pack", "--format", "raw", "--parent", &pair.parent, &new, &pair.parent]), 1);
    assert_eq!(code(&["cp", &pair.child, &pair.parent]), 1);
    says(&["recover-image", &pair.parent, &pair.parent], "cannot be replaced");
    let copy = pair.place.path("elsewhere.comio");
    done(&["cp", &pair.parent, &copy]);
    // A copy of what stands there already harms nobody.
    done(&["cp", &copy, &pair.parent]);
    let flat = pair.place.path("flat.comio");
    done(&["flatten", &pair.child, &flat]);
    done(&["rm", &pair.child, &pair.parent, &copy]);
    let out = pair.place.path("out.raw");
    done(&["unpack", &flat, &out]);
    assert!(fs::read(&out).expect("reads") == pair.dump);
}

#[test]
fn what_a_damaged_image_needs_stays_until_that_goes_too() {
    let pair = pair();
    let child = fs::read(&pair.child).expect("reads");
    fs::write(&pair.child, &child[..child.len() - 4096]).expect("writes");
    says(&["rm", &pair.parent], "is needed by child.comio");
    assert!(fs::metadata(&pair.parent).is_ok());
    done(&["rm", &pair.parent, &pair.child]);
}

#[test]
fn a_parent_made_in_units_is_warned_of() {
    let pair = pair();
    let (parent, child) = (pair.place.path("units.comio"), pair.place.path("upon.comio"));
    let (old, new) = (pair.place.path("old.raw"), pair.place.path("new.raw"));
    done(&["pack", "--format", "raw", "--unit", "4", &old, &parent]);
    says(&["pack", "--format", "raw", "--parent", &parent, &new, &child], "made with --unit");
    let quiet = run(&["pack", "--format", "raw", "--parent", &pair.parent, &new, &child]);
    assert!(!String::from_utf8_lossy(&quiet.stderr).contains("--unit"));
}

#[test]
fn a_damaged_parent_is_told_from_a_missing_one() {
    let pair = pair();
    let mut parent = fs::read(&pair.parent).expect("reads");
    let out = pair.place.path("out.raw");
    parent[20] ^= 1;
    fs::write(&pair.parent, &parent).expect("writes");
    assert_eq!(code(&["unpack", &pair.child, &out]), 3);
    says(&["unpack", &pair.child, &out], "damaged");
    fs::write(&pair.parent, "").expect("writes");
    assert_eq!(code(&["unpack", &pair.child, &out]), 3);
}

#[test]
fn a_missing_parent_is_told_and_found_elsewhere() {
    let pair = pair();
    let elsewhere = pair.place.path("elsewhere");
    fs::create_dir(&elsewhere).expect("creates");
    fs::rename(&pair.parent, format!("{elsewhere}/another-name")).expect("renames");
    let out = pair.place.path("out.raw");
    says(&["unpack", &pair.child, &out], "give its directory with --ancestors");
    assert!(fs::metadata(&out).is_err(), "nothing was written");
    assert_eq!(code(&["verify", &pair.child]), 0);
    done(&["unpack", "--ancestors", &elsewhere, &pair.child, &out]);
    assert!(fs::read(&out).expect("reads") == pair.dump);
    // A save upon what is not there is a save in full.
    let full = pair.place.path("full.comio");
    let new = pair.place.path("new.raw");
    says(&["pack", "--format", "raw", "--parent", &pair.child, &new, &full], "saved without it");
    done(&["unpack", &full, &out]);
    let again = done_json(&["pack", "--json", "--format", "raw", "--parent", &pair.child, &new, &full]);
    assert!(again["trouble"].as_str().is_some_and(|words| words.contains("saved without it")), "{again}");
}

#[test]
fn damage_in_the_parent_leaves_zeros_in_the_place_of_its_pages_only() {
    let pair = pair();
    let mut parent = fs::read(&pair.parent).expect("reads");
    let middle = parent.len() / 2;
    parent[middle] ^= 4;
    fs::write(&pair.parent, parent).expect("writes");
    let out = pair.place.path("out.raw");
    let extract = ["extract", "--json", "--pfn", "0-2999", "--output", &out, &pair.child];
    let said = run(&extract);
    assert_eq!(said.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).expect("a report");
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    let found = fs::read(&out).expect("reads");
    assert_eq!(found.len(), pair.dump.len());
    let (got, wanted) = (found.chunks(4096), pair.dump.chunks(4096));
    let lost: Vec<usize> =
        (0..).zip(got.zip(wanted)).filter(|(_, (got, wanted))| got != wanted).map(|(i, _)| i).collect();
    assert_eq!(Some(lost.len() as u64), report["lost_pages"].as_u64());
    assert!(!lost.is_empty() && lost.len() <= 2, "{lost:?}");
    for pfn in lost {
        assert!(found[4096 * pfn..][..4096] == [0; 4096]);
        assert!(words.contains(&format!("page {pfn} of its parent \"parent.comio\"")), "{words}");
    }
}

#[test]
fn the_tree_is_listed() {
    let pair = pair();
    let directory = pair.place.path("");
    let text = String::from_utf8(done(&["ls", &directory])).expect("UTF-8");
    let line = |name: &str| text.lines().position(|line| line.trim_start().starts_with(name));
    assert_eq!(line("child.comio"), line("parent.comio").map(|line| line + 1), "{text}");
    assert!(text.contains("\n  child.comio") && text.contains("parent parent.comio"), "{text}");
}

#[test]
fn a_template_serves_another_guest() {
    let pair = pair();
    let template = pair.place.path("template.comio");
    done(&["template", "make", "--output", &template, &pair.parent]);
    let second = pair.place.path("second.comio");
    let new = pair.place.path("new.raw");
    let report = done_json(&["pack", "--json", "--format", "raw", "--template", &template, &new, &second]);
    assert!(report["referenced_pages"].as_u64() > Some(2800), "{report}");
    done(&["rm", &pair.child, &pair.parent]);
    assert_eq!(code(&["rm", &template]), 1);
    let out = pair.place.path("out.raw");
    done(&["unpack", &second, &out]);
    assert!(fs::read(&out).expect("reads") == pair.dump);
    // An image that is no template is said to be none, and the guest saved all the same.
    let flat = pair.place.path("flat.comio");
    done(&["flatten", &second, &flat]);
    says(
        &["pack", "--format", "raw", "--template", &flat, &new, &pair.place.path("plain.comio")],
        "is not a template",
    );
}
