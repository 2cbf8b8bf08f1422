//! The command line.

#![expect(clippy::doc_markdown, reason = "these texts are the program's help")]
#![allow(rustdoc::broken_intra_doc_links, reason = "and no links")]

mod record;
mod trace;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use comio_core::ecbc::Method;
use comio_simulator::units::Span;

pub(crate) use record::Record;
pub(crate) use trace::{Trace, TraceCheck, TraceList, TraceMake};

mod guests;

pub(crate) use guests::{Checkpoint, List, Recover, Restore, Save, Xen, duration};

/// Saves and restores virtual machines fast by compressing their memory page by page.
///
/// IMAGE is everywhere a path or a URL nfs://host[:port]/export/directory/name?options.
#[derive(Debug, Parser)]
#[command(name = "comio", version, after_help = crate::exit::HELP, propagate_version = true)]
pub(crate) struct Cli {
    /// Say more on stderr (repeat for more still); COMIO_LOG sets a filter.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save a Xen guest, or all of them; it is destroyed only once its image is durable and checked.
    Save(Save),
    /// Take an image of a Xen guest that then runs on.
    Checkpoint(Checkpoint),
    /// Restore a Xen guest, or all of a directory; it runs only once every byte was checked.
    Restore(Restore),
    /// List Xen's domains, or the images of a directory.
    List(List),
    /// See to guests that an interrupted save or restore has left paused: let them run on.
    Recover(Recover),
    /// Pack a Xen save file or a flat memory dump into an image.
    Pack(Pack),
    /// Give back, bit for bit, what was packed.
    Unpack(Unpack),
    /// Read single pages out of an image.
    Extract(Extract),
    /// Check every byte of an image.
    Verify(Verify),
    /// Tell what is in an image.
    Inspect(Inspect),
    /// Make a new image from the whole segments of a damaged one.
    RecoverImage(RecoverImage),
    /// Make an image that needs its ancestors self-contained.
    Flatten(Flatten),
    /// Templates, which other guests' pages are found in.
    #[command(subcommand)]
    Template(Template),
    /// List the images of a directory.
    Ls(Ls),
    /// Remove an image.
    ///
    /// What others in the same directory need is not removed. Images in other directories that need it
    /// are not known.
    Rm(Rm),
    /// Copy an image to another place or storage.
    Cp(Cp),
    /// Remove what crashed saves have left in a directory.
    Clean(Clean),
    /// Run scenarios in the testbed.
    #[command(subcommand)]
    Scenario(Scenario),
    /// Record the memory of a running Xen guest as a trace (in builds with the feature xen).
    Record(Record),
    /// Traces: recorded guests over time, for scenarios.
    #[command(subcommand)]
    Trace(Trace),
    /// Make a scenario's results one HTML page.
    Report(Report),
    /// Measure coders beside each other.
    #[command(subcommand)]
    Bench(Bench),
    /// Measure what coding costs on this machine, for the testbed's virtual mode.
    Calibrate(Calibrate),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write all of them to a directory.
    Man {
        /// Where to write one page for each command.
        #[arg(long)]
        output: Option<PathBuf>,
    },
}

/// Cores and memory.
#[derive(Debug, Args)]
pub(crate) struct Resources {
    /// Cores to use [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Memory for pages and encoded segments, such as 64MiB [default: 64MiB, more from 5 workers on].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
}

/// Where images are that others rest on.
#[derive(Debug, Args)]
pub(crate) struct Ancestors {
    /// A directory where parents and templates are looked for, beside the image's own (repeatable).
    #[arg(long, value_name = "DIR")]
    pub(crate) ancestors: Vec<String>,
}

