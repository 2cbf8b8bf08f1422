//! Marks on images whose guest lives on elsewhere: made with this host's name and the time.

use std::fs;

use comio_core::engine::{self, Consumed, ConsumedBy, EngineError};
use comio_core::format::ImageUuid;

use crate::location::Location;
use crate::session::save_options;

/// A mark made here and now.
pub(crate) fn mark(image: ImageUuid, why: ConsumedBy) -> Consumed {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Consumed { image, why, host: host.trim().to_owned(), unix_seconds: save_options(false).created_unix_s }
}

/// Marks the image at `at`.
///
/// # Errors
/// [`EngineError::AlreadyConsumed`] if it has a mark, unless by `force`; [`EngineError::Storage`].
pub(crate) async fn put(at: &Location, mark: &Consumed, force: bool) -> Result<(), EngineError> {
    let (unique, _) = uuid::Uuid::new_v4().as_u64_pair();
    engine::consume(&*at.storage, &at.name, mark, force, unique).await
}
