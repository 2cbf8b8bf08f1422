//! All that a guest will be made of, checked before there is a guest.
//!
//! Images that rest on others are read through to them and every stored byte is held against
//! its check: many hands had a chance to change an ancestor. Nothing is decoded, which is what
//! takes the time; decoding verifies contents once more. What fits the memory is kept, so that
//! small guests, and all guests where memory is plenty, are read once.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};

use super::restore::{Stored, read};
use super::{Engine, EngineError, Image};
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::format::directory::DirectoryEntry;

/// Segments that were read, by number: all up to some number, so that who works through them in
/// order has given their memory back when it needs some to read others.
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
    let mut is_full = false;
    let mut waiting = image.segments().iter().enumerate();
    let mut running = Running::new();
    loop {
        while running.len() < image.segments_at_once(engine) {
            let Some((number, entry)) = waiting.next() else { break };
            running.push(read_checked(engine, image, *entry).map(move |read| (number, read)).boxed());
        }
        let Some((number, stored)) = next_making_room(engine, &mut running, &mut kept, &mut is_full).await
        else {
            break;
        };
        let stored = stored?;
        let last = kept.last_key_value().map(|(&last, _)| last);
        if !is_full || last.is_some_and(|last| number < last) {
            kept.insert(number, stored.shrink());
        }
    }
    Ok(kept)
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, (usize, Result<Stored, EngineError>)>>;

/// The next segment that is ready. While one waits for memory, kept ones make room, the last
/// first; then the memory `is_full`.
async fn next_making_room(
    engine: &Engine,
    running: &mut Running<'_>,
    kept: &mut Kept,
    is_full: &mut bool,
) -> Option<(usize, Result<Stored, EngineError>)> {
    poll_fn(|context| {
        loop {
            if let Poll::Ready(next) = running.poll_next_unpin(context) {
                return Poll::Ready(next);
            }
            // Room that was made has woken those who wait for it.
            if !engine.encoded.is_wanted() || kept.pop_last().is_none() {
                return Poll::Pending;
            }
            *is_full = true;
        }
    })
    .await
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
