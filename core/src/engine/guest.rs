//! Whole guests: the order of steps that makes it impossible to lose one.

use super::beforehand::{self, Kept};
use super::restore::restore_checked;
use super::save::{self, Failed};
use super::{
    Consumed, Engine, EngineError, Foundation, Image, Phase, Progress, RestoreReport, SaveOptions,
    SaveReport, consume, consumed,
};
use crate::hypervisor::Hypervisor;
use crate::storage::Storage;

/// Saves `guest` as image `name`. The guest is released (it may be destroyed) only after its
/// image is durable, checked and visible; on any failure before that it runs on and nothing is
/// visible under `name` that was not before.
///
/// # Errors
/// Any of [`EngineError`]; [`EngineError::StillHeld`] when after a failure the guest could not
/// be resumed either.
pub async fn save_guest(
    engine: &Engine,
    hypervisor: &dyn Hypervisor,
    guest: &str,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    save_guest_upon(engine, None, hypervisor, guest, storage, name, options, None, progress).await
}

/// As [`save_guest`], with pages left out that `foundation` has already: see [`save_upon`](super::save_upon).
/// An image whose guest goes on gets the mark `ran_on` before it is visible: see [`consume`].
///
/// # Errors
/// As [`save_guest`].
#[expect(clippy::too_many_arguments, reason = "the caller decides each")]
pub async fn save_guest_upon(
    engine: &Engine,
    foundation: Option<&Foundation>,
    hypervisor: &dyn Hypervisor,
    guest: &str,
    storage: &dyn Storage,
    name: &str,
    options: &SaveOptions,
    ran_on: Option<&Consumed>,
    progress: &Progress,
) -> Result<SaveReport, EngineError> {
    let mut held = hypervisor.begin_save(guest).await?;
    let saved = async {
        let reader = held.reader();
        let draft = save::draft(engine, foundation, reader, storage, name, options, progress).await?;
        if let Some(mark) = ran_on {
            let unique = engine.create_options(&options.uuid, true).unique;
            // A mark without its image, after a stop, means nothing and is swept away as orphaned.
            let marked = progress.unless_stopped(consume(storage, name, mark, true, unique)).await;
            if let Err(error) = marked {
                return Err(draft.failed(error));
            }
        }
        draft.publish(progress).await
    };
    let saved: Result<SaveReport, Failed> = saved.await;
    match saved {
        Ok(report) => {
            held.release().await?;
            Ok(report)
        }
        Err(failed) => {
            // The guest first: a storage that does not answer must not keep it from running.
            let resumed = held.resume().await;
            let failure = failed.clear_away(storage, progress).await;
            match resumed {
                Ok(()) => Err(failure),
                Err(resume) => Err(EngineError::StillHeld { failure: Box::new(failure), resume }),
            }
        }
    }
}

/// Restores image `name` as `guest`, which starts only after every byte was checked; a failed
/// restore leaves no half-made guest. Of an image that rests on others every stored byte that is
/// needed is read and checked before there is a guest: more hands had a chance to damage them.
///
/// # Errors
/// Any of [`EngineError`].
pub async fn restore_guest(
    engine: &Engine,
    storage: &dyn Storage,
    name: &str,
    hypervisor: &dyn Hypervisor,
    guest: &str,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    let image = Image::open_with_ancestors(storage, name, &[]).await?;
    restore_guest_once(engine, storage, &image, hypervisor, guest, None, progress).await
}

/// That an image's guest is restored, for those who come after.
#[derive(Debug, Clone, Copy)]
pub struct Restoring<'a> {
    /// What the image is called, beside which the mark stands.
    pub name: &'a str,
    /// The mark that the image gets.
    pub mark: &'a Consumed,
    /// Whether an image that has a mark is restored again.
    pub force: bool,
    /// A number that no other call has, on any host.
    pub unique: u64,
}

/// As [`restore_guest`], of an image of `storage` that was opened with its ancestors, wherever these
/// are, and that has no mark yet: see [`consume`]. It gets its mark when the
/// guest is complete, before it starts: of two hosts that restore it at once one goes on, and a
/// restore that fails before leaves no mark.
///
/// # Errors
/// As [`restore_guest`], and [`EngineError::AlreadyConsumed`]; then there is no guest. A guest that
/// could not be started has left its mark: nobody knows whether it ran.
pub async fn restore_guest_once(
    engine: &Engine,
    storage: &dyn Storage,
    image: &Image,
    hypervisor: &dyn Hypervisor,
    guest: &str,
    once: Option<Restoring<'_>>,
    progress: &Progress,
) -> Result<RestoreReport, EngineError> {
    image.check_complete()?;
    if let Some(Restoring { name, mark, force: false, .. }) = once
        && let Some(there) = consumed(storage, &mark.image).await?
    {
        return Err(EngineError::AlreadyConsumed(name.to_owned(), Box::new(there)));
    }
    let kept = if image.superblock().ancestors.is_empty() {
        Kept::default()
    } else {
        progress.enter(Phase::Checking);
        progress.unless_stopped(beforehand::check(engine, image)).await?
    };
    let mut new = hypervisor.begin_restore(guest, image.superblock().tape_format).await?;
    let restored = async {
        let report = restore_checked(engine, image, kept, new.writer(), progress).await?;
        if let Some(Restoring { name, mark, force, unique }) = once {
            // To stop in the middle of this would leave a mark without a guest.
            consume(storage, name, mark, force, unique).await?;
        }
        Ok(report)
    };
    match restored.await {
        Ok(report) => {
            new.start().await?;
            Ok(report)
        }
        Err(failure) => match new.discard().await {
            Ok(()) => Err(failure),
            Err(discard) => Err(EngineError::HalfMade { failure: Box::new(failure), discard }),
        },
    }
}
