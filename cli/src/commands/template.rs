//! `comio template make`: pages for others to be found in.

use comio_core::engine;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::template::KEY_LEN;

use super::pack::Report;
use crate::ancestors;
use crate::args::{Template, TemplateMake};
use crate::exit::Exit;
use crate::output;
use crate::session::{Session, save_options};

pub(super) async fn run(template: Template) -> anyhow::Result<Exit> {
    let Template::Make(args) = template;
    make(args).await
}

async fn make(args: TemplateMake) -> anyhow::Result<Exit> {
    let session = Session::with_coder(&args.resources, EcbcCoder::new(args.level, Placement::Ordered))?;
    let mut images = Vec::with_capacity(args.images.len());
    for image in &args.images {
        let location = session.image(image).await?;
        images.push(ancestors::open(&location, &args.ancestors.ancestors, &session).await?);
    }
    let to = session.image(&args.output).await?;
    ancestors::refuse_to_replace_needed(&to).await?;
    let options = save_options(!args.no_clobber);
    let making = Box::pin(engine::make_template(
        &session.engine,
        &images,
        random_key(),
        args.template_memory.0,
        &*to.storage,
        &to.name,
        &options,
        &session.progress,
    ));
    let report = Report::from(session.run("making a template", making).await?);
    if args.json {
        output::json(&report)?;
    } else {
        output::say(&report.words());
    }
    Ok(Exit::Done)
}

/// 244 random bits from the operating system.
fn random_key() -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    for half in key.chunks_exact_mut(16) {
        half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    key
}
