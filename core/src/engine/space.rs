//! Room in the storage: asked for before anything is written, told of when it was too little.

use super::{EngineError, Progress};
use crate::storage::{CreateOptions, ObjectWriter, Storage, StorageError, StorageErrorKind};

/// Begins an object that will take at least `needed` bytes, if there is room.
pub(super) async fn create(
    storage: &dyn Storage,
    name: &str,
    options: CreateOptions,
    needed: u64,
) -> Result<Box<dyn ObjectWriter>, EngineError> {
    match storage.free_bytes().await? {
        Some(free) if free < needed => {
            let problem = format!(
                "the storage is full: at least {needed} bytes are needed and {free} are free; remove images or choose another storage"
            );
            let target = format!("{name} in {}", storage.location());
            Err(StorageError::new(StorageErrorKind::NoSpace, "save", target, problem).into())
        }
        _ => Ok(storage.create(name, options).await?),
    }
}

/// Adds to a "no space" error how much was needed and what is free.
pub(super) async fn explain(error: EngineError, storage: &dyn Storage, progress: &Progress) -> EngineError {
    let EngineError::Storage(mut error) = error else { return error };
    if error.kind == StorageErrorKind::NoSpace {
        use std::fmt::Write as _;
        let written = progress.stored_bytes();
        let _ = write!(error.problem, " (the image needs more than the {written} bytes written so far");
        if let Some(estimate) = estimate(progress) {
            let _ = write!(error.problem, ", about {estimate} in all");
        }
        // Nobody waits for that who wants to stop.
        let asked = progress.unless_stopped(async { Ok(storage.free_bytes().await?) });
        if let Ok(Some(free)) = asked.await {
            let _ = write!(error.problem, "; {free} bytes are free now that they were removed");
        }
        error.problem.push(')');
    }
    EngineError::Storage(error)
}

fn estimate(progress: &Progress) -> Option<u64> {
    let (done, total) = (progress.guest_bytes(), progress.guest_bytes_total());
    let scaled = u128::from(progress.stored_bytes()) * u128::from(total);
    scaled.checked_div(u128::from(done)).filter(|&all| all > 0).and_then(|all| u64::try_from(all).ok())
}
