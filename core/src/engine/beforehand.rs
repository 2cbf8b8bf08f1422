//! All that a guest will be made of, checked before there is a guest.
//!
//! Images that rest on others are read through to them and every stored byte is held against
//! its check: many hands had a chance to change an ancestor. The first segments are decoded
//! meanwhile, as many as there are buffers for; of the others nothing is, and decoding verifies
//! contents once more. What fits the memory is kept, so that small guests, and all guests where
//! memory is plenty, are read once.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};

use super::restore::{Stored, decoded, read};
use super::{Engine, EngineError, Image};
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::format::directory::DirectoryEntry;
use crate::tape::Batch;

/// Segments that were read, by number.
#[derive(Default)]
pub(super) struct Kept {
    /// The first ones, decoded while others were read.
    decoded: BTreeMap<usize, Batch>,
    /// As they are stored: all up to some number, so that who works through them in order has given their
    /// memory back when it needs some to read others.
    stored: BTreeMap<usize, Stored>,
    /// Some had to go.
    is_full: bool,
}

/// A segment that was checked.
pub(super) enum Ready {
    Stored(Stored),
    Decoded(Batch),
}

impl Kept {
    pub(super) fn has(&self, number: usize) -> bool {
        self.decoded.contains_key(&number) || self.stored.contains_key(&number)
    }

    pub(super) fn take(&mut self, number: usize) -> Option<Ready> {
        let decoded = self.decoded.remove(&number).map(Ready::Decoded);
        decoded.or_else(|| self.stored.remove(&number).map(Ready::Stored))
    }

    fn keep(&mut self, number: usize, stored: Stored) {
        let last = self.stored.last_key_value().map(|(&last, _)| last);
        if !self.is_full || last.is_some_and(|last| number < last) {
            self.stored.insert(number, stored.shrink());
        }
    }

    /// Gives memory back: `false` if there is none to give.
    fn make_room(&mut self) -> bool {
        let made = self.stored.pop_last().is_some();
        self.is_full |= made;
        made
    }
}

/// Checks `image` and what it rests on; gives the segments that memory has room for. As many as there are
/// buffers for are decoded at once, while others are read.
///
/// # Errors
/// Damage; the storage's.
pub(super) async fn check(engine: &Engine, image: &Image) -> Result<Kept, EngineError> {
    for entry in image.frames() {
        image.frame_chunk(entry).await?;
    }
    let mut kept = Kept::default();
    let mut waiting = image.segments().iter().enumerate();
    let (mut running, mut reading) = (Running::new(), 0);
    loop {
        while reading < image.segments_at_once(engine) {
            let Some((number, entry)) = waiting.next() else { break };
            running.push(read_checked(engine, image, *entry).map(move |read| (number, read)).boxed());
            reading += 1;
        }
        let Some((number, ready)) = next_making_room(engine, &mut running, &mut kept).await else { break };
        match ready? {
            Ready::Decoded(batch) => {
                kept.decoded.insert(number, batch);
            }
            Ready::Stored(stored) => {
                reading -= 1;
                // No more than buffers for pages, so that none waits for one.
                if number < engine.segments_at_once() {
                    running.push(decode(engine, image, stored).map(move |read| (number, read)).boxed());
                } else {
                    kept.keep(number, stored);
                }
            }
        }
    }
    Ok(kept)
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, (usize, Result<Ready, EngineError>)>>;

/// The next segment that is ready. While one waits for memory, kept ones make room, the last first.
async fn next_making_room(
    engine: &Engine,
    running: &mut Running<'_>,
    kept: &mut Kept,
) -> Option<(usize, Result<Ready, EngineError>)> {
    poll_fn(|context| {
        loop {
            if let Poll::Ready(next) = running.poll_next_unpin(context) {
                return Poll::Ready(next);
            }
            // Room that was made has woken those who wait for it.
            if !engine.encoded.is_wanted() || !kept.make_room() {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn decode(engine: &Engine, image: &Image, stored: Stored) -> Result<Ready, EngineError> {
    let (_, batch) = decoded(engine, image, stored).await?;
    Ok(Ready::Decoded(batch))
}

async fn read_checked(engine: &Engine, image: &Image, entry: DirectoryEntry) -> Result<Ready, EngineError> {
    let stored = read(engine, image, entry).await?;
    let (coder, uuid) = (Arc::clone(&engine.coder), image.superblock().uuid);
    let checked = compute::run(&*engine.compute, move || {
        let checked = coder.check_stored(&uuid, &stored.entry, &stored.bytes, &stored.bases);
        (checked.map(|()| stored), Work::Other)
    });
    Ok(Ready::Stored(checked.await??))
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
