//! `comio trace`: recorded guests over time.

mod check;
mod list;
mod make;

use crate::args::Trace;
use crate::exit::Exit;

pub(super) async fn run(trace: Trace) -> anyhow::Result<Exit> {
    match trace {
        Trace::Make(args) => make::run(args).await,
        Trace::Ls(args) => list::run(args).await,
        Trace::Check(args) => check::run(args).await,
    }
}
