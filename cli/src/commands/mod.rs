//! One file a command.

mod bench;
mod calibrate;
mod clean;
mod cp;
mod extract;
mod flatten;
mod host;
mod inspect;
mod list;
mod listing;
mod manual;
mod pack;
mod record;
mod recover;
mod recover_image;
mod report;
mod restore;
mod rm;
mod save;
mod scenario;
mod template;
mod trace;
mod unpack;
mod verify;

use comio_core::engine::Consumed;
use serde::Serialize;

use crate::args::{Bench, Command};
use crate::exit::Exit;

/// Why an image must not be restored (again), in reports.
#[derive(Serialize)]
struct Used {
    why: &'static str,
    host: String,
    unix_seconds: u64,
    /// All of it, for people.
    #[serde(skip)]
    text: String,
}

impl From<Consumed> for Used {
    fn from(mark: Consumed) -> Self {
        let text = mark.to_string();
        Self { why: mark.why.word(), host: mark.host, unix_seconds: mark.unix_seconds, text }
    }
}

/// Runs a command.
pub(crate) async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Save(args) => save::run(args).await,
        Command::Checkpoint(args) => save::checkpoint(args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::List(args) => list::run(args).await,
        Command::Recover(args) => recover::run(args).await,
        Command::Pack(args) => pack::run(args).await,
        Command::Unpack(args) => unpack::run(args).await,
        Command::Extract(args) => extract::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Inspect(args) => inspect::run(args).await,
        Command::RecoverImage(args) => recover_image::run(args).await,
        Command::Flatten(args) => flatten::run(args).await,
        Command::Template(args) => template::run(args).await,
        Command::Ls(args) => listing::run(args).await,
        Command::Rm(args) => rm::run(args).await,
        Command::Cp(args) => cp::run(args).await,
        Command::Clean(args) => clean::run(args).await,
        Command::Scenario(args) => scenario::run(args).await,
        Command::Record(args) => record::run(args).await,
        Command::Trace(args) => trace::run(args).await,
        Command::Report(args) => report::run(&args),
        Command::Bench(Bench::Codec(args)) => bench::run(&args).await,
        Command::Calibrate(args) => calibrate::run(&args).await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { output } => manual::pages(output.as_deref()),
    }
}

/// `part` of `whole`, as a fraction; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "for people and reports")]
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
