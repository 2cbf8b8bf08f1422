//! Copying an image between storages, under the same rules as a save.

use std::ops::Range;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::commit::{publish_or_abandon, read_back};
use super::{Engine, EngineError, Phase, Progress, SaveOptions, space};
use crate::buffer::{Buffer, Payload};
use crate::format::footer::Footer;
use crate::format::{BLOCK, FormatError};
use crate::storage::{ObjectReader, ObjectWriter, Storage};

/// Copies the image `source` to `storage` as `name`, its last block written last. The copy is
/// published only after it was made durable, and what makes it an image was read back.
///
/// # Errors
/// When the source does not end with a footer; the storages'; the memory budget's.
pub async fn copy(
    engine: &Engine,
    source: &dyn ObjectReader,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<u64, EngineError> {
    if source.len() < BLOCK as u64 {
        return Err(FormatError::NotAnImage(format!("it has only {} bytes", source.len())).into());
    }
    let create = engine.create_options(&options.uuid, options.replace);
    let writer = progress.unless_stopped(space::create(storage, name, create, source.len())).await?;
    let written = progress.unless_stopped(write(engine, source, &*writer, progress)).await;
    match publish_or_abandon(writer, written, progress).await {
        Ok(()) => Ok(source.len()),
        Err(error) => Err(space::explain(error, storage, progress).await),
    }
}

async fn write(
    engine: &Engine,
    source: &dyn ObjectReader,
    writer: &dyn ObjectWriter,
    progress: &Progress,
) -> Result<(), EngineError> {
    progress.set_total(source.len());
    progress.enter(Phase::Moving);
    let footer_at = source.len() - BLOCK as u64;
    let chunk = engine.encoded.slot_bytes();
    let pieces = (0..footer_at).step_by(chunk).map(|offset| async move {
        let len = usize::try_from(footer_at - offset).map_or(chunk, |left| left.min(chunk));
        let buffer = engine.encoded.take_slot().await?;
        let piece = source.read_at(offset, len, buffer).await?;
        writer.write_at(offset, piece).await?;
        progress.add(len as u64, len as u64);
        Ok::<(), EngineError>(())
    });
    stream::iter(pieces).buffer_unordered(engine.segments_at_once()).try_collect::<()>().await?;
    progress.enter(Phase::Syncing);
    writer.sync().await?;
    let block = Buffer::unpooled(vec![0; BLOCK]);
    let footer = source.read_at(footer_at, BLOCK, block).await?.into_bytes()?.to_vec();
    let directory_at = Footer::parse(&footer, footer_at)?.directory_offset;
    writer.write_at(footer_at, Payload::Bytes(Buffer::unpooled(footer.clone()))).await?;
    writer.sync().await?;
    progress.enter(Phase::Checking);
    // The superblock, the directory up to the footer, and that.
    compare(engine, source, writer, 0..BLOCK as u64).await?;
    compare(engine, source, writer, directory_at..footer_at).await?;
    read_back(engine, writer, footer_at, &footer).await
}

/// Compares what was written with the source.
async fn compare(
    engine: &Engine,
    source: &dyn ObjectReader,
    writer: &dyn ObjectWriter,
    range: Range<u64>,
) -> Result<(), EngineError> {
    let chunk = engine.encoded.slot_bytes();
    for offset in range.clone().step_by(chunk) {
        let len = usize::try_from(range.end - offset).map_or(chunk, |left| left.min(chunk));
        let buffer = engine.encoded.take_slot().await?;
        if let Payload::Bytes(expected) = source.read_at(offset, len, buffer).await? {
            read_back(engine, writer, offset, &expected).await?;
        }
    }
    Ok(())
}
