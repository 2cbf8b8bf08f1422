//! `comio verify`: every byte of an image read and checked.

use comio_core::engine::{self, VerifyReport};
use serde::Serialize;

use crate::ancestors;
use crate::args::Verify;
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

#[derive(Serialize)]
struct Report {
    whole: bool,
    incomplete: bool,
    pages: u64,
    segments: u64,
    frame_chunks: u64,
    damaged_parts: u64,
    damages: Vec<DamageReport>,
}

#[derive(Serialize)]
struct DamageReport {
    part: &'static str,
    number: usize,
    problem: String,
}

impl From<VerifyReport> for Report {
    fn from(report: VerifyReport) -> Self {
        let damages = report.damages.iter().map(|damage| DamageReport {
            part: if damage.frame { "frame" } else { "segment" },
            number: damage.number,
            problem: damage.problem.clone(),
        });
        Self {
            whole: report.is_whole(),
            incomplete: report.incomplete,
            pages: report.pages,
            segments: report.segments,
            frame_chunks: report.frame_chunks,
            damaged_parts: report.damaged,
            damages: damages.collect(),
        }
    }
}

pub(super) async fn run(args: Verify) -> anyhow::Result<Exit> {
    let session = Session::new(&args.resources)?;
    let from = session.image(&args.image).await?;
    let image = ancestors::open(&from, &args.ancestors.ancestors, &session).await?;
    let verifying = async {
        if args.deep {
            engine::verify_deep(&session.engine, &image, &session.progress).await
        } else {
            engine::verify(&session.engine, &image, &session.progress).await
        }
    };
    let report = Report::from(session.run("verifying", verifying).await?);
    if args.json {
        output::json(&report)?;
    } else {
        tell(&report);
    }
    Ok(if report.whole { Exit::Done } else { Exit::Damaged })
}

fn tell(report: &Report) {
    for damage in &report.damages {
        output::say(&format!("{} {}: {}", damage.part, damage.number, damage.problem));
    }
    if report.incomplete {
        output::say("the image was recovered from a damaged one and lacks parts");
    }
    if report.whole {
        output::say(&format!("whole: {} pages in {} segments", report.pages, report.segments));
    } else {
        output::say(&format!("{} parts are damaged", report.damaged_parts));
    }
}
