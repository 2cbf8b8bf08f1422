//! Decoding allocates nothing, whatever the blob holds: neither for pages as they were coded nor
//! for damaged ones. Counted is what goes through Rust's allocator; LZ4 and zstd, which are C,
//! decode in memory that was allocated with the decoder.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use comio_core::ecbc::{
    BLOB_ROOM, DifferenceCoder, Method, PageCode, PageDecoder, PageEncoder, UnitEncoder, UnitKey,
};
use comio_core::{PAGE_SIZE, Page};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches a thread-local
// number that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pages of several kinds, from easy to hopeless.
fn pages() -> Vec<Page> {
    let mut state = 7u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..200)
        .map(|number: u64| {
            let mut page = [0; PAGE_SIZE];
            for (i, word) in (0u64..).zip(page.as_chunks_mut::<8>().0) {
                let pointer = 0x7f12_3456_0000 + i * 64 + number;
                let kinds = [0, pointer, random() & 0xff, random(), u64::from_le_bytes(*b"some tex")];
                *word = kinds[usize::try_from(random() % (number % 5 + 1)).expect("below 5")].to_le_bytes();
            }
            page
        })
        .collect()
}

#[test]
fn decoding_allocates_nothing() {
    let mut decoder = PageDecoder::new();
    let (mut blob, mut out, base) = (vec![0; BLOB_ROOM], [0; PAGE_SIZE], [7; PAGE_SIZE]);
    let mut decoded = [0usize; 16];
    for method in Method::ALL {
        let mut encoder = PageEncoder::new(method);
        for (page, number) in pages().iter().zip(1usize..) {
            let PageCode::Blob { tag, len } = encoder.encode(page, &mut blob) else { continue };
            let before = ALLOCATIONS.get();
            decoder.decode(tag.number(), &blob[..len], &mut out).expect("the encoder's own");
            blob[number * 31 % len] ^= 1 << (number % 8);
            let _ = decoder.decode(tag.number(), &blob[..len], &mut out);
            let _ = decoder.decode(tag.number(), &blob[..len - number % len], &mut out);
            for coder in [DifferenceCoder::Zstd, DifferenceCoder::PackedLz] {
                let _ = decoder.decode_difference(coder, &blob[..len], &base, &mut out);
            }
            assert_eq!(ALLOCATIONS.get(), before, "{}", tag.name());
            decoded[usize::from(tag.number())] += 1;
        }
    }
    assert_eq!(decoded.iter().filter(|&&count| count > 50).count(), 5, "every coder: {decoded:?}");
}

#[test]
fn decoding_units_allocates_nothing() {
    let key = UnitKey { image: [1; 16], at: 0, len: 0, check: [0; 4] };
    let (mut decoder, mut code) = (PageDecoder::new(), vec![0; 16 * PAGE_SIZE]);
    for method in Method::ALL {
        let Some(mut encoder) = UnitEncoder::new(method, 16) else { continue };
        let mut decoded = 0;
        for (unit, number) in pages().chunks_exact(16).zip(1usize..) {
            let Some((tag, len)) = encoder.encode(unit.as_flattened(), &mut code) else { continue };
            let before = ALLOCATIONS.get();
            decoder.decode_unit(key, tag.number(), &code[..len], 16).expect("the encoder's own");
            code[number * 31 % len] ^= 1 << (number % 8);
            let _ = decoder.decode_unit(key, tag.number(), &code[..len], 16);
            let _ = decoder.decode_unit(key, tag.number(), &code[..len - number % len], 16);
            assert_eq!(ALLOCATIONS.get(), before, "{method}");
            decoded += 1;
        }
        assert!(decoded > 5, "{method}: {decoded} units");
    }
}

#[test]
fn the_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
