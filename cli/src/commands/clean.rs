//! `comio clean`: what crashed saves left behind, and marks of images that are gone.

use comio_core::engine;
use comio_core::storage::{ObjectInfo, is_temporary_name};

use crate::args::{Clean, Resources};
use crate::exit::Exit;
use crate::output;
use crate::session::{Session, save_options};

/// A save writes to its file all the time, unless its storage keeps it waiting.
const IN_WORK_S: u64 = 3600;

pub(super) async fn run(args: Clean) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = session.directory(&args.directory).await?;
    let orphaned = engine::orphaned_marks(&*storage).await?;
    let now = save_options(false).created_unix_s;
    for leftover in storage.leftovers().await?.into_iter().chain(orphaned) {
        if !args.all && is_in_work(&leftover, now) {
            output::say(&format!(
                "{} was written to within the last hour: a save may be at work on it (--all removes it)",
                leftover.name
            ));
            continue;
        }
        if !args.dry_run {
            storage.remove(&leftover.name).await?;
        }
        output::data(&format!("{} {}\n", leftover.len, leftover.name))?;
    }
    Ok(Exit::Done)
}

/// Whether somebody may be writing to it: the clocks may differ, so what is of the future is young.
fn is_in_work(object: &ObjectInfo, now_unix_s: u64) -> bool {
    let is_young = |modified: u64| now_unix_s.saturating_sub(modified) < IN_WORK_S;
    is_temporary_name(&object.name) && object.modified_unix_s.is_some_and(is_young)
}
