//! Images: whatever comes, a tape or a typed error, never a panic and never other pages.
//!
//! An even first byte takes the rest as a file. An odd one takes it as changes to a small valid
//! image, three bytes each (place, place, value), and then sets right every hash that is not
//! itself changed, so that what lies behind the hashes is reached.

#![no_main]

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, Image, Progress, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::testing::MemoryStorage;
use comio_core::PAGE_SIZE;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

const BLOCK: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    if mode % 2 == 0 {
        read_all(bytes.to_vec());
    } else {
        let mut image = base().clone();
        for change in bytes.chunks_exact(3) {
            let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % image.len();
            image[place] = change[2];
        }
        set_hashes_right(&mut image);
        read_all(image);
    }
});

fn engine() -> Engine {
    Engine::new(Arc::new(Inline), Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid)), 0)
}

/// Every way to read an image.
fn read_all(bytes: Vec<u8>) {
    let storage = MemoryStorage::new();
    storage.insert("image", bytes);
    block_on(async {
        let (engine, progress) = (engine(), Progress::default());
        let Ok(reader) = storage.open("image").await else { return };
        let _ = engine::recover(&engine, &*reader, &storage, "new", true, &progress).await;
        let Ok(image) = Image::open(reader).await else { return };
        let _ = engine::verify(&engine, &image, &progress).await;
        let _ = engine::extract(&image, [0, 3, 700, 1 << 33], |_| Ok(())).await;
        let _ = engine::restore(&engine, &image, &mut Nowhere, &progress).await;
        let _ = engine::restore_partial(&engine, &image, &mut Nowhere, &progress).await;
    });
}

fn set_hashes_right(image: &mut [u8]) {
    let end = image.len() - BLOCK;
    let mut at = BLOCK;
    while at < end {
        if image[at..].starts_with(b"CIOSEG01") {
            let words = usize::from(u16::from_le_bytes([image[at + 50], image[at + 51]]));
            if let Some(header_and_table) = image.get(at..at + 64 + 8 * words) {
                let mut hashed = header_and_table.to_vec();
                hashed[56..64].fill(0);
                image[at + 56..at + 64].copy_from_slice(&xxh3_64(&hashed).to_le_bytes());
            }
        }
        at += BLOCK;
    }
    let superblock = xxh3_64(&image[..BLOCK - 8]);
    image[BLOCK - 8..BLOCK].copy_from_slice(&superblock.to_le_bytes());
    let whole = xxh3_64(&image[..BLOCK]);
    image[end + 24..end + 32].copy_from_slice(&whole.to_le_bytes());
    let directory = xxh3_64(&image[end - BLOCK..end]);
    image[end + 40..end + 48].copy_from_slice(&directory.to_le_bytes());
    let footer = xxh3_64(&image[end..end + BLOCK - 16]);
    image[end + BLOCK - 16..end + BLOCK - 8].copy_from_slice(&footer.to_le_bytes());
}

/// A valid image with pages of every class in runs, gaps and lists.
fn base() -> &'static Vec<u8> {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let storage = MemoryStorage::new();
        let options = SaveOptions { uuid: [7; 16], created_unix_s: 0, replace: true };
        let (engine, progress) = (engine(), Progress::default());
        block_on(engine::save(&engine, &mut Tape(0), &storage, "image", &options, &progress))
            .expect("a memory storage takes it");
        storage.contents("image").expect("published").to_vec()
    })
}

struct Tape(usize);

#[async_trait]
impl GuestReader for Tape {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let pfns: Vec<u64> = match self.0 {
            0 => (0..40).collect(),
            1 => (700..760).step_by(3).collect(),
            2 => vec![1 << 33, 5, 1 << 20],
            3 => {
                self.0 += 1;
                return Ok(Some(TapeItem::Frame(b"tail".to_vec())));
            }
            _ => return Ok(None),
        };
        self.0 += 1;
        let mut pages = pool.take_slot().await?;
        for (page, pfn) in pages.spare().chunks_exact_mut(PAGE_SIZE).zip(&pfns) {
            for (i, byte) in (0u64..).zip(page.iter_mut()) {
                let kinds = [0, 7, (i / 9 * pfn) % 251, i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56];
                *byte = kinds[(*pfn % 4) as usize].to_le_bytes()[0];
            }
        }
        pages.set_len(pfns.len() * PAGE_SIZE);
        let pages = Payload::Bytes(pages);
        Ok(Some(TapeItem::Batch(Batch { pfns: Pfns::from_list(pfns), pages })))
    }
}

struct Nowhere;

#[async_trait]
impl GuestWriter for Nowhere {
    async fn write(&mut self, _: TapeItem) -> Result<(), TapeError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}
