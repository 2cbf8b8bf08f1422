//! `comio rm`: images removed, unless others need them.

use std::collections::BTreeSet;

use anyhow::bail;
use comio_core::engine;
use comio_core::format::ImageUuid;
use comio_core::storage::Storage;

use crate::ancestors;
use crate::args::{Resources, Rm};
use crate::exit::Exit;
use crate::location::Location;
use crate::session::Session;

pub(super) async fn run(args: Rm) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let mut locations = Vec::with_capacity(args.images.len());
    for image in &args.images {
        locations.push(session.image(image).await?);
    }
    if !args.force {
        refuse_needed(&locations).await?;
    }
    for location in &locations {
        remove(location).await?;
    }
    Ok(Exit::Done)
}

/// Removes an image, and then its mark, unless a copy of the image stays.
async fn remove(location: &Location) -> anyhow::Result<()> {
    let storage = &*location.storage;
    let uuid = uuid_of(storage, &location.name).await;
    storage.remove(&location.name).await?;
    let Some(uuid) = uuid else { return Ok(()) };
    if engine::consumed(storage, &uuid).await?.is_none() {
        return Ok(());
    }
    for object in storage.list().await? {
        if uuid_of(storage, &object.name).await == Some(uuid) {
            return Ok(());
        }
    }
    Ok(engine::unconsume(storage, &uuid).await?)
}

/// The uuid of the image `name`, if it is one; it may be damaged.
async fn uuid_of(storage: &dyn Storage, name: &str) -> Option<ImageUuid> {
    engine::uuid_of(&*storage.open(name).await.ok()?).await.ok()?
}

/// Refuses if an image that stays rests on one that goes. All are looked at before any goes.
async fn refuse_needed(locations: &[Location]) -> anyhow::Result<()> {
    let mut leaving = BTreeSet::new();
    let mut images = Vec::new();
    for location in locations {
        // What is no image nobody can rest on.
        if let Some(uuid) = uuid_of(&*location.storage, &location.name).await {
            leaving.insert(uuid);
            images.push((location, uuid));
        }
    }
    for (location, uuid) in images {
        let needed_by = ancestors::needed_by(&*location.storage, &uuid, &leaving).await?;
        if !needed_by.is_empty() {
            bail!(
                "{} is needed by {}: remove those as well, make them self-contained (comio flatten), or --force",
                location.name,
                needed_by.join(", ")
            );
        }
    }
    Ok(())
}
