//! The arguments of `comio record`.

use std::time::Duration;

use clap::Args;
use comio_core::ecbc::Method;

use super::{Resources, Time};

#[derive(Debug, Args)]
pub(crate) struct Record {
    /// A name, a number or a uuid, as xl list shows them.
    pub(crate) domain: String,
    /// Where the trace goes, a path or URL; its steps are files NAME-0.comio, NAME-1.comio, …
    #[arg(value_name = "DIR")]
    pub(crate) directory: String,
    /// From one step to the next.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) every: Time,
    /// How long, from when the first step, the whole guest, is written.
    #[arg(long = "for", value_name = "TIME", default_value = "5m")]
    pub(crate) lasts: Time,
    /// What to call the trace [default: the domain's name].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How to code pages, as for pack.
    #[arg(long, default_value_t = Method::Balanced)]
    pub(crate) level: Method,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

impl Record {
    /// The least that makes sense between steps.
    pub(crate) const EVERY_MIN: Duration = Duration::from_millis(10);
}
