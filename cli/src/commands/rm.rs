//! `comio rm`: images removed.

use crate::args::{Resources, Rm};
use crate::exit::Exit;
use crate::location::Location;
use crate::session::Session;

pub(super) async fn run(args: Rm) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    for image in &args.images {
        let location = Location::of_image(image, &session.pool).await?;
        location.storage.remove(&location.name).await?;
    }
    Ok(Exit::Done)
}
