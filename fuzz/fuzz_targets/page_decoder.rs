//! Blobs of every coder: whatever comes, a page or an error, and after an error no byte of
//! what was in the page before. The first input byte is the entry tag; 16 is a difference to a
//! page that the next byte chooses, by zstd, 17 a unit by coder and number of pages, 18 a difference by
//! packed page LZ, and above it stands what is encoded first.

#![no_main]

use std::cell::RefCell;

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{DifferenceCoder, Method, PageCode, PageDecoder, PageEncoder, UNIT_BYTES_MAX, UnitEncoder, UnitKey};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DECODER: RefCell<PageDecoder> = RefCell::new(PageDecoder::new());
}

fuzz_target!(|input: &[u8]| {
    let Some((&tag, blob)) = input.split_first() else { return };
    match tag {
        0..16 => decode(tag, blob),
        16 => decode_difference(DifferenceCoder::Zstd, blob),
        17 => decode_unit(blob),
        18 => decode_difference(DifferenceCoder::PackedLz, blob),
        ..128 => round_trip(tag, blob),
        128.. => round_trip_of_unit(tag, blob),
    }
});

fn decode(tag: u8, blob: &[u8]) {
    let mut page = [0xa5; PAGE_SIZE];
    let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode(tag, blob, &mut page));
    if decoded.is_err() {
        assert!(page.iter().all(|&byte| byte == 0), "stale contents after an error");
    }
}

fn decode_difference(coder: DifferenceCoder, input: &[u8]) {
    let Some((&kind, blob)) = input.split_first() else { return };
    let base = std::array::from_fn(|i| (i / 8 * usize::from(kind)).to_le_bytes()[i % 8]);
    let (mut page, mut again) = ([0xa5; PAGE_SIZE], [0x5a; PAGE_SIZE]);
    let decoded = DECODER.with_borrow_mut(|decoder| {
        let first = decoder.decode_difference(coder, blob, &base, &mut page);
        assert_eq!(first, decoder.decode_difference(coder, blob, &base, &mut again));
        first
    });
    assert!(page == again, "stale contents");
    assert!(decoded.is_ok() || page == [0; PAGE_SIZE], "stale contents after an error");
}

fn decode_unit(input: &[u8]) {
    let Some((&[coder, pages], code)) = input.split_first_chunk() else { return };
    let pages = usize::from(pages);
    let whole = DECODER.with_borrow_mut(|decoder| {
        let decoded = decoder.decode_unit(KEY, coder, code, pages);
        assert_eq!(decoded.is_ok(), decoder.page_of_last_unit(&KEY, 0).is_some(), "pages after an error");
        decoded.is_ok().then(|| unit(decoder, pages))
    });
    // Again, after pages of another kind.
    DECODER.with_borrow_mut(|decoder| {
        decode_other(decoder);
        let decoded = decoder.decode_unit(KEY, coder, code, pages);
        assert_eq!(decoded.is_ok(), whole.is_some());
        assert!(whole.is_none_or(|whole| whole == unit(decoder, pages)), "stale contents");
    });
}

const KEY: UnitKey = UnitKey { image: [1; 16], at: 0, len: 0, check: [0; 4] };

fn unit(decoder: &PageDecoder, pages: usize) -> Vec<u8> {
    let page = |index| decoder.page_of_last_unit(&KEY, index).expect("it was decoded");
    (0..pages).flat_map(|index| *page(index)).collect()
}

/// A unit as large as there can be, of bytes that are not zero.
fn decode_other(decoder: &mut PageDecoder) {
    let mut code = vec![0; UNIT_BYTES_MAX];
    let pages = vec![0xa5; UNIT_BYTES_MAX];
    let mut encoder = UnitEncoder::new(Method::Lz4, UNIT_BYTES_MAX / PAGE_SIZE).expect("LZ4 makes units");
    let (tag, len) = encoder.encode(&pages, &mut code).expect("it shrinks");
    decoder
        .decode_unit(KEY, tag.number(), &code[..len], UNIT_BYTES_MAX / PAGE_SIZE)
        .expect("the encoder's own");
}

/// The input repeated to two to sixteen pages, encoded and decoded.
fn round_trip_of_unit(choice: u8, bytes: &[u8]) {
    let pages = 2 + usize::from(choice & 0xf).min(14);
    let method = Method::ALL[usize::from(choice >> 4 & 7)];
    let Some(mut encoder) = UnitEncoder::new(method, pages) else { return };
    if bytes.is_empty() {
        return;
    }
    let whole: Vec<u8> = bytes.iter().cycle().take(pages * PAGE_SIZE).copied().collect();
    let mut code = vec![0; whole.len()];
    if let Some((tag, len)) = encoder.encode(&whole, &mut code) {
        DECODER.with_borrow_mut(|decoder| {
            decoder.decode_unit(KEY, tag.number(), &code[..len], pages).expect("the encoder's own code");
            assert!(unit(decoder, pages) == whole, "other pages came back");
        });
    }
}

/// The input repeated to a page, encoded and decoded.
fn round_trip(choice: u8, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let mut page = [0; PAGE_SIZE];
    for (to, from) in page.iter_mut().zip(bytes.iter().cycle()) {
        *to = *from;
    }
    let method = Method::ALL[usize::from(choice) % Method::ALL.len()];
    let mut blob = [0; PAGE_SIZE];
    if let PageCode::Blob { tag, len } = PageEncoder::new(method).encode(&page, &mut blob) {
        let mut back = [0xa5; PAGE_SIZE];
        DECODER
            .with_borrow_mut(|decoder| decoder.decode(tag.number(), &blob[..len], &mut back))
            .expect("the encoder's own blob");
        assert!(back == page, "another page came back");
    }
}
