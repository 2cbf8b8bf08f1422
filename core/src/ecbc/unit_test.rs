//! What units promise, on real guest pages and on adversarial ones.

use proptest::prelude::*;

use super::cpu::Cpu;
use super::test::{adversarial_page, real_pages};
use super::{DecodeError, Method, PageDecoder, Tag, UNIT_BYTES_MAX, UnitEncoder, UnitKey};
use crate::{PAGE_SIZE, Page};

const KEY: UnitKey = UnitKey { image: [1; 16], at: 0, len: 0, check: [0; 4] };

/// The pages that a decoder makes of a code.
fn decoded(decoder: &mut PageDecoder, tag: u8, code: &[u8], pages: usize) -> Result<Vec<Page>, DecodeError> {
    decoder.decode_unit(KEY, tag, code, pages)?;
    Ok((0..pages).map(|index| *decoder.page_of_last_unit(&KEY, index).expect("decoded")).collect())
}

struct Coders {
    encoders: [UnitEncoder; 2],
    decoders: [PageDecoder; 2],
    code: Vec<u8>,
}

impl Coders {
    /// Those of this CPU and of one without any extras; none where pages are coded alone.
    fn new(method: Method, pages: usize) -> Option<Self> {
        let encoders = [UnitEncoder::new(method, pages)?, UnitEncoder::on(Cpu::Any, method, pages)?];
        let decoders = [PageDecoder::new(), PageDecoder::on(Cpu::Any)];
        Some(Self { encoders, decoders, code: vec![0; UNIT_BYTES_MAX] })
    }

    /// Codes the pages, checks that they come back and that the CPU makes no difference; gives coder
    /// and code if they shrink.
    fn round(&mut self, pages: &[Page]) -> Option<(Tag, &[u8])> {
        let room = pages.len() * PAGE_SIZE;
        let mut plain = vec![0; room];
        let made = self.encoders[0].encode(pages.as_flattened(), &mut self.code[..room]);
        assert_eq!(self.encoders[1].encode(pages.as_flattened(), &mut plain), made);
        let (tag, len) = made?;
        let code = &self.code[..len];
        assert!(code == &plain[..len], "{} depends on the CPU", tag.name());
        for decoder in &mut self.decoders {
            assert!(
                decoded(decoder, tag.number(), code, pages.len()).as_deref() == Ok(pages),
                "{}",
                tag.name()
            );
        }
        Some((tag, code))
    }
}

#[test]
fn real_units_come_back_and_the_code_is_the_same_on_every_run() {
    let pages = real_pages();
    let golden: Vec<_> = Method::ALL
        .into_iter()
        .flat_map(|method| [2, 4, 7, 16].map(|unit| (method, unit)))
        .filter_map(|(method, unit)| {
            let mut coders = Coders::new(method, unit)?;
            let sizes = pages
                .chunks(unit)
                .map(|unit| coders.round(unit).map_or(unit.len() * PAGE_SIZE, |(_, code)| code.len()));
            Some(format!("{method} {unit} {}", sizes.sum::<usize>()))
        })
        .collect();
    assert_eq!(golden, GOLDEN);
}

/// Method, pages in a unit and encoded bytes. A change here is a change of what images hold: fine while
/// they decode, but never by accident.
const GOLDEN: [&str; 28] = [
    "lz4 2 4274291",
    "lz4 4 4217133",
    "lz4 7 4167442",
    "lz4 16 4120326",
    "zstd1 2 3002629",
    "zstd1 4 2990155",
    "zstd1 7 3041030",
    "zstd1 16 3062458",
    "turbo 2 6108364",
    "turbo 4 6069129",
    "turbo 7 6056526",
    "turbo 16 5994606",
    "fast 2 4825269",
    "fast 4 4810622",
    "fast 7 4789176",
    "fast 16 4755013",
    "light 2 3986653",
    "light 4 3936733",
    "light 7 3897207",
    "light 16 3861213",
    "balanced 2 3438915",
    "balanced 4 3376572",
    "balanced 7 3352331",
    "balanced 16 3318743",
    "dense 2 2974187",
    "dense 4 2968667",
    "dense 7 2965210",
    "dense 16 2997346",
];

#[test]
fn damaged_units_give_an_error_or_pages_and_never_old_contents() {
    let pages = real_pages();
    for method in Method::ALL {
        let Some(mut coders) = Coders::new(method, 4) else { continue };
        for (unit, seed) in pages.chunks_exact(4).step_by(20).zip(0usize..) {
            let Some((tag, code)) = coders.round(unit) else { continue };
            let code = code.to_vec();
            let mut damaged = vec![code[..seed * 7 % code.len()].to_vec(), [&code[..], &[0]].concat()];
            damaged.extend((0..40).map(|i| {
                let bit = (seed * 131 + i * 7919) % (code.len() * 8);
                let mut flipped = code.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            }));
            for damaged in damaged {
                let [one, two] =
                    coders.decoders.each_mut().map(|decoder| decoded(decoder, tag.number(), &damaged, 4));
                assert!(one == two, "{} shows what was decoded before", tag.name());
            }
        }
    }
}

#[test]
fn a_unit_of_another_size_is_an_error() {
    let pages = real_pages();
    for method in Method::ALL {
        let Some(mut coders) = Coders::new(method, 4) else { continue };
        let Some((tag, code)) =
            pages.chunks_exact(4).find_map(|unit| coders.round(unit).map(|(tag, code)| (tag, code.to_vec())))
        else {
            panic!("no unit shrinks by {method}")
        };
        for pages in [1, 2, 3, 5, 16, 17] {
            let result = decoded(&mut coders.decoders[0], tag.number(), &code, pages);
            assert_eq!(result, Err(DecodeError::Damaged { coder: "unit" }), "{method}: {pages} pages");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adversarial_units_come_back(pages in prop::collection::vec(adversarial_page(), 2..=16)) {
        let pages: Vec<Page> = pages.into_iter().map(|page| *page).collect();
        for method in Method::ALL {
            if let Some(mut coders) = Coders::new(method, pages.len()) {
                coders.round(&pages);
            }
        }
    }

    #[test]
    fn arbitrary_codes_never_panic(code in prop::collection::vec(any::<u8>(), 0..5000), pages in 1usize..20) {
        let mut decoder = PageDecoder::new();
        for coder in 0..16 {
            let _ = decoder.decode_unit(KEY, coder, &code, pages);
        }
    }
}
