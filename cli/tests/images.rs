//! Packing, unpacking, extracting, verifying, recovering: the program on real guest memory.

mod common;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use common::{Place, code, comio, done, done_json, real_dump, run, sample};

const PAGE: usize = 4096;

/// Numbers from a seed (Knuth's MMIX generator).
fn numbers(mut state: u64) -> impl Iterator<Item = usize> {
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits")
    })
}

#[test]
fn real_memory_comes_back_bit_for_bit_at_every_level() {
    let place = Place::new();
    let dump = real_dump(&place, "desktop-0");
    let original = fs::read(&dump).expect("unpacked");
    let image = place.path("x.comio");
    for level in ["raw", "lz4", "zstd1", "fast", "balanced", "dense"] {
        for workers in ["1", "2"] {
            done(&["pack", "--level", level, "--workers", workers, &dump, &image]);
            assert!(done(&["unpack", "--workers", workers, &image, "-"]) == original, "{level} {workers}");
        }
    }
    assert_eq!(code(&["verify", &image]), 0);
    assert_eq!(place.names(), ["desktop-0.raw", "x.comio"]);
}

#[test]
fn xen_save_files_come_back_through_files_and_pipes() {
    let place = Place::new();
    for name in ["pv.xl", "hvm.xl"] {
        let original = fs::read(sample(name)).expect("shipped");
        let (image, back) = (place.path("x.comio"), place.path("back.xl"));
        done(&["pack", &sample(name), &image]);
        done(&["unpack", &image, &back]);
        assert!(fs::read(&back).expect("written") == original, "{name}");
        assert_eq!(done_json(&["inspect", "--json", &image])["tape"], "xl");
        let mut packing = comio().args(["pack", "-", &image]).stdin(Stdio::piped()).spawn().expect("starts");
        packing.stdin.take().expect("piped").write_all(&original).expect("read");
        assert!(packing.wait().expect("ends").success());
        assert!(done(&["unpack", &image, "-"]) == original, "{name} through pipes");
    }
}

#[test]
fn a_dump_that_ends_within_a_page_comes_back() {
    let place = Place::new();
    let (dump, image) = (place.path("odd.raw"), place.path("odd.comio"));
    let bytes: Vec<u8> = numbers(3).map(|n| n.to_le_bytes()[0]).take(3 * PAGE + 17).collect();
    fs::write(&dump, &bytes).expect("writable");
    done(&["pack", "--format", "raw", &dump, &image]);
    assert!(done(&["unpack", &image, "-"]) == bytes);
    assert_eq!(code(&["pack", "--format", "xl", &dump, &place.path("no.comio")]), 1);
    assert_eq!(place.names(), ["odd.comio", "odd.raw"]);
}

#[test]
fn random_pages_are_extracted_with_one_small_read_each() {
    let place = Place::new();
    let dump = real_dump(&place, "postgres-0");
    let memory = fs::read(&dump).expect("unpacked");
    for placement in ["hybrid", "strict"] {
        let (image, list, out) = (place.path("x.comio"), place.path("pfns"), place.path("pages"));
        done(&["pack", "--placement", placement, &dump, &image]);
        let pages = memory.len() / PAGE;
        let pfns: Vec<usize> = numbers(7).map(|n| n % pages).take(10_000).collect();
        let lines: Vec<_> = pfns.iter().map(usize::to_string).collect();
        fs::write(&list, lines.join("\n")).expect("writable");
        let cost = done_json(&["extract", "--json", &image, "--pfn-list", &list, "--output", &out]);
        let expected: Vec<u8> = pfns.iter().flat_map(|pfn| &memory[pfn * PAGE..][..PAGE]).copied().collect();
        assert!(fs::read(&out).expect("written") == expected, "{placement}");
        assert_eq!(cost["pages"], 10_000);
        assert!(cost["storage_reads"].as_u64() <= Some(10_000), "{cost}");
        assert!(cost["pages_decoded"].as_u64() <= cost["storage_reads"].as_u64(), "{cost}");
        assert!(cost["max_read_bytes"].as_u64() <= Some(8192), "{cost}");
    }
    let image = place.path("x.comio");
    assert!(done(&["extract", &image, "--pfn", "5-7"]) == memory[5 * PAGE..8 * PAGE]);
    assert_eq!(code(&["extract", &image, "--pfn", "99999999"]), 1);
}

