//! What every coder promises, on real guest pages and on adversarial ones.

use proptest::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::cpu::Cpu;
use super::*;
use crate::{PAGE_SIZE, Page};

const SETS: [&[u8]; 4] = [
    include_bytes!("../../testdata/build.pages.zst"),
    include_bytes!("../../testdata/desktop.pages.zst"),
    include_bytes!("../../testdata/idle.pages.zst"),
    include_bytes!("../../testdata/postgres.pages.zst"),
];

/// Every page of the test data.
pub(super) fn real_pages() -> Vec<Page> {
    let mut pages = Vec::new();
    for packed in SETS {
        let mut set = Vec::with_capacity(8 << 20);
        zstd_safe::decompress(&mut set, packed).unwrap();
        pages.extend_from_slice(set.as_chunks().0);
    }
    assert!(pages.len() >= 2000, "{} pages", pages.len());
    pages
}

struct Coders {
    encoder: PageEncoder,
    decoder: PageDecoder,
    /// The same for a CPU without any extras.
    plain: (PageEncoder, PageDecoder),
    blob: Vec<u8>,
}

impl Coders {
    fn new(method: Method) -> Self {
        let plain = (PageEncoder::on(Cpu::Any, method), PageDecoder::on(Cpu::Any));
        let (encoder, decoder) = (PageEncoder::new(method), PageDecoder::new());
        Self { encoder, decoder, plain, blob: vec![0; BLOB_ROOM] }
    }

    /// Codes the page, checks that it comes back and that the CPU makes no difference, gives the
    /// code and the blob.
    fn round(&mut self, page: &Page) -> (PageCode, &[u8]) {
        let code = self.encoder.encode(page, &mut self.blob);
        let mut back = [0xa5; PAGE_SIZE];
        let mut plain_blob = [0; BLOB_ROOM];
        assert_eq!(self.plain.0.encode(page, &mut plain_blob), code);
        match code {
            PageCode::Zero => assert_eq!(page, &[0; PAGE_SIZE]),
            PageCode::Fill(word) => assert!(page.as_chunks().0.iter().all(|w| *w == word.to_le_bytes())),
            PageCode::Stored => {}
            PageCode::Blob { tag, len } => {
                assert!((1..=BLOB_MAX).contains(&len), "{len} bytes");
                assert_eq!(self.decoder.decode(tag.number(), &self.blob[..len], &mut back), Ok(()));
                assert!(&back == page, "{} gives another page", tag.name());
                assert!(plain_blob[..len] == self.blob[..len], "{} depends on the CPU", tag.name());
                back = [0x5a; PAGE_SIZE];
                assert_eq!(self.plain.1.decode(tag.number(), &self.blob[..len], &mut back), Ok(()));
                assert!(&back == page, "{} gives another page on a plain CPU", tag.name());
            }
        }
        let len = if let PageCode::Blob { len, .. } = code { len } else { 0 };
        (code, &self.blob[..len])
    }
}

#[test]
fn real_pages_come_back_and_the_code_is_the_same_on_every_run() {
    let pages = real_pages();
    let golden = Method::ALL.map(|method| {
        let mut coders = Coders::new(method);
        let mut hash = Xxh3::new();
        let mut bytes = 0;
        for page in &pages {
            let (code, blob) = coders.round(page);
            hash.update(format!("{code:?}").as_bytes());
            hash.update(blob);
            bytes += if code == PageCode::Stored { PAGE_SIZE } else { blob.len() };
        }
        format!("{method} {bytes} {:016x}", hash.digest())
    });
    assert_eq!(golden, GOLDEN);
}

/// Method, encoded bytes and hash of all codes. A change here is a change of what images hold:
/// fine while they decode, but never by accident.
const GOLDEN: [&str; Method::ALL.len()] = [
    "raw 10485760 ce03cd9ba4a41464",
    "lz4 4345937 8ce90a81345baf78",
    "zstd1 3020133 0292da1494787b7e",
    "turbo 5290215 fc20788b07e15af0",
    "fast 4876571 ac7a8b18b47e16c4",
    "light 3794283 5afb720e930f78ee",
    "balanced 3235196 b7209503c9958353",
    "dense 3023235 2d656d84b5985999",
];

#[test]
fn an_encoder_forgets_the_pages_before() {
    let pages = real_pages();
    for method in Method::ALL {
        let mut used = Coders::new(method);
        for page in pages.iter().step_by(40) {
            let (code, blob) = used.round(page);
            let mut fresh = Coders::new(method);
            assert_eq!((code, blob), fresh.round(page), "{method}");
        }
    }
}

