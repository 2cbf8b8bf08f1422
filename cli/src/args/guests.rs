//! Arguments of the commands that need a Xen host.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Ancestors, Packing, Resources};

/// The host's toolstack.
#[derive(Debug, Args)]
pub(crate) struct Xen {
    /// Where guests in hand are noted, to survive a crash.
    #[arg(long, value_name = "DIR", env = "COMIO_STATE_DIR", default_value = "/var/lib/comio")]
    pub(crate) state_dir: PathBuf,
    /// Xen's own tool.
    #[arg(long, value_name = "PROGRAM", env = "COMIO_XL", default_value = "xl")]
    pub(crate) xl: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Let the guest run on once its image is durable, as comio checkpoint does.
    #[arg(short, long, conflicts_with = "pause")]
    pub(crate) checkpoint: bool,
    /// Leave the guest paused.
    #[arg(short, long)]
    pub(crate) pause: bool,
    /// Save every guest of the host, each as NAME.comio in a directory.
    #[arg(long, conflicts_with_all = ["checkpoint", "pause", "parent"])]
    pub(crate) all: bool,
    /// With --all: guests saved at once.
    #[arg(long, value_name = "N", requires = "all")]
    pub(crate) jobs: Option<usize>,
    /// With --all: how long it may take in all, such as 5m; then what the host's configuration says.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "all")]
    pub(crate) deadline: Option<Duration>,
    /// With --all: a guest to leave alone, a name, number or uuid (repeatable).
    #[arg(long, value_name = "DOMAIN", requires = "all")]
    pub(crate) exclude: Vec<String>,
    /// With --all: the host's configuration [default: /etc/comio/host.toml, if it is there].
    #[arg(long, value_name = "FILE", requires = "all")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) packing: Packing,
    #[command(flatten)]
    pub(crate) xen: Xen,
    /// DOMAIN (a name, number or uuid) and IMAGE; with --all a directory, unless the host's configuration names one.
    #[arg(value_name = "DOMAIN IMAGE | DIR", num_args = 0..=2)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) packing: Packing,
    #[command(flatten)]
    pub(crate) xen: Xen,
    /// A name, number or uuid.
    pub(crate) domain: String,
    /// The image to make.
    pub(crate) image: String,
}

#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Leave the guest paused.
    #[arg(short, long)]
    pub(crate) paused: bool,
    /// A configuration for xl instead of the one in the image, as is CONFIG before the IMAGE; with --all, the host's.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Another name for the guest.
    #[arg(long, conflicts_with_all = ["config", "all"])]
    pub(crate) name: Option<String>,
    /// Restore an image whose guest was restored before or ran on: two lives on one disk corrupt it.
    #[arg(long)]
    pub(crate) force: bool,
    /// Restore every image of a directory that was not restored yet.
    #[arg(long, conflicts_with = "paused")]
    pub(crate) all: bool,
    /// With --all: guests restored at once.
    #[arg(long, value_name = "N", requires = "all")]
    pub(crate) jobs: Option<usize>,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
    #[command(flatten)]
    pub(crate) xen: Xen,
    /// IMAGE, after a CONFIG for xl if there is one; with --all a directory, unless the host's configuration names one.
    #[arg(value_name = "[CONFIG] IMAGE | DIR", num_args = 1..=2, required_unless_present = "all")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) xen: Xen,
    /// A directory of images, to list those.
    pub(crate) location: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Destroy a guest whose image is complete and checked, if nothing shows that it ran since.
    #[arg(long)]
    pub(crate) finish: bool,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    /// Print what was done as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) xen: Xen,
}

/// A time with a unit, such as 90s or 5m.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: say it as 90s, 5m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (count, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = count.parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}
