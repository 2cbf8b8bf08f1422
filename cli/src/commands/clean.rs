//! `comio clean`: what crashed saves left behind.

use crate::args::{Clean, Resources};
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

pub(super) async fn run(args: Clean) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = session.directory(&args.directory).await?;
    for leftover in storage.leftovers().await? {
        if !args.dry_run {
            storage.remove(&leftover.name).await?;
        }
        output::data(&format!("{} {}\n", leftover.len, leftover.name))?;
    }
    Ok(Exit::Done)
}
