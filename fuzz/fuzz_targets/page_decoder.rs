//! Blobs of every coder: whatever comes, a page or an error, and after an error no byte of
//! what was in the page before. The first input byte is the entry tag; 16 is a difference to a
//! page that the next byte chooses, and above it stands what is encoded first.

#![no_main]

use std::cell::RefCell;

use comio_core::PAGE_SIZE;
use comio_core::ecbc::{Method, PageCode, PageDecoder, PageEncoder};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DECODER: RefCell<PageDecoder> = RefCell::new(PageDecoder::new());
}

fuzz_target!(|input: &[u8]| {
    let Some((&tag, blob)) = input.split_first() else { return };
    match tag {
        0..16 => decode(tag, blob),
        16 => decode_difference(blob),
        _ => round_trip(tag, blob),
    }
});

fn decode(tag: u8, blob: &[u8]) {
    let mut page = [0xa5; PAGE_SIZE];
    let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode(tag, blob, &mut page));
    if decoded.is_err() {
        assert!(page.iter().all(|&byte| byte == 0), "stale contents after an error");
    }
}

fn decode_difference(input: &[u8]) {
    let Some((&kind, blob)) = input.split_first() else { return };
    let base = std::array::from_fn(|i| (i / 8 * usize::from(kind)).to_le_bytes()[i % 8]);
    let (mut page, mut again) = ([0xa5; PAGE_SIZE], [0x5a; PAGE_SIZE]);
    let decoded = DECODER.with_borrow_mut(|decoder| {
        let first = decoder.decode_difference(blob, &base, &mut page);
        assert_eq!(first, decoder.decode_difference(blob, &base, &mut again));
        first
    });
    assert!(page == again, "stale contents");
    assert!(decoded.is_ok() || page == [0; PAGE_SIZE], "stale contents after an error");
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