#[test]
fn damaged_blobs_give_an_error_or_a_page_and_never_old_contents() {
    let pages = real_pages();
    for method in Method::ALL {
        let mut coders = Coders::new(method);
        for (page, seed) in pages.iter().step_by(25).zip(0usize..) {
            let (PageCode::Blob { tag, .. }, blob) = coders.round(page) else { continue };
            let blob = blob.to_vec();
            let mut cut = vec![blob[..seed * 7 % blob.len()].to_vec(), [&blob[..], &[0]].concat()];
            cut.extend((0..40).map(|i| {
                let bit = (seed * 131 + i * 7919) % (blob.len() * 8);
                let mut flipped = blob.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            }));
            for damaged in cut {
                let mut one = [0x11; PAGE_SIZE];
                let mut two = [0x22; PAGE_SIZE];
                let result = coders.decoder.decode(tag.number(), &damaged, &mut one);
                assert_eq!(result, coders.plain.1.decode(tag.number(), &damaged, &mut two));
                assert!(one == two, "{} shows what the page held before", tag.name());
                assert!(result.is_ok() || one == [0; PAGE_SIZE]);
            }
        }
    }
}

#[test]
fn a_truncated_blob_is_an_error() {
    for method in Method::ALL {
        let mut coders = Coders::new(method);
        for page in real_pages().iter().step_by(100) {
            let (PageCode::Blob { tag, len }, blob) = coders.round(page) else { continue };
            let blob = blob.to_vec();
            for cut in [0, 1, len / 2, len - 1] {
                let result = coders.decoder.decode(tag.number(), &blob[..cut], &mut [1; PAGE_SIZE]);
                assert_eq!(result, Err(DecodeError::Damaged { coder: tag.name() }), "{cut} of {len} bytes");
            }
        }
    }
}

#[test]
fn an_unknown_tag_is_refused_by_its_number() {
    let mut page = [7; PAGE_SIZE];
    for tag in (0..=u8::MAX).filter(|&tag| Tag::from_number(tag).is_none()) {
        let result = PageDecoder::new().decode(tag, &[1, 2, 3], &mut page);
        assert_eq!(result, Err(DecodeError::UnknownCoder { tag }));
        assert_eq!(page, [0; PAGE_SIZE]);
    }
}

#[test]
fn peers_classify_nothing_and_levels_do() {
    let code = |method| Coders::new(method).round(&[0; PAGE_SIZE]).0;
    assert_eq!(code(Method::Raw), PageCode::Stored);
    for peer in [Method::Lz4, Method::Zstd1] {
        assert!(matches!(code(peer), PageCode::Blob { .. }), "{peer}");
    }
    for level in Method::LEVELS {
        assert_eq!(code(level), PageCode::Zero, "{level}");
    }
}

/// Pages that hurt: short periods, long and short runs, matches across the whole page, noise.
pub(super) fn adversarial_page() -> impl Strategy<Value = Box<Page>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..300),
        (any::<u8>(), 1usize..600).prop_map(|(byte, n)| vec![byte; n]),
        (prop::collection::vec(any::<u8>(), 1..12), 1usize..100).prop_map(|(unit, n)| unit.repeat(n)),
        (any::<u32>(), 1usize..200).prop_map(|(base, n)| (0..n)
            .flat_map(|i| (u64::from(base) + i as u64 * 64).to_le_bytes())
            .collect()),
    ];
    (prop::collection::vec(piece, 1..12), any::<bool>()).prop_map(|(pieces, mirror)| {
        let mut bytes = pieces.concat();
        bytes = bytes.into_iter().cycle().take(PAGE_SIZE).collect();
        if mirror {
            bytes.reverse();
        }
        let mut page = Box::new([0; PAGE_SIZE]);
        page.copy_from_slice(&bytes);
        page
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adversarial_pages_come_back(page in adversarial_page()) {
        for method in Method::ALL {
            Coders::new(method).round(&page);
        }
    }

    #[test]
    fn arbitrary_blobs_never_panic(blob in prop::collection::vec(any::<u8>(), 0..5000)) {
        let mut decoder = PageDecoder::new();
        for tag in 0..16 {
            let mut page = [0x77; PAGE_SIZE];
            if decoder.decode(tag, &blob, &mut page).is_err() {
                prop_assert_eq!(page, [0; PAGE_SIZE]);
            }
        }
    }
}
