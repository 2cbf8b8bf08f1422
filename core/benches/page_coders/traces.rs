//! The shipped traces: recorded guests, as ComIO images.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use comio_core::compute::Inline;
use comio_core::ecbc::Method;
use comio_core::engine::{self, Engine, Image, Progress};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;
use comio_core::tape::{GuestWriter, TapeError, TapeItem};
use comio_core::testing::MemoryStorage;
use futures::executor::block_on;

#[derive(Default)]
struct Memory(Vec<u8>);

#[async_trait]
impl GuestWriter for Memory {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        if let TapeItem::Batch(batch) = item {
            self.0.extend_from_slice(batch.pages.bytes()?);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        Ok(())
    }
}

/// Name and memory of every trace that stands on its own.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/traces");
    let mut paths: Vec<_> = fs::read_dir(directory)
        .expect("the traces are shipped")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-0.comio")))
        .collect();
    paths.sort();
    let named = paths.iter().map(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        (name.trim_end_matches("-0").to_owned(), memory(path))
    });
    named.collect()
}

fn memory(path: &Path) -> Vec<u8> {
    let storage = MemoryStorage::new();
    storage.insert("trace", fs::read(path).expect("readable"));
    let coder = Arc::new(EcbcCoder::new(Method::Fast, Placement::Hybrid));
    let engine = Engine::new(Arc::new(Inline), coder, 0);
    let mut memory = Memory::default();
    block_on(async {
        let image = Image::open(storage.open("trace").await.expect("inserted")).await.expect("an image");
        engine::restore(&engine, &image, &mut memory, &Progress::default()).await.expect("whole");
    });
    memory.0
}
