//! Round trips, damage and hostility, over the parser and the rebuilder together.

use comio_core::tape::{Pfns, TapeError};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use super::frame::{Run, RunEncoder, put_end, put_magic, put_page_data};
use super::testing::{SaveFile, add_frame, frame_of, hvm, pfns_of, put_together, pv, take_apart};
use super::{Parser, Rebuilder, Step, Tally};

fn assert_round_trip(bytes: &[u8]) {
    let items = take_apart(bytes).unwrap();
    for cut in [1, 7, usize::MAX] {
        assert!(put_together(&items, cut).unwrap() == bytes, "differs when cut at {cut}");
    }
}

#[test]
fn pv_and_hvm_saves_come_back_bit_for_bit() {
    assert_round_trip(&pv());
    assert_round_trip(&hvm());
}

#[test]
fn pages_with_contents_become_batches_and_others_do_not() {
    let pv = take_apart(&pv()).unwrap();
    assert_eq!(pfns_of(&pv), [Pfns::Run { first: 0, count: 4 }, Pfns::Run { first: 4, count: 1 }]);
    let hvm = take_apart(&hvm()).unwrap();
    assert_eq!(pfns_of(&hvm), [Pfns::List(vec![0x10, 0x11, 0x13])]);
    let (_, pages) = hvm.iter().find(|(step, _)| matches!(step, Step::Pages(_))).unwrap();
    assert_eq!(pages[2 * PAGE_SIZE..], [0x13; PAGE_SIZE]);
}

#[test]
fn a_record_of_many_pages_becomes_several_batches() {
    let entries: Vec<u64> = (0..2500).collect();
    let bytes = SaveFile::xl(b"").libxc(3, 2).pages(&entries).end();
    let counts: Vec<usize> = pfns_of(&take_apart(&bytes).unwrap()).iter().map(Pfns::count).collect();
    assert_eq!(counts, [SEGMENT_PAGES, SEGMENT_PAGES, 2500 - 2 * SEGMENT_PAGES]);
    assert_round_trip(&bytes);
}

#[test]
fn records_larger_than_a_piece_are_streamed() {
    let body: Vec<u8> = (0..300_001u32).map(|i| (i % 251) as u8).collect();
    let bytes = SaveFile::xl(&body).libxc(3, 2).padded_record(0x09, &body, 0xee).end();
    let items = take_apart(&bytes).unwrap();
    let largest = items.iter().map(|(step, _)| match step {
        Step::Frame(frame) => frame.len(),
        Step::Pages(_) => 0,
    });
    assert!(largest.max().unwrap() <= 80 << 10);
    assert_round_trip(&bytes);
}

#[test]
fn bytes_after_the_end_are_kept() {
    let mut bytes = hvm();
    bytes.extend((0..100_000u32).map(|i| (i % 249) as u8));
    assert_round_trip(&bytes);
}

#[test]
fn unknown_records_and_checkpoints_are_kept() {
    let bytes = SaveFile::xl(b"{}")
        .libxc(3, 2)
        .record(0x7777, b"mandatory, unknown")
        .record(0x8000_7777, b"optional, unknown")
        .record(0x0d, b"")
        .pages(&[1, 2])
        .record(0x0e, b"")
        .record(3, b"the emulator at the checkpoint")
        .record(4, b"")
        .pages(&[2])
        .end();
    assert_eq!(pfns_of(&take_apart(&bytes).unwrap()).len(), 2);
    assert_round_trip(&bytes);
}

#[test]
fn absent_pages_cost_a_few_frame_bytes_a_record() {
    let mut file = SaveFile::xl(b"").libxc(3, 2);
    for record in 0..100u64 {
        let entries: Vec<u64> = (record * 1024..(record + 1) * 1024).map(|pfn| pfn | 0xf << 60).collect();
        file = file.pages(&entries);
    }
    let bytes = file.end();
    let frame = frame_of(&bytes);
    assert!(frame.len() < 100 * 12 + 200, "{} frame bytes", frame.len());
    assert_round_trip(&bytes);
}

