//! `comio unpack`: an image becomes what was packed.

use std::path::Path;

use comio_backends::tape::open_sink;
use comio_core::engine;
use serde::Serialize;

use crate::ancestors;
use crate::args::Unpack;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

#[derive(Serialize)]
struct Report {
    guest_bytes: u64,
    missing_pages: u64,
}

pub(super) async fn run(args: Unpack) -> anyhow::Result<Exit> {
    let session = Session::new(&args.resources)?;
    let from = session.image(&args.image).await?;
    let image = ancestors::open(&from, &args.ancestors.ancestors, &session).await?;
    if !args.partial {
        image.check_complete()?;
    }
    let format = image.superblock().tape_format;
    let mut writer = open_sink(&args.out, format, !args.no_clobber, &session.pool).await?;
    let restoring = async {
        if args.partial {
            let missing =
                engine::restore_partial(&session.engine, &image, &mut *writer, &session.progress).await?;
            return Ok(Report { guest_bytes: session.progress.guest_bytes(), missing_pages: missing });
        }
        let report = engine::restore(&session.engine, &image, &mut *writer, &session.progress).await?;
        Ok(Report { guest_bytes: report.guest_bytes, missing_pages: 0 })
    };
    let report = session.run("unpacking", restoring).await?;
    tell(&args, &report)?;
    Ok(Exit::Done)
}

fn tell(args: &Unpack, report: &Report) -> anyhow::Result<()> {
    let to_stdout = args.out == Path::new("-");
    if args.json && to_stdout {
        output::say(&serde_json::to_string_pretty(report)?);
    } else if args.json {
        output::json(report)?;
    } else if report.missing_pages > 0 {
        output::say(&format!("{} pages were missing and are zeros now", report.missing_pages));
    }
    Ok(())
}
