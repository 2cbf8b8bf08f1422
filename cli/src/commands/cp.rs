//! `comio cp`: an image copied between storages.

use comio_core::engine::{self, EngineError, Image};

use crate::ancestors;
use crate::args::Cp;
use crate::exit::Exit;
use crate::location::Location;
use crate::marks;
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
    let options = save_options(!args.no_clobber);
    let copying =
        engine::copy(&session.engine, &*source, &*to.storage, &to.name, &options, &session.progress);
    session.run("copying", copying).await?;
    copy_mark(&from, &to).await?;
    Ok(Exit::Done)
}

/// A copy of an image whose guest lives on is one, too.
async fn copy_mark(from: &Location, to: &Location) -> anyhow::Result<()> {
    let uuid = Image::open(to.storage.open(&to.name).await?).await?.superblock().uuid;
    if let Some(mark) = engine::consumed(&*from.storage, &uuid).await? {
        marks::put(&*to.storage, &mark, true).await?;
    }
    Ok(())
}