#[test]
fn the_coding_is_as_specified() {
    // The example of docs/frame-xen.md, twice, and what stands around it.
    let absent = |first: u64| (first..first + 1024).map(|pfn| pfn | 0xf << 60).collect::<Vec<u64>>();
    let bytes =
        SaveFile::xl(b"{}").libxc(3, 2).pages(&absent(0)).pages(&absent(1024)).record(0x07, b"x").end();
    let example = b"\x03\x88\x40\x80\x08\x00\x80\x08\x0f\x00";
    let expected = [
        &b"XLF\x01"[..],
        b"\x00\x00\x30",
        &bytes[..48],
        b"\x00\x01\x02{}",
        b"\x00\x02\x10",
        &bytes[50..66],
        b"\x01\x01\x00",
        b"\x00\x03\x18",
        &bytes[74..98],
        b"\x00\x04\x10",
        &bytes[98..114],
        example,
        example,
        b"\x02\x07\x01x\0\0\0\0\0\0\0",
        b"\x02\x00\x00",
        b"\x01\x00\x00",
        b"\x04",
    ];
    assert_eq!(frame_of(&bytes), expected.concat());
}

#[test]
fn an_end_anywhere_is_an_error_that_tells_where() {
    for bytes in [pv(), hvm()] {
        for len in 0..bytes.len() {
            match take_apart(&bytes[..len]) {
                Err(TapeError::Truncated { offset, record, .. }) => {
                    assert_eq!(offset, len as u64);
                    assert!(!record.is_empty());
                }
                other => panic!("{len} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn a_truncated_record_is_named() {
    let bytes = hvm();
    let error = take_apart(&bytes[..bytes.len() - 40]).unwrap_err();
    let begun = bytes.len() - 8 - 104 - 8;
    assert_eq!(
        error.to_string(),
        format!(
            "the Xen save file ends at byte {}, inside libxl EMULATOR_CONTEXT (begun at byte {begun})",
            bytes.len() - 40
        )
    );
}

#[test]
fn a_flipped_bit_is_an_error_or_kept() {
    for bytes in [pv(), hvm()] {
        // Page contents are opaque: a sample of them is enough.
        for at in (0..bytes.len()).filter(|at| at % 97 == 0 || bytes[*at] != bytes[at.saturating_sub(1)]) {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(items) = take_apart(&flipped) {
                    assert!(put_together(&items, usize::MAX).unwrap() == flipped, "bit {bit} of byte {at}");
                }
            }
        }
    }
}

/// Changes one byte of a good save and gives the error.
fn error_with(bytes: &[u8], at: usize, value: u8) -> String {
    let mut changed = bytes.to_vec();
    changed[at] = value;
    take_apart(&changed).unwrap_err().to_string()
}

#[test]
fn refusals_say_what_and_where() {
    let bytes = SaveFile::xl(b"").libxc(3, 2).pages(&[0, 1]).end();
    let cases = [
        (0, b'Y', "at byte 0, in xl header: this is not a file that `xl save` wrote (wrong magic)"),
        (35, 9, "at byte 0, in xl header: impossible byte order mark 0x9020304"),
        (36, 7, "at byte 0, in xl header: mandatory flags 0x7 need a newer ComIO"),
        (
            36,
            1,
            "at byte 0, in xl header: a stream of Xen 4.5 or older; restore it with its own Xen and save again",
        ),
        (48, 0, "at byte 48, in libxl header: wrong ident, \"LibxlFmt\" expected"),
        (59, 3, "at byte 48, in libxl header: unsupported version 3, 2 expected"),
        (63, 1, "at byte 48, in libxl header: big-endian streams are not supported"),
        (68, 8, "at byte 64, in libxl LIBXC_CONTEXT: length 8, but it has no body"),
        (72, 0, "at byte 72, in libxc image header: wrong marker, eight 0xff and \"XENF\" expected"),
        (87, 4, "at byte 72, in libxc image header: unsupported version 4, 2 or 3 expected"),
        (89, 1, "at byte 72, in libxc image header: big-endian streams are not supported"),
        (96, 3, "at byte 96, in libxc domain header: unknown domain type 3"),
        (100, 16, "at byte 96, in libxc domain header: pages of 2^16 bytes; only 4096 are supported"),
        (119, 0x10, "at byte 112, in libxc PAGE_DATA: impossible length 268443672"),
        (116, 0, "at byte 112, in libxc PAGE_DATA: 2 pfns do not fit its length 8192"),
        (120, 0, "at byte 112, in libxc PAGE_DATA: 0 pfns do not fit its length 8216"),
        (
            135,
            0xf0,
            "at byte 112, in libxc PAGE_DATA: its pfns name 1 pages with contents, its length holds 2",
        ),
        (135, 0x50, "at byte 112, in libxc PAGE_DATA: pfn 0x0 has the reserved type 5"),
    ];
    for (at, value, expected) in cases {
        let error = error_with(&bytes, at, value);
        assert_eq!(error, format!("the Xen save file is damaged {expected}"));
    }
}

#[test]
fn nothing_is_read_after_an_error() {
    let mut parser = Parser::new(&b"short"[..], "a test");
    assert!(matches!(parser.step(), Err(TapeError::Truncated { .. })));
    assert!(matches!(parser.step(), Err(TapeError::Malformed { .. })));
}

#[test]
fn pages_cannot_be_forgotten() {
    let bytes = pv();
    let mut parser = Parser::new(&bytes[..], "a test");
    assert!(matches!(parser.step(), Ok(Some(Step::Frame(_)))));
    assert!(matches!(parser.step(), Ok(Some(Step::Pages(_)))));
    assert!(matches!(parser.step(), Err(TapeError::Malformed { .. })));
}

/// Feeds one frame and one batch to a new rebuilder.
fn rebuild_error(frame: &[u8], batch: Option<Pfns>) -> String {
    let mut rebuilder = Rebuilder::new();
    let result = add_frame(&mut rebuilder, frame, &mut Vec::new())
        .and_then(|()| batch.map_or(Ok(()), |pfns| rebuilder.batch(&pfns)))
        .and_then(|()| rebuilder.finish());
    result.unwrap_err().to_string()
}

#[test]
fn hostile_frames_are_refused() {
    let no_batch: [(&[u8], &str); 13] = [
        (b"", "the frame's end is missing"),
        (b"XLG", "it is not the frame of a Xen save file, or of a newer version"),
        (b"XLF\x02", "it is not the frame of a Xen save file, or of a newer version"),
        (b"XLF\x01\x09", "unknown operation"),
        (b"XLF\x01\x00\x09", "unknown part"),
        (b"XLF\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "a number is too long"),
        (b"XLF\x01\x02\xff\xff\xff\xff\x7f", "a number is too large"),
        (b"XLF\x01\x02\x01\x08abcdefgh", "not coded as one"),
        (b"XLF\x01\x03\x08\x02\x00", "impossible length"),
        (b"XLF\x01\x03\x18\x02\x00\x03\x00\x00", "does not fit its record"),
        (b"XLF\x01\x03\x18\x02\x00\x02\x00\x00", "shorter than its pages"),
        (b"XLF\x01\x03\x18\x01\x00\x01\x0f\x00", "longer than its pages"),
        (b"XLF\x01\x04more", "bytes follow its end"),
    ];
    for (frame, expected) in no_batch {
        let error = rebuild_error(frame, None);
        assert!(error.contains(expected), "{frame:x?}: {error}");
    }
}

#[test]
fn a_run_that_leaves_the_address_space_is_refused() {
    // 2 entries from pfn 2^52 - 1 on: zigzag of -1 is 1.
    let error = rebuild_error(b"XLF\x01\x03\x18\x02\x00\x02\x0f\x01", None);
    assert!(error.contains("leaves the address space"), "{error}");
}

/// The frame of one record of two pages, 5 and 6, without an end.
const TWO_PAGES: &[u8] = b"XLF\x01\x03\x98\x40\x02\x00\x02\x00\x0a";

#[test]
fn pages_must_be_those_that_the_frame_names() {
    let run = |first, count| Some(Pfns::Run { first, count });
    assert!(rebuild_error(TWO_PAGES, None).contains("pages are missing"));
    assert!(rebuild_error(TWO_PAGES, run(5, 1)).contains("pages are missing"));
    assert!(rebuild_error(TWO_PAGES, run(6, 1)).contains("page 0x6 comes where 0x5 must"));
    assert!(rebuild_error(TWO_PAGES, run(5, 3)).contains("page 0x7 belongs to no record"));
    assert!(rebuild_error(TWO_PAGES, run(5, 2)).contains("the frame's end is missing"));
    assert!(rebuild_error(TWO_PAGES, run(u64::MAX, 2)).contains("cannot be"));
    assert!(rebuild_error(b"XLF\x01", run(0, 1)).contains("belongs to no record"));
}

#[test]
fn a_frame_that_goes_on_where_pages_must_come_is_refused() {
    let frame = [TWO_PAGES, b"\x04"].concat();
    assert!(rebuild_error(&frame, None).contains("goes on where pages must follow"));
}

#[test]
fn a_record_of_sixteen_million_absent_pages_is_written_in_pieces() {
    // 128 MiB of entries from a dozen frame bytes; the helper checks each piece's size.
    let count: u32 = (128 << 20) / 8 - 1;
    let mut frame = Vec::new();
    put_magic(&mut frame);
    put_page_data(8 + 8 * count, count, 0, &mut frame);
    RunEncoder::default().put(Run { first: 0, count, tag: 0xf00 }, &mut frame);
    put_end(&mut frame);
    let (mut rebuilder, mut piece, mut len) = (Rebuilder::new(), frame.as_slice(), 0);
    loop {
        let mut output = Vec::new();
        let progress = rebuilder.frame(&mut piece, &mut output).unwrap();
        assert!(output.len() <= 3 << 16);
        len += output.len();
        if progress == super::Progress::Done {
            break;
        }
    }
    rebuilder.finish().unwrap();
    assert_eq!(len, 16 + 8 * count as usize);
}

#[test]
fn the_tally_names_every_record() {
    let bytes = hvm();
    let frame = frame_of(&bytes);
    for cut in [1, 5, frame.len()] {
        let mut tally = Tally::new();
        for piece in frame.chunks(cut) {
            tally.add(piece).unwrap();
        }
        let tallies = tally.finish().unwrap();
        let found: Vec<_> = tallies.iter().map(|t| (&*t.name, t.count, t.bytes, t.pages)).collect();
        assert_eq!(
            found,
            [
                ("xl header", 1, 48, 0),
                ("xl configuration", 1, 3, 0),
                ("libxl header", 1, 16, 0),
                ("libxl LIBXC_CONTEXT", 1, 8, 0),
                ("libxc image header", 1, 24, 0),
                ("libxc domain header", 1, 16, 0),
                ("libxc PAGE_DATA", 2, 2 * 16 + 7 * 8, 3),
                ("libxc HVM_CONTEXT", 1, 64, 0),
                ("libxc HVM_PARAMS", 1, 32, 0),
                ("libxc END", 1, 8, 0),
                ("libxl EMULATOR_XENSTORE_DATA", 1, 32, 0),
                ("libxl EMULATOR_CONTEXT", 1, 112, 0),
                ("libxl END", 1, 8, 0),
            ]
        );
        let contents = 3 * PAGE_SIZE as u64;
        assert_eq!(tallies.iter().map(|t| t.bytes).sum::<u64>() + contents, bytes.len() as u64);
    }
}

#[test]
fn the_tally_of_half_a_frame_is_an_error() {
    let mut tally = Tally::new();
    tally.add(TWO_PAGES).unwrap();
    assert!(tally.finish().unwrap_err().to_string().contains("end is missing"));
}

mod random {
    //! Streams of random records, and random damage.

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Record {
        Other { record_type: u32, body: Vec<u8>, pad: u8 },
        Pages(Vec<u64>),
    }

    fn entry() -> impl Strategy<Value = u64> {
        let page_type = prop_oneof![Just(0u64), 0..5u64, 9..16u64];
        let pfn = prop_oneof![0..40u64, Just((1 << 52) - 1), 0..1u64 << 52];
        let reserved = prop_oneof![8 => Just(0u64), 1 => 0..256u64];
        (page_type, reserved, pfn)
            .prop_map(|(page_type, reserved, pfn)| page_type << 60 | reserved << 52 | pfn)
    }

    /// Ascending stretches, as Xen writes them, and single entries.
    fn entries() -> impl Strategy<Value = Vec<u64>> {
        let stretch = (entry(), 1..6u64).prop_map(|(entry, count)| {
            let room = (1u64 << 52) - (entry & ((1 << 52) - 1));
            (0..count.min(room)).map(|next| entry + next).collect::<Vec<u64>>()
        });
        vec(stretch, 1..5).prop_map(|stretches| stretches.concat())
    }

    fn record() -> impl Strategy<Value = Record> {
        // END, PAGE_DATA and CHECKPOINT have a meaning of their own.
        let plain =
            any::<u32>().prop_filter("a plain record", |record_type| ![0, 1, 0x0e].contains(record_type));
        let record_type = prop_oneof![2..0x0eu32, plain];
        prop_oneof![
            (record_type, vec(any::<u8>(), 0..40), any::<u8>())
                .prop_map(|(record_type, body, pad)| Record::Other { record_type, body, pad }),
            entries().prop_map(Record::Pages),
        ]
    }

    fn save_file() -> impl Strategy<Value = Vec<u8>> {
        let parts =
            (vec(any::<u8>(), 0..50), 2..4u32, 1..3u32, vec(record(), 0..12), vec(any::<u8>(), 0..20));
        parts.prop_map(|(config, version, domain_type, records, trailing)| {
            let mut file = SaveFile::xl(&config).libxc(version, domain_type);
            for record in records {
                file = match record {
                    Record::Other { record_type, body, pad } => file.padded_record(record_type, &body, pad),
                    Record::Pages(entries) => file.pages(&entries),
                };
            }
            let mut bytes = file.end();
            bytes.extend(trailing);
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_records_come_back_bit_for_bit(bytes in save_file(), cut in 1..200usize) {
            let items = take_apart(&bytes).unwrap();
            prop_assert!(put_together(&items, cut).unwrap() == bytes);
        }

        #[test]
        fn damage_is_an_error_or_kept(
            mut bytes in save_file(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(items) = take_apart(&bytes) {
                prop_assert!(put_together(&items, usize::MAX).unwrap() == bytes);
            }
        }

        #[test]
        fn a_damaged_frame_never_does_harm(
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            random in vec(any::<u8>(), 0..60),
        ) {
            let mut frame = frame_of(&pv());
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            for frame in [frame, [b"XLF\x01", random.as_slice()].concat()] {
                let (mut rebuilder, mut tally) = (Rebuilder::new(), Tally::new());
                // Either may refuse; the helper checks how much comes out at once.
                let _ = add_frame(&mut rebuilder, &frame, &mut Vec::new()).and_then(|()| rebuilder.finish());
                let _ = tally.add(&frame).and_then(|()| tally.finish());
            }
        }
    }
}

/// The sample files that the program's tests pack are what the generator makes.
#[test]
fn sample_files_are_the_generators() {
    for (name, bytes) in [("pv.xl", super::testing::pv()), ("hvm.xl", super::testing::hvm())] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        assert!(std::fs::read(&path).unwrap() == bytes, "{name}");
    }
}
