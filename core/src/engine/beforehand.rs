//! All that a guest will be made of, checked before there is a guest.
//!
//! Images that rest on others are read through to them and every stored byte is held against
//! its check: many hands had a chance to change an ancestor. Nothing is decoded, which is what
//! takes the time; decoding verifies contents once more. What fits the memory is kept, so that
//! small guests, and all guests where memory is plenty, are read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};

use super::restore::{Stored, read};
use super::{Engine, EngineError, Image};
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::format::directory::DirectoryEntry;

/// Segments that were read, by number.
pub(super) type Kept = BTreeMap<usize, Stored>;

/// Checks `image` and what it rests on; gives the segments that memory has room for.
///
/// # Errors
/// Damage; the storage's.
pub(super) async fn check(engine: &Engine, image: &Image) -> Result<Kept, EngineError> {
    for entry in image.frames() {
        image.frame_chunk(entry).await?;
    }
    let mut kept = Kept::new();
    let mut waiting = image.segments().iter().enumerate();
    let mut running = FuturesUnordered::<BoxFuture<'_, (usize, Result<Stored, EngineError>)>>::new();
    let at_once = image.segments_at_once(engine);
    loop {
        while running.is_empty() || running.len() + slots(&kept, engine) < at_once {
            let Some((number, entry)) = waiting.next() else { break };
            running.push(read_checked(engine, image, *entry).map(move |read| (number, read)).boxed());
        }
        let Some((number, stored)) = running.next().await else { break };
        kept.insert(number, stored?.shrink());
        // One segment must still find room beside those that are kept.
        if slots(&kept, engine) >= at_once {
            kept.remove(&number);
        }
    }
    Ok(kept)
}

/// Slots of the engine's memory that `kept` takes.
pub(super) fn slots(kept: &Kept, engine: &Engine) -> usize {
    kept.values().map(Stored::budget_bytes).sum::<usize>().div_ceil(engine.encoded.slot_bytes())
}

async fn read_checked(engine: &Engine, image: &Image, entry: DirectoryEntry) -> Result<Stored, EngineError> {
    let stored = read(engine, image, entry).await?;
    let (coder, uuid) = (Arc::clone(&engine.coder), image.superblock().uuid);
    let checked = compute::run(&*engine.compute, move || {
        let checked = coder.check_stored(&uuid, &stored.entry, &stored.bytes, &stored.bases);
        (checked.map(|()| stored), Work::Other)
    });
    Ok(checked.await??)
}

impl Stored {
    /// The same in no more memory than it needs.
    fn shrink(self) -> Self {
        let bytes = match self.bytes {
            Payload::Bytes(bytes) => Payload::Bytes(bytes.shrink()),
            modelled @ Payload::Modelled { .. } => modelled,
        };
        Self { bytes, bases: self.bases.shrink(), ..self }
    }
}
