//! `comio cp`: an image copied between storages.

use comio_core::engine::{self, EngineError, Image};
use comio_core::format::ImageUuid;

use crate::ancestors;
use crate::args::Cp;
use crate::exit::Exit;
use crate::location::Location;
use crate::session::{Session, save_options};

pub(super) async fn run(args: Cp) -> anyhow::Result<Exit> {
    let session = Session::new(&args.resources)?;
    let from = session.image(&args.source).await?;
    let mut to = session.image(&args.target).await?;
    if args.target.ends_with('/') {
        to = Location { storage: session.directory(&args.target).await?, name: from.name.clone() };
    }
    if !args.no_clobber {
        ancestors::refuse_to_replace_needed_by_copy(&to, &from).await?;
    }
    let source = from.storage.open(&from.name).await.map_err(EngineError::from)?;
    let uuid = uuid_of(&from).await?;
    let options = save_options(!args.no_clobber);
    let copying = async {
        copy_mark(&from, &to, uuid).await?;
        let (storage, progress) = (&*to.storage, &session.progress);
        engine::copy(&session.engine, &*source, storage, &to.name, &options, progress).await?;
        // Somebody may have restored it meanwhile.
        copy_mark(&from, &to, uuid).await
    };
    session.run("copying", copying).await?;
    Ok(Exit::Done)
}

/// The uuid of an image; none of a damaged one, which nobody can restore.
async fn uuid_of(from: &Location) -> Result<Option<ImageUuid>, EngineError> {
    match Image::open(from.storage.open(&from.name).await?).await {
        Ok(image) => Ok(Some(image.superblock().uuid)),
        Err(EngineError::Format(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A copy of an image that must not be restored is another; one that is marked already stays so.
async fn copy_mark(from: &Location, to: &Location, uuid: Option<ImageUuid>) -> Result<(), EngineError> {
    let Some(uuid) = uuid else { return Ok(()) };
    let Some(mark) = engine::consumed(&*from.storage, &uuid).await? else { return Ok(()) };
    let (unique, _) = uuid::Uuid::new_v4().as_u64_pair();
    match engine::consume(&*to.storage, &to.name, &mark, false, unique).await {
        Err(EngineError::AlreadyConsumed(..)) => Ok(()),
        marked => marked,
    }
}
