//! `comio recover-image`: what is whole of a damaged image, as a new one.

use comio_core::engine::{self, EngineError};
use serde::Serialize;

use crate::ancestors;
use crate::args::RecoverImage;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

#[derive(Serialize)]
struct Report {
    complete: bool,
    segments: u64,
    lost_segments: u64,
    pages: u64,
    frame_chunks: u64,
}

pub(super) async fn run(args: RecoverImage) -> anyhow::Result<Exit> {
    let session = Session::new(&args.resources)?;
    let from = session.image(&args.damaged).await?;
    let to = session.image(&args.out).await?;
    if !args.no_clobber {
        ancestors::refuse_to_replace_needed(&to).await?;
    }
    let damaged = from.storage.open(&from.name).await.map_err(EngineError::from)?;
    let recovering = engine::recover(
        &session.engine,
        &*damaged,
        &*to.storage,
        &to.name,
        !args.no_clobber,
        &session.progress,
    );
    let found = session.run("recovering", recovering).await?;
    let report = Report {
        complete: found.complete,
        segments: found.segments,
        lost_segments: found.lost_segments,
        pages: found.pages,
        frame_chunks: found.frame_chunks,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::say(&format!("{} pages recovered in {} whole segments", report.pages, report.segments));
        output::say(if report.complete {
            "nothing is missing: the new image can be unpacked and restored"
        } else {
            "parts are missing: pages can be extracted from the new image, the guest cannot be restored"
        });
    }
    Ok(Exit::Done)
}
