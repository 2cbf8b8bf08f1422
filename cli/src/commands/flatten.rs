//! `comio flatten`: an image made self-contained.

use comio_core::engine;

use super::pack::Report;
use crate::ancestors;
use crate::args::Flatten;
use crate::exit::Exit;
use crate::output;
use crate::session::{Session, save_options};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;

pub(super) async fn run(args: Flatten) -> anyhow::Result<Exit> {
    let session = Session::with_coder(&args.resources, EcbcCoder::new(args.level, Placement::Hybrid))?;
    let from = session.image(&args.image).await?;
    let image = ancestors::open(&from, &args.ancestors.ancestors, &session).await?;
    let to = session.image(&args.output).await?;
    ancestors::refuse_to_replace_needed(&to).await?;
    let options = save_options(!args.no_clobber);
    let flattening =
        engine::flatten(&session.engine, &image, &*to.storage, &to.name, &options, &session.progress);
    let report = Report::from(session.run("flattening", Box::pin(flattening)).await?);
    if args.json {
        output::json(&report)?;
    } else {
        output::say(&report.words());
    }
    Ok(Exit::Done)
}
