//! Cuts test pages out of a flat dump: evenly strided, uniform pages left out, zstd-compressed.
//!
//! `cargo run --release -p comio-core --example cut-pages -- DUMP PAGES OUT.zst`

use std::error::Error;

use comio_core::PAGE_SIZE;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dump, count, out] = arguments.as_slice() else {
        return Err("usage: cut-pages DUMP PAGES OUT.zst".into());
    };
    let bytes = std::fs::read(dump)?;
    let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
    let telling: Vec<_> = pages.iter().filter(|page| !is_uniform(page)).collect();
    let count: usize = count.parse()?;
    if count == 0 || telling.len() < count {
        return Err(format!("{dump} has {} pages to choose from", telling.len()).into());
    }
    let cut: Vec<u8> = (0..count).flat_map(|i| telling[i * telling.len() / count].iter().copied()).collect();
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(cut.len()));
    zstd_safe::compress(&mut packed, &cut, 19).map_err(zstd_safe::get_error_name)?;
    std::fs::write(out, packed)?;
    Ok(())
}

fn is_uniform(page: &[u8; PAGE_SIZE]) -> bool {
    let (words, _) = page.as_chunks::<4>();
    words.iter().all(|word| *word == words[0])
}
