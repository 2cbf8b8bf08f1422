//! Whole guests: the order of steps that makes it impossible to lose one.

use super::beforehand::{self, Kept};
use super::restore::restore_checked;
use super::{
    Consumed, Engine, EngineError, Foundation, Image, Phase, Progress, RestoreReport, SaveOptions,
    SaveReport, consume, consumed, save_upon,
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

/// As [`save_guest`], with pages left out that `foundation` has already: see [`save_upon`].
/// An image whose guest goes on gets the mark `ran_on` before that: see [`consume`].
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
    match save_upon(engine, foundation, held.reader(), storage, name, options, progress).await {
        Ok(report) => {
            let marked = match ran_on {
                Some(mark) => {
                    let unique = engine.create_options(&options.uuid, true).unique;
                    consume(storage, name, mark, true, unique).await
                }
                None => Ok(()),
            };
            // The guest goes on even if its image could not be marked.
            held.release().await?;
            marked?;
            Ok(report)
        }
        Err(failure) => match held.resume().await {
            Ok(()) => Err(failure),
            Err(resume) => Err(EngineError::StillHeld { failure: Box::new(failure), resume }),
        },
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
        Kept::new()
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
        Err(failure) => {
            // The first failure is what the user must know.
            let _ = new.discard().await;
            Err(failure)
        }
    }
}