#[test]
fn units_of_pages_come_back_smaller_and_with_one_read_a_page() {
    let place = Place::new();
    let (dump, image) = (real_dump(&place, "postgres-0"), place.path("x.comio"));
    let memory = fs::read(&dump).expect("unpacked");
    for level in ["turbo", "fast", "dense"] {
        let pack = |unit| done_json(&["pack", "--json", "--level", level, "--unit", unit, &dump, &image]);
        let single = pack("1")["stored_bytes"].as_u64();
        let units = pack("16")["stored_bytes"].as_u64();
        assert!(units < single, "{level}: {units:?}, {single:?}");
        assert_eq!(code(&["verify", &image]), 0);
        assert!(done(&["unpack", &image, "-"]) == memory, "{level}");
    }
    let (list, out) = (place.path("pfns"), place.path("pages"));
    let pfns: Vec<usize> = numbers(9).map(|n| n % (memory.len() / PAGE)).take(1000).collect();
    fs::write(&list, pfns.iter().map(usize::to_string).collect::<Vec<_>>().join("\n")).expect("writable");
    let cost = done_json(&["extract", "--json", &image, "--pfn-list", &list, "--output", &out]);
    let expected: Vec<u8> = pfns.iter().flat_map(|pfn| &memory[pfn * PAGE..][..PAGE]).copied().collect();
    assert!(fs::read(&out).expect("written") == expected);
    assert!(cost["max_reads_a_page"].as_u64() == Some(1), "{cost}");
    assert!(cost["max_read_bytes"].as_u64() <= Some(64 << 10), "{cost}");
    assert_eq!(code(&["pack", "--unit", "4", "--placement", "strict", &dump, &image]), 1);
    assert_eq!(code(&["pack", "--unit", "17", &dump, &image]), 2);
}

#[test]
fn inspect_adds_up() {
    for unit in ["1", "16"] {
        inspect_adds_up_in_units(unit);
    }
}

fn inspect_adds_up_in_units(unit: &str) {
    let place = Place::new();
    let (dump, image) = (real_dump(&place, "desktop-0"), place.path("x.comio"));
    let packed = done_json(&["pack", "--json", "--unit", unit, &dump, &image]);
    let report = done_json(&["inspect", "--json", &image]);
    assert_eq!(report["image_bytes"].as_u64(), Some(fs::metadata(&image).expect("packed").len()));
    assert_eq!(report["image_bytes"], packed["stored_bytes"]);
    assert_eq!(report["guest_bytes"].as_u64(), Some(fs::metadata(&dump).expect("unpacked").len()));
    let classes = report["classes"].as_array().expect("a list");
    let sum = |key: &str| classes.iter().map(|class| class[key].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(Some(sum("pages")), report["pages"].as_u64());
    assert_eq!(Some(sum("bytes")), report["blob_bytes"].as_u64());
    let bytes = |key: &str| report[key].as_u64().expect("a number");
    let parts =
        bytes("blob_bytes") + bytes("padding_bytes") + bytes("index_bytes") + bytes("frame_stored_bytes");
    assert_eq!(parts, bytes("image_bytes"));
    // The whole blocks that superblock, directory and footer take weigh in a dump this small.
    assert!(bytes("index_bytes") <= bytes("guest_bytes") / 500 + 3 * 4096, "{report}");
    assert!(report["padding_share"].as_f64() <= Some(0.01), "{report}");
}

/// Pages of the segments that end within `image`, found by their magic (`docs/format.md`).
fn pages_of_whole_segments(image: &[u8]) -> usize {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut pages = 0;
    for at in (4096..image.len() - 63).step_by(4096).filter(|&at| image[at..].starts_with(b"CIOSEG01")) {
        let (blocks, is_frame) = (word(at + 48) & 0xffff, image[at + 52] == 1);
        if !is_frame && at + blocks * 4096 <= image.len() {
            pages += word(at + 36);
        }
    }
    pages
}

#[test]
fn what_is_whole_of_a_cut_image_is_recovered() {
    let place = Place::new();
    let (dump, image) = (real_dump(&place, "build-0"), place.path("x.comio"));
    let (cut, new, out) = (place.path("cut.comio"), place.path("new.comio"), place.path("pages"));
    done(&["pack", &dump, &image]);
    let bytes = fs::read(&image).expect("packed");
    let whole = &bytes[..bytes.len() * 9 / 10];
    fs::write(&cut, whole).expect("writable");
    assert_eq!(code(&["unpack", &cut, &out]), 3);
    assert_eq!(code(&["verify", &cut]), 3);
    let report = done_json(&["recover-image", "--json", &cut, &new]);
    assert_eq!(report["complete"], false);
    assert_eq!(code(&["unpack", &new, &out]), 3);
    assert_eq!(code(&["verify", &new]), 3);
    assert!(!place.names().contains(&"pages".to_owned()));
    done(&["unpack", "--partial", &new, &out]);
    let (memory, partial) = (fs::read(&dump).expect("unpacked"), fs::read(&out).expect("written"));
    let pages = usize::try_from(report["pages"].as_u64().expect("a number")).expect("fits");
    let same = memory.chunks(PAGE).zip(partial.chunks(PAGE)).filter(|(a, b)| a == b).count();
    assert_eq!(pages, pages_of_whole_segments(whole));
    assert!(same >= pages, "{same} of {pages} pages are right");
}

#[test]
fn bad_input_has_its_exit_code_and_leaves_nothing() {
    let place = Place::new();
    let (text, out) = (place.path("text"), place.path("out"));
    fs::write(&text, vec![b'x'; 9000]).expect("writable");
    assert_eq!(code(&["unpack", &text, &out]), 3);
    assert_eq!(code(&["inspect", &text]), 3);
    assert_eq!(code(&["recover-image", &text, &out]), 3);
    assert_eq!(code(&["unpack", &place.path("missing"), &out]), 1);
    assert_eq!(code(&["pack", &place.path("missing"), &out]), 1);
    assert_eq!(code(&["pack", "--workers", "0", &text, &out]), 2);
    assert_eq!(code(&["pack", "--memory", "1MiB", &text, &out]), 1);
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(place.names(), ["text"]);
}

/// Every hundredth truncation and a few flipped bits, through the program.
#[test]
fn a_damaged_image_is_an_error_or_the_same_memory() {
    let place = Place::new();
    let (image, damaged) = (place.path("x.comio"), place.path("damaged.comio"));
    done(&["pack", &sample("pv.xl"), &image]);
    let (bytes, original) = (fs::read(&image).expect("packed"), fs::read(sample("pv.xl")).expect("shipped"));
    for len in (0..bytes.len()).step_by(4096) {
        fs::write(&damaged, &bytes[..len]).expect("writable");
        assert_eq!(code(&["unpack", &damaged, "-"]), 3, "{len}");
    }
    for n in numbers(11).take(40) {
        let mut flipped = bytes.clone();
        let bit = n % (8 * bytes.len());
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&damaged, flipped).expect("writable");
        let output = run(&["unpack", &damaged, "-"]);
        let right = output.status.success() && output.stdout == original;
        assert!(right || [Some(1), Some(3)].contains(&output.status.code()), "bit {bit}");
    }
}

