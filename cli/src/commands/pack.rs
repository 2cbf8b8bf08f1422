//! `comio pack`: a save file or dump becomes an image.

use comio_backends::tape::{SourceFormat, open_source};
use comio_core::engine::{self, SaveReport};
use comio_core::format::placement::Placement;
use serde::Serialize;

use super::share;
use crate::args::{Format, Pack, PlacementArg};
use crate::exit::Exit;
use crate::location::Location;
use crate::output;
use crate::session::{Session, save_options};

#[derive(Serialize)]
struct Report {
    uuid: String,
    pages: u64,
    guest_bytes: u64,
    stored_bytes: u64,
    ratio: f64,
}

impl From<SaveReport> for Report {
    fn from(report: SaveReport) -> Self {
        Self {
            uuid: uuid::Uuid::from_bytes(report.uuid).to_string(),
            pages: report.totals.pages,
            guest_bytes: report.guest_bytes(),
            stored_bytes: report.stored_bytes,
            ratio: share(report.guest_bytes(), report.stored_bytes),
        }
    }
}

pub(super) async fn run(args: Pack) -> anyhow::Result<Exit> {
    let placement = match args.placement {
        PlacementArg::Hybrid => Placement::Hybrid,
        PlacementArg::Strict => Placement::Strict,
    };
    let format = match args.format {
        Format::Auto => SourceFormat::Auto,
        Format::Xl => SourceFormat::Xl,
        Format::Raw => SourceFormat::Raw,
    };
    let session = Session::with_coder(&args.resources, args.level, placement)?;
    let image = Location::of_image(&args.image, &session.pool).await?;
    let mut reader = open_source(&args.src, format, &session.pool).await?;
    let options = save_options(!args.no_clobber);
    let saving = engine::save(
        &session.engine,
        &mut *reader,
        &*image.storage,
        &image.name,
        &options,
        &session.progress,
    );
    let report = Report::from(session.run("packing", saving).await?);
    if args.json {
        output::json(&report)?;
    } else {
        output::say(&format!(
            "{} pages, {} bytes packed into {} (ratio {:.2})",
            report.pages, report.guest_bytes, report.stored_bytes, report.ratio
        ));
    }
    Ok(Exit::Done)
}
