//! Marks on images whose guest lives on elsewhere: made with this host's name and the time.

use std::fs;

use comio_core::engine::{self, Consumed, ConsumedBy, EngineError};
use comio_core::format::ImageUuid;
use comio_core::storage::Storage;

use crate::session::save_options;

/// A mark made here and now.
pub(crate) fn mark(image: ImageUuid, why: ConsumedBy) -> Consumed {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Consumed { image, why, host: host.trim().to_owned(), unix_s: save_options(false).created_unix_s }
}

/// Marks an image in `storage`.
///
/// # Errors
/// [`EngineError::Consumed`] if it has a mark, unless by `force`; [`EngineError::Storage`].
pub(crate) async fn put(storage: &dyn Storage, mark: &Consumed, force: bool) -> Result<(), EngineError> {
    let (unique, _) = uuid::Uuid::new_v4().as_u64_pair();
    engine::consume(storage, mark, force, unique).await
}
