//! Images: whatever comes, a tape or a typed error, never a panic and never other pages.
//!
//! An even first byte takes the rest as a file. An odd one takes it as changes to a small valid
//! image, three bytes each (place, place, value), and then sets right every hash that is not
//! itself changed, so that what lies behind the hashes is reached. Of an odd one bit 1 takes an
//! increment and its parent instead, and bit 2 says which of them is changed; what the increment
//! knows its parent by is set right as well.

#![no_main]

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::buffer::{BufferPool, Payload};
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, Foundation, Image, Progress, Relative, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::hypervisor::{GuestInfo, HeldGuest, Hypervisor, HypervisorError, NewGuest};
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{Batch, GuestReader, GuestWriter, Pfns, TapeError, TapeFormat, TapeItem};
use comio_core::testing::MemoryStorage;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

const BLOCK: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let storage = MemoryStorage::new();
    match (mode & 1 != 0, mode & 2 != 0) {
        (false, _) => storage.insert("image", bytes.to_vec()),
        (true, false) => storage.insert("image", changed(base(), bytes)),
        (true, true) => {
            let (mut parent, mut child) = (base().clone(), increment().clone());
            let one = if mode & 4 != 0 { &mut parent } else { &mut child };
            *one = changed(one, bytes);
            let check = parent.len() - 16..parent.len() - 8;
            child[FIRST_ANCESTOR + 16..FIRST_ANCESTOR + 24].copy_from_slice(&parent[check]);
            set_hashes_right(&mut child);
            storage.insert("parent", parent);
            storage.insert("image", child);
        }
    }
    read_all(&storage);
    save_upon(&storage, "image");
    save_upon(&storage, "parent");
});

/// Where the superblock names its first ancestor.
const FIRST_ANCESTOR: usize = 1024;

fn changed(image: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % image.len();
        image[place] = change[2];
    }
    set_hashes_right(&mut image);
    image
}

fn engine() -> Engine {
    Engine::new(Arc::new(Inline), Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid).with_digests([7; 16])), 0)
}

/// Every way to read an image.
fn read_all(storage: &MemoryStorage) {
    block_on(async {
        let (engine, progress) = (engine(), Progress::default());
        let Ok(reader) = storage.open("image").await else { return };
        let _ = engine::recover(&engine, &*reader, storage, "new", true, &progress).await;
        let Ok(image) = Image::open_with_ancestors(storage, "image", &[]).await else { return };
        let options = SaveOptions { uuid: [9; 16], created_unix_s: 0, replace: true };
        let _ = engine::flatten(&engine, &image, storage, "flat", &options, &progress).await;
        let _ = engine::restore_guest(&engine, storage, "image", &NoGuests, "guest", &progress).await;
        let _ = engine::verify_deep(&engine, &image, &progress).await;
        let _ = engine::verify(&engine, &image, &progress).await;
        let _ = engine::extract(&image, [0, 3, 700, 1 << 33], |_| Ok(())).await;
        let _ = engine::restore(&engine, &image, &mut Nowhere, &progress).await;
        let _ = engine::restore_partial(&engine, &image, &mut Nowhere, &progress).await;
    });
}

/// A guest saved upon what stands under `name`, whatever that is.
fn save_upon(storage: &MemoryStorage, name: &str) {
    block_on(async {
        let Ok(image) = Image::open_with_ancestors(storage, name, &[]).await else { return };
        let parent = Relative { name: name.into(), image };
        let Ok(foundation) = Foundation::new(Some(parent), None) else { return };
        let options = SaveOptions { uuid: [8; 16], created_unix_s: 0, replace: true };
        let (engine, progress) = (engine(), Progress::default());
        let mut tape = Tape { part: 0, salt: 2 };
        let saving =
            engine::save_upon(&engine, Some(&foundation), &mut tape, storage, "upon", &options, &progress);
        saving.await.expect("a parent that cannot be read costs ratio only");
        let upon = Image::open_with_ancestors(storage, "upon", &[]).await.expect("saved");
        engine::restore(&engine, &upon, &mut Nowhere, &progress).await.expect("as it was saved");
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
        save(&storage, "image", 7, 0, None)
    })
}

/// The same guest a little later, upon it.
fn increment() -> &'static Vec<u8> {
    static INCREMENT: OnceLock<Vec<u8>> = OnceLock::new();
    INCREMENT.get_or_init(|| {
        let storage = MemoryStorage::new();
        storage.insert("parent", base().clone());
        let image = block_on(Image::open_with_ancestors(&storage, "parent", &[])).expect("valid");
        let parent = Relative { name: "parent".into(), image };
        let foundation = Foundation::new(Some(parent), None).expect("whole");
        save(&storage, "image", 6, 1, Some(&foundation))
    })
}

fn save(storage: &MemoryStorage, name: &str, uuid: u8, salt: u64, upon: Option<&Foundation>) -> Vec<u8> {
    let options = SaveOptions { uuid: [uuid; 16], created_unix_s: 0, replace: true };
    let (engine, progress) = (engine(), Progress::default());
    let mut tape = Tape { part: 0, salt };
    block_on(engine::save_upon(&engine, upon, &mut tape, storage, name, &options, &progress))
        .expect("a memory storage takes it");
    storage.contents(name).expect("published").to_vec()
}

/// A guest; `salt` changes some of its pages a little and some altogether.
struct Tape {
    part: usize,
    salt: u64,
}

#[async_trait]
impl GuestReader for Tape {
    fn format(&self) -> TapeFormat {
        TapeFormat::RAW
    }

    fn size_hint(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        let pfns: Vec<u64> = match self.part {
            0 => (0..40).collect(),
            1 => (700..760).step_by(3).collect(),
            2 => vec![1 << 33, 5, 1 << 20],
            3 => {
                self.part += 1;
                return Ok(Some(TapeItem::Frame(b"tail".to_vec())));
            }
            _ => return Ok(None),
        };
        self.part += 1;
        let mut pages = pool.take_slot().await?;
        for (page, pfn) in pages.spare().chunks_exact_mut(PAGE_SIZE).zip(&pfns) {
            for (i, byte) in (0u64..).zip(page.iter_mut()) {
                let kinds = [0, 7, (i / 9 * pfn) % 251, i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56];
                *byte = kinds[(*pfn % 4) as usize].to_le_bytes()[0];
            }
            match *pfn % 11 {
                5 => page[..8].copy_from_slice(&(self.salt * 0x0123_4567_89ab).to_le_bytes()),
                7 => page.rotate_left(8 * self.salt as usize),
                _ => {}
            }
        }
        pages.set_len(pfns.len() * PAGE_SIZE);
        let pages = Payload::Bytes(pages);
        Ok(Some(TapeItem::Batch(Batch { pfns: Pfns::from_list(pfns), pages })))
    }
}

/// Where no guest can be made.
struct NoGuests;

#[async_trait]
impl Hypervisor for NoGuests {
    async fn list(&self) -> Result<Vec<GuestInfo>, HypervisorError> {
        Ok(Vec::new())
    }

    async fn begin_save(&self, guest: &str) -> Result<Box<dyn HeldGuest>, HypervisorError> {
        Err(HypervisorError::NotFound(guest.to_owned()))
    }

    async fn begin_restore(&self, guest: &str, _: TapeFormat) -> Result<Box<dyn NewGuest>, HypervisorError> {
        Err(HypervisorError::NotFound(guest.to_owned()))
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