#[test]
fn a_damaged_stream_is_refused_with_offset_and_record() {
    let place = Place::new();
    let (cut, image) = (place.path("cut.xl"), place.path("x.comio"));
    let original = fs::read(sample("pv.xl")).expect("shipped");
    fs::write(&cut, &original[..original.len() - 100]).expect("writable");
    let output = run(&["pack", &cut, &image]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("byte {}", original.len() - 100)), "{words}");
    assert_eq!(place.names(), ["cut.xl"]);
}

#[test]
fn images_are_listed_copied_and_removed() {
    let place = Place::new();
    let (image, copy) = (place.path("a.comio"), place.path("b.comio"));
    done(&["pack", &sample("hvm.xl"), &image]);
    done(&["cp", &image, &copy]);
    assert!(fs::read(&image).expect("packed") == fs::read(&copy).expect("copied"));
    assert_eq!(code(&["cp", "--no-clobber", &image, &copy]), 1);
    let listed = done_json(&["ls", "--json", &place.path("")]);
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["a.comio", "b.comio"]);
    done(&["rm", &image]);
    assert_eq!(code(&["rm", &image]), 1);
    assert_eq!(place.names(), ["b.comio"]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "files have times")]
fn clean_leaves_alone_what_a_save_may_be_at_work_on() {
    let place = Place::new();
    let old = place.path(".c.comio.0000000000000001.comio-part");
    let young = place.path(".d.comio.0000000000000002.comio-part");
    for path in [&old, &young] {
        fs::write(path, b"left").expect("writable");
    }
    let two_hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::options()
        .write(true)
        .open(&old)
        .and_then(|file| file.set_modified(two_hours_ago))
        .expect("set");
    let output = run(&["clean", &place.path("")]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--all"));
    assert!(fs::exists(&young).expect("looks") && !fs::exists(&old).expect("looks"));
    done(&["clean", "--all", &place.path("")]);
    assert!(place.names().is_empty());
}
