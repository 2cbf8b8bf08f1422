//! Blobs of every coder: whatever comes, a page or an error, and after an error no byte of
//! what was in the page before. The first input byte is the entry tag.

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
    if tag < 16 {
        decode(tag, blob);
    } else {
        round_trip(tag, blob);
    }
});

fn decode(tag: u8, blob: &[u8]) {
    let mut page = [0xa5; PAGE_SIZE];
    let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode(tag, blob, &mut page));
    if decoded.is_err() {
        assert!(page.iter().all(|&byte| byte == 0), "stale contents after an error");
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
