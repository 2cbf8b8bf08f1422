//! The commit protocol, one for every storage.
//!
//! All data and the directory durable, then the footer, which makes an image of it, durable;
//! then what makes it findable is read back and compared; only then is it published. So a
//! crash at any point leaves no image, or a whole one.

use super::{Engine, EngineError, Phase, Progress};
use crate::buffer::{Buffer, Payload};
use crate::storage::{ObjectWriter, StorageError, StorageErrorKind};

/// What is read back before an image is published.
#[derive(Debug)]
pub(super) struct Tail {
    /// The superblock, which stands at 0.
    pub(super) superblock: Vec<u8>,
    /// The directory with its padding.
    pub(super) directory: Vec<u8>,
    /// Where it goes.
    pub(super) directory_offset: u64,
    /// The footer, which follows it.
    pub(super) footer: Vec<u8>,
}

/// Everything but the publishing.
pub(super) async fn make_durable(
    engine: &Engine,
    writer: &dyn ObjectWriter,
    tail: Tail,
    progress: &Progress,
) -> Result<(), EngineError> {
    let Tail { superblock, directory, directory_offset, footer } = tail;
    let footer_offset = directory_offset + directory.len() as u64;
    progress.enter(Phase::Syncing);
    writer.write_at(directory_offset, owned(&directory)).await?;
    writer.sync().await?;
    writer.write_at(footer_offset, owned(&footer)).await?;
    writer.sync().await?;
    progress.enter(Phase::Checking);
    for (offset, expected) in [(0, &superblock), (directory_offset, &directory), (footer_offset, &footer)] {
        read_back(engine, writer, offset, expected).await?;
    }
    Ok(())
}

/// The end of every new object: visible, or gone.
pub(super) async fn publish_or_abandon<T>(
    writer: Box<dyn ObjectWriter>,
    written: Result<T, EngineError>,
    progress: &Progress,
) -> Result<T, EngineError> {
    match written {
        Ok(report) => {
            publish(writer, progress).await?;
            Ok(report)
        }
        Err(error) => {
            abandon(writer, progress).await;
            Err(error)
        }
    }
}

pub(super) async fn publish(writer: Box<dyn ObjectWriter>, progress: &Progress) -> Result<(), StorageError> {
    progress.enter(Phase::Publishing);
    writer.publish().await?;
    progress.enter(Phase::Done);
    Ok(())
}

/// Removes what was written. The failure before it is what the user must know; a leftover that
/// could not be removed is noted in `progress`, and found by `Storage::leftovers`.
pub(super) async fn abandon(writer: Box<dyn ObjectWriter>, progress: &Progress) {
    progress.enter(Phase::Removing);
    if writer.abandon().await.is_err() {
        progress.leave_something();
    }
}

/// Compares what stands at `offset` with what was written there.
pub(super) async fn read_back(
    engine: &Engine,
    writer: &dyn ObjectWriter,
    mut offset: u64,
    expected: &[u8],
) -> Result<(), EngineError> {
    for expected in expected.chunks(engine.encoded.slot_bytes()) {
        let buffer = engine.encoded.take_slot().await?;
        let found = writer.read_at(offset, expected.len(), buffer).await?;
        if let Payload::Bytes(found) = &found
            && **found != *expected
        {
            let problem = "what was read back is not what was written; the image was not kept";
            let target = format!("{} bytes at {offset}", expected.len());
            return Err(StorageError::new(StorageErrorKind::Corrupt, "verify", target, problem).into());
        }
        offset += expected.len() as u64;
    }
    Ok(())
}

pub(super) fn owned(bytes: &[u8]) -> Payload {
    Payload::Bytes(Buffer::unpooled(bytes.to_vec()))
}
