//! Images that rest on others: opened with their ancestors, and kept from losing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use comio_core::engine::{self, EngineError, Image, Relative};
use comio_core::format::ImageUuid;
use comio_core::storage::{Storage, StorageErrorKind};

use crate::location::Location;
use crate::output;
use crate::session::Session;

/// Opens the image at `location` with its ancestors, which are looked for beside it and in
/// `directories`.
pub(crate) async fn open(
    location: &Location,
    directories: &[String],
    session: &Session,
) -> anyhow::Result<Image> {
    let mut more: Vec<Arc<dyn Storage>> = Vec::new();
    for directory in directories {
        more.push(session.directory(directory).await?);
    }
    let more: Vec<&dyn Storage> = more.iter().map(|storage| &**storage).collect();
    Ok(Image::open_with_ancestors(&*location.storage, &location.name, &more).await?)
}

/// Opens `text` for a new image at `target` to rest on.
pub(crate) async fn relative(
    text: &str,
    target: &Location,
    directories: &[String],
    session: &Session,
) -> anyhow::Result<Relative> {
    let location = session.image(text).await?;
    let image = open(&location, directories, session).await?;
    if location.storage.location() != target.storage.location() {
        output::say(&format!(
            "{text} is not beside the new image: to read that, --ancestors {} will be needed",
            location.storage.location()
        ));
    }
    Ok(Relative { name: location.name, image })
}

/// Refuses to replace the image at `target` if others rest on it.
pub(crate) async fn refuse_to_replace_needed(target: &Location) -> anyhow::Result<()> {
    match image_at(target).await? {
        Some(image) => refuse_if_needed(target, &image).await,
        None => Ok(()),
    }
}

/// As [`refuse_to_replace_needed`], where a copy of the image at `source` takes the place: a
/// copy of what stands there already harms nobody.
pub(crate) async fn refuse_to_replace_needed_by_copy(
    target: &Location,
    source: &Location,
) -> anyhow::Result<()> {
    let Some(image) = image_at(target).await? else { return Ok(()) };
    let identity = |image: &Image| (image.superblock().uuid, image.footer_check());
    if image_at(source).await?.is_some_and(|source| identity(&source) == identity(&image)) {
        return Ok(());
    }
    refuse_if_needed(target, &image).await
}

/// The image at `location`; `None` if there is nothing, or no image, on which nobody rests.
async fn image_at(location: &Location) -> anyhow::Result<Option<Image>> {
    match location.storage.open(&location.name).await {
        Ok(reader) => Ok(Image::open(reader).await.ok()),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::from(error).into()),
    }
}

async fn refuse_if_needed(target: &Location, image: &Image) -> anyhow::Result<()> {
    let needed_by = needed_by(&*target.storage, &image.superblock().uuid, &BTreeSet::new()).await?;
    if let Some(first) = needed_by.first() {
        bail!(
            "{} cannot be replaced: {first} and {} more need it (see comio ls, comio flatten)",
            target.name,
            needed_by.len() - 1
        );
    }
    Ok(())
}

/// The names of images in `storage` that rest on `uuid`, those of `leaving` not counted.
pub(crate) async fn needed_by(
    storage: &dyn Storage,
    uuid: &ImageUuid,
    leaving: &BTreeSet<ImageUuid>,
) -> anyhow::Result<Vec<String>> {
    let descendants = engine::descendants(storage, uuid).await?.into_iter();
    Ok(descendants.filter(|(_, uuid)| !leaving.contains(uuid)).map(|(name, _)| name).collect())
}
