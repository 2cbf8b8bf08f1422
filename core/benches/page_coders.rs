//! Each method's speed on the test pages. What its peers do: `comio bench codec`.

use std::hint::black_box;

use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageDecoder, PageEncoder};
use comio_core::{PAGE_SIZE, Page};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SETS: [(&str, &[u8]); 4] = [
    ("build", include_bytes!("../testdata/build.pages.zst")),
    ("desktop", include_bytes!("../testdata/desktop.pages.zst")),
    ("idle", include_bytes!("../testdata/idle.pages.zst")),
    ("postgres", include_bytes!("../testdata/postgres.pages.zst")),
];

fn page_coders(criterion: &mut Criterion) {
    for (name, packed) in SETS {
        let mut memory = Vec::with_capacity(8 << 20);
        zstd_safe::decompress(&mut memory, packed).expect("a frame");
        let pages: &[Page] = memory.as_chunks().0;
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((pages.len() * PAGE_SIZE) as u64));
        for method in Method::ALL {
            let mut encoder = PageEncoder::new(method);
            let mut blob = [0; BLOB_ROOM];
            group.bench_function(format!("{method}/encode"), |bencher| {
                bencher.iter(|| {
                    for page in pages {
                        black_box(encoder.encode(page, &mut blob));
                    }
                });
            });
            let codes = codes(&mut encoder, pages);
            let mut decoder = PageDecoder::new();
            let mut page = [0; PAGE_SIZE];
            group.bench_function(format!("{method}/decode"), |bencher| {
                bencher.iter(|| {
                    for (tag, blob) in &codes {
                        decoder.decode(*tag, blob, &mut page).expect("own blobs decode");
                        black_box(&page);
                    }
                });
            });
        }
        group.finish();
    }
}

/// Tags and blobs of the pages that have one.
fn codes(encoder: &mut PageEncoder, pages: &[Page]) -> Vec<(u8, Vec<u8>)> {
    let mut room = [0; BLOB_ROOM];
    let coded = pages.iter().filter_map(|page| match encoder.encode(page, &mut room) {
        PageCode::Blob { tag, len } => Some((tag.number(), room[..len].to_vec())),
        _ => None,
    });
    coded.collect()
}

criterion_group!(benches, page_coders);
criterion_main!(benches);
