//! `comio record`: a running guest's memory becomes a trace.

#[cfg(feature = "xen")]
mod live;
#[cfg(feature = "xen")]
mod sink;
#[cfg(feature = "xen")]
mod stopping;

use anyhow::bail;

use crate::args::Record;
use crate::exit::Exit;

#[cfg(feature = "xen")]
pub(super) use live::free_those_of_killed;

pub(super) async fn run(args: Record) -> anyhow::Result<Exit> {
    if args.every.0 < Record::EVERY_MIN {
        bail!("--every must be at least {:?}", Record::EVERY_MIN);
    }
    record(args).await
}

#[cfg(feature = "xen")]
async fn record(args: Record) -> anyhow::Result<Exit> {
    live::record(args).await
}

/// Without control of Xen nothing was recorded.
#[cfg(not(feature = "xen"))]
#[expect(clippy::unnecessary_wraps, reason = "the same call with the feature and without")]
pub(super) fn free_those_of_killed() -> anyhow::Result<()> {
    Ok(())
}

#[cfg(not(feature = "xen"))]
#[expect(clippy::unused_async, reason = "the same call with the feature and without")]
async fn record(args: Record) -> anyhow::Result<Exit> {
    bail!(
        "this comio was built without control of Xen, so {} cannot be recorded: build it with \
         --features xen on a machine with libxen-dev and libclang-dev",
        args.domain
    )
}
