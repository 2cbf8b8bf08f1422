//! The arguments of `comio trace`.

use clap::{Args, Subcommand};
use comio_core::ecbc::Method;

use super::{Ancestors, Resources, Time};

#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// Make a trace of a series of dumps, save files or images of one guest.
    Make(TraceMake),
    /// List the traces of a directory.
    Ls(TraceList),
    /// Check every byte of traces, and that their steps belong together.
    Check(TraceCheck),
}

#[derive(Debug, Args)]
pub(crate) struct TraceMake {
    /// The trace's path or URL without step and ending [default: the first input's name, in the
    /// current directory].
    #[arg(long, value_name = "DIR/NAME")]
    pub(crate) output: Option<String>,
    /// What to call the guest [default: NAME].
    #[arg(long)]
    pub(crate) guest: Option<String>,
    /// How far the inputs lie apart, such as 10s, 5m or 1h.
    #[arg(long, value_name = "TIME")]
    pub(crate) every: Option<Time>,
    /// How to code pages, as for pack.
    #[arg(long, default_value_t = Method::Balanced)]
    pub(crate) level: Method,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// Flat dumps, save files of xl, or images, in the order of time.
    #[arg(required = true, value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TraceList {
    /// A directory, as a path or URL.
    #[arg(default_value = ".")]
    pub(crate) directory: String,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TraceCheck {
    /// A directory of traces, or a step (or NAME alone) of the one to check.
    #[arg(value_name = "DIR|FILE")]
    pub(crate) place: String,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}
