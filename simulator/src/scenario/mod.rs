//! Scenario files: what is measured, in TOML.
//!
//! A scenario names guests, hosts, a server, an operation and the methods to compare. Every
//! quantity carries its unit, unknown keys are refused, and an error names the line and what
//! would be right. `docs/scenarios.md` is the reference.

mod error;
mod expect;
mod figures;
mod method;
mod names;
mod nights;
mod parse;
mod sense;
mod single;
mod sweep;
mod timing;
mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::ScenarioError;
pub use expect::{Expectation, Missed};
pub use method::Method;
pub use nights::Nights;
pub use parse::{FindTrace, Point, ScenarioFile, parse, parse_with};
pub use sweep::Sweep;
pub use timing::{Arrival, Background, Fault, FaultKind, Pattern};

use crate::units::{Rate, Share, Size, Span};

/// One scenario, or one point of its sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// A short name, used in results and file names.
    pub name: String,
    /// The question it answers, in one sentence.
    pub question: String,
    /// Virtual time and models, or real time and a real server.
    pub mode: Mode,
    /// The seed of everything random.
    #[serde(default = "default_seed", deserialize_with = "words::count")]
    pub seed: u64,
    /// What happens to the guests.
    pub operation: Operation,
    /// What is compared.
    pub methods: Vec<Method>,
    /// The guests.
    pub guests: Guests,
    /// The machines they run on.
    #[serde(default)]
    pub hosts: Hosts,
    /// The storage server.
    #[serde(default)]
    pub server: Server,
    /// What lies between them (virtual mode).
    #[serde(default)]
    pub network: Network,
    /// Hosts and server are one machine with the cores of one host, whose workers also make and
    /// compare the guests' pages: as it is in real mode, against a server on the same machine.
    #[serde(default)]
    pub one_machine: bool,
    /// When the guests' turns come.
    #[serde(default)]
    pub arrival: Arrival,
    /// What the nights of a nightly scenario change (real mode).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nights: Option<Nights>,
    /// Other people's traffic to the server (virtual mode).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// What goes wrong, and when (virtual mode).
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Guests that are not done by then, from the start, are counted as late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// One parameter that takes several values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Bounds that the results must keep.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// The JSON Schema of scenario files, for editors.
pub fn schema() -> String {
    // A schema is plain data: writing it into memory cannot fail.
    serde_json::to_string_pretty(&schemars::schema_for!(Scenario)).unwrap_or_default() + "\n"
}

fn default_seed() -> u64 {
    1
}

/// How time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Wall time, real bytes, a real server.
    Real,
    /// An event clock and models.
    Virtual,
}

/// What happens to the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// All guests are saved.
    Save,
    /// All guests are saved, and when the last is safe all are restored.
    SaveThenRestore,
    /// All guests are restored from images that were saved before the clock started
    /// (virtual mode).
    Restore,
    /// All guests are saved, then single pages are taken out of their images, one after the other
    /// (real mode).
    Extract,
    /// All guests are saved and restored on a first night and on each of `nights` after it,
    /// when some of their memory has changed (real mode).
    Nightly,
}

/// The guests of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Guests {
    /// How many.
    #[serde(deserialize_with = "words::count")]
    pub count: usize,
    /// Memory of each.
    pub memory: Size,
    /// Which recorded traces they replay, by name, in turn.
    pub traces: Vec<String>,
    /// Which share of a guest's memory is its own; the rest occurs in other guests of the
    /// same trace too.
    #[serde(default = "default_private")]
    pub private: Share,
    /// How many pages are coded together, at most (more than one in real mode only).
    #[serde(default = "one", deserialize_with = "words::count")]
    pub unit: usize,
}

fn one() -> usize {
    1
}

/// Desktops cloned from one template share 37–42 % of their pages.
fn default_private() -> Share {
    Share(0.6)
}

/// The machines that run the guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Hosts {
    /// How many; guests are spread over them in turn.
    #[serde(deserialize_with = "words::count")]
    pub count: usize,
    /// Cores each gives to saving and restoring. In real mode all hosts are this machine and
    /// share one pool of that many workers.
    #[serde(deserialize_with = "words::count")]
    pub cores: usize,
    /// Memory each may use for buffers (`--memory`).
    pub memory: Size,
    /// Connections each opens to the server.
    #[serde(deserialize_with = "words::count")]
    pub connections: usize,
    /// Each one's network link (virtual mode, and with network namespaces where it is narrower
    /// than the server's).
    pub link: Rate,
}

impl Default for Hosts {
    fn default() -> Self {
        Self { count: 1, cores: 2, memory: Size(64 << 20), connections: 2, link: Rate(10_000_000_000) }
    }
}

/// What lies between hosts and server, besides their links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// What the switch carries in all, both ways together; without it the switch is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<Rate>,
}

/// The storage server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Server {
    /// In real mode: `"embedded"`, or the `nfs://` URL of a server that runs.
    pub location: String,
    /// Its network link (virtual mode, as all that follows).
    pub link: Rate,
    /// From a host to the server and back.
    pub round_trip: Span,
    /// Calls that it works on at once.
    #[serde(deserialize_with = "words::count")]
    pub threads: usize,
    /// Its cores.
    #[serde(deserialize_with = "words::count")]
    pub cores: usize,
    /// Its disk; without one all is kept in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Rate>,
    /// Memory for files.
    pub cache: Size,
    /// What a COMMIT takes besides the disk's work.
    pub commit: Span,
    /// Everything is read from the disk at first, as in the morning.
    pub cold: bool,
}

impl Server {
    /// The location that stands for the server in this program.
    pub const EMBEDDED: &'static str = "embedded";
}

impl Default for Server {
    fn default() -> Self {
        Self {
            location: Self::EMBEDDED.to_owned(),
            link: Rate(1_000_000_000),
            round_trip: Span(100_000),
            threads: 64,
            cores: 4,
            disk: None,
            cache: Size(64 << 30),
            commit: Span(1_000_000),
            cold: false,
        }
    }
}
