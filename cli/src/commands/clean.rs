//! `comio clean`: what crashed saves left behind, and marks of images that are gone.

use comio_core::engine;

use crate::args::{Clean, Resources};
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

pub(super) async fn run(args: Clean) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = session.directory(&args.directory).await?;
    let orphaned = engine::orphaned_marks(&*storage).await?;
    for leftover in storage.leftovers().await?.into_iter().chain(orphaned) {
        if !args.dry_run {
            storage.remove(&leftover.name).await?;
        }
        output::data(&format!("{} {}\n", leftover.len, leftover.name))?;
    }
    Ok(Exit::Done)
}