/// What a new image rests on, how it is coded, and how that is told.
#[derive(Debug, Args)]
pub(crate) struct Packing {
    /// Store only what differs from this image of the same guest, best one made without --unit.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) parent: Option<String>,
    /// Store only what this template (see comio template make) does not have.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) template: Option<String>,
    /// Memory for the table of the template's pages; what does not fit costs ratio only.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(crate) template_memory: Size,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    /// How to code pages: turbo, fast, light, balanced or dense; or raw, lz4, zstd1 to compare.
    #[arg(long, default_value_t = Method::Balanced)]
    pub(crate) level: Method,
    /// Where pages may lie: hybrid, or strict (none across a 4 KiB boundary, some percent bigger).
    #[arg(long, value_enum, default_value_t = PlacementArg::Hybrid)]
    pub(crate) placement: PlacementArg,
    /// Code up to so many pages together (1 to 16): images get smaller and are made and restored
    /// faster, but all of them are read and decoded for one page.
    #[arg(long, value_name = "PAGES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) unit: u8,
    /// Fail if IMAGE exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

#[derive(Debug, Args)]
pub(crate) struct Pack {
    #[command(flatten)]
    pub(crate) packing: Packing,
    /// What SRC is.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub(crate) format: Format,
    /// A file, a FIFO, or - for standard input.
    pub(crate) src: PathBuf,
    /// The image to make.
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct Unpack {
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    /// Fail if OUT exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Of an incomplete image of a flat dump, give what is there, and zeros for the rest.
    #[arg(long)]
    pub(crate) partial: bool,
    /// Print the report as JSON (to stderr when OUT is -).
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
    pub(crate) image: String,
    /// A file, a FIFO, or - for standard output.
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Extract {
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    pub(crate) image: String,
    /// A page, or a range of pages (both ends included).
    #[arg(long, value_name = "N[-M]", required_unless_present = "pfn_list", conflicts_with = "pfn_list")]
    pub(crate) pfn: Option<PfnRange>,
    /// A file with one decimal pfn a line (- for standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) pfn_list: Option<PathBuf>,
    /// Where to write the pages [default: standard output].
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// Print what it cost as JSON.
    #[arg(long, requires = "output")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Check what its pages rest on as well, in its ancestors.
    #[arg(long)]
    pub(crate) deep: bool,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    pub(crate) image: String,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    pub(crate) image: String,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverImage {
    /// The damaged image.
    pub(crate) damaged: String,
    /// The image to make.
    pub(crate) out: String,
    /// Fail if OUT exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

#[derive(Debug, Args)]
pub(crate) struct Flatten {
    pub(crate) image: String,
    /// The image to make.
    pub(crate) output: String,
    /// How to code pages, as for pack.
    #[arg(long, default_value_t = Method::Balanced)]
    pub(crate) level: Method,
    /// Fail if OUTPUT exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// Make a template of all different pages of one or several images.
    Make(TemplateMake),
}

#[derive(Debug, Args)]
pub(crate) struct TemplateMake {
    /// The template to make.
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) output: String,
    /// Memory for telling pages apart; what no longer fits is left out of the template.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) template_memory: Size,
    /// How to code pages, as for pack.
    #[arg(long, default_value_t = Method::Balanced)]
    pub(crate) level: Method,
    /// Fail if TEMPLATE exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// A directory, as a path or URL.
    #[arg(default_value = ".")]
    pub(crate) directory: String,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Remove even what other images beside it need.
    #[arg(long)]
    pub(crate) force: bool,
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    pub(crate) source: String,
    pub(crate) target: String,
    /// Fail if the target exists, instead of replacing it.
    #[arg(long)]
    pub(crate) no_clobber: bool,
    #[command(flatten)]
    pub(crate) resources: Resources,
}

#[derive(Debug, Args)]
pub(crate) struct Clean {
    /// A directory, as a path or URL.
    pub(crate) directory: String,
    /// Only list them.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Temporary files that were written to within the last hour too: a save may be at work on them.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// By its first bytes.
    Auto,
    /// A save file of xl.
    Xl,
    /// A flat dump of pages.
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlacementArg {
    Hybrid,
    Strict,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Run a scenario: print its table, write its results.
    Run(ScenarioRun),
    /// Say whether a scenario can be run.
    Check {
        /// Where traces are looked for [default: the directory traces beside FILE].
        #[arg(long, value_name = "DIR")]
        traces: Option<PathBuf>,
        /// The scenario's TOML file.
        file: PathBuf,
    },
    /// Print the JSON Schema of scenario files.
    Schema,
    /// Say what differs between two results; exit code 4 if anything does.
    Compare {
        /// A directory with results.json, as it was.
        before: PathBuf,
        /// The same, as it is.
        now: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The directory that `scenario run` wrote.
    pub(crate) directory: PathBuf,
    /// Where to write the page [default: DIRECTORY/report.html].
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Measure ECBC's levels beside general compressors, on the pages of real guests.
    Codec(BenchCodec),
}

#[derive(Debug, Args)]
pub(crate) struct BenchCodec {
    /// Write all figures as comma-separated values.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write plots of ratio over speed to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// Measure each coder so often; medians are told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// Of each input, take about so many pages from all over it.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub(crate) pages: u32,
    #[command(flatten)]
    pub(crate) ancestors: Ancestors,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// Flat dumps, save files of xl, or images [default: the traces in scenarios/traces].
    #[arg(value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    /// Traces whose pages are coded: ComIO images of flat dumps.
    #[arg(required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// What to call this machine in the table.
    #[arg(long, default_value = "this machine")]
    pub(crate) machine: String,
    /// Measure NFS too, against nfs-ganesha in network namespaces (needs root, iproute2 and
    /// nfs-ganesha) [default: as in the built-in table].
    #[arg(long)]
    pub(crate) netns: bool,
    /// Where to write the table [default: standard output].
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ScenarioRun {
    /// The scenario's TOML file.
    pub(crate) file: PathBuf,
    /// Where traces are looked for [default: the directory traces beside FILE].
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    /// Where to write results.json and plots [default: results/NAME].
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// A cost table for virtual mode, as `calibrate` makes it [default: the built-in one].
    #[arg(long, value_name = "FILE")]
    pub(crate) costs: Option<PathBuf>,
    /// Set a key of the scenario, with dots, such as guests.count=4; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Setting>,
    /// In real mode, build the links from network namespaces shaped to their rates, with
    /// nfs-ganesha behind them (needs root, iproute2 and nfs-ganesha).
    #[arg(long)]
    pub(crate) netns: bool,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A key of a scenario and what it is set to.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example guests.count=4")?;
        Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
    }
}

/// Bytes, as people write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl FromStr for Size {
    type Err = String;

    /// `64MiB`, `64 MB`, or `64M`, which means MiB as everywhere among administrators.
    fn from_str(text: &str) -> Result<Self, String> {
        let binary = text.ends_with(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']);
        let spelled = if binary { format!("{text}iB") } else { text.to_owned() };
        let size: bytesize::ByteSize =
            spelled.parse().map_err(|_| format!("{text:?} is not a size such as 64MiB or 1G"))?;
        usize::try_from(size.as_u64()).map(Self).map_err(|_| format!("{text:?} is too large"))
    }
}

/// A duration, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;

    /// `10s`, `5m` (minutes), `250 ms`, and whatever scenarios take.
    fn from_str(text: &str) -> Result<Self, String> {
        let minutes = text.strip_suffix('m').map(|number| format!("{number}min"));
        let span: Span = minutes
            .as_deref()
            .unwrap_or(text)
            .parse()
            .map_err(|_| format!("{text:?} is not a time such as 10s, 5m or 1h"))?;
        Ok(Self(span.duration()))
    }
}

/// `N` or `N-M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PfnRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl FromStr for PfnRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            text.trim().parse::<u64>().map_err(|_| format!("{text:?} is not a page number (decimal)"))
        };
        let range = Self { first: number(first)?, last: number(last)? };
        if range.first <= range.last { Ok(range) } else { Err(format!("{text:?} ends before it begins")) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_administrators_write_them() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("64M", 64 << 20), ("1G", 1 << 30), ("1 GB", 1_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert!("lots".parse::<Size>().is_err());
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("5 min", 300), ("1h", 3600), ("2000ms", 2)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_secs(seconds))), "{text}");
        }
        assert!("10".parse::<Time>().is_err());
        assert!("soon".parse::<Time>().is_err());
    }

    #[test]
    fn ranges_include_both_ends() {
        assert_eq!("3-5".parse(), Ok(PfnRange { first: 3, last: 5 }));
        assert_eq!("7".parse(), Ok(PfnRange { first: 7, last: 7 }));
        assert!("5-3".parse::<PfnRange>().is_err());
        assert!("-3".parse::<PfnRange>().is_err());
    }
}
