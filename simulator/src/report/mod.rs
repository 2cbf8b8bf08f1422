//! What a scenario gave: figures, tables and plots.
//!
//! [`Results`] holds only what the scenario determines, so that two runs can be compared;
//! machine, commit and wall time stand apart, in [`Circumstances`].

mod compare;
mod html;
mod lines;
mod plot;
mod table;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scenario::Method;

pub use compare::{Difference, compare};
pub use plot::PlotError;
pub use table::Table;

/// Version of the result files' form.
pub const RESULTS_FORMAT: u32 = 1;

/// Everything a scenario gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_FORMAT`].
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The question that the scenario answers.
    pub question: String,
    /// The parameter that was swept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Hash of the scenario file.
    pub scenario_hash: String,
    /// Hash of the cost table (virtual mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs_hash: Option<String>,
    /// The seed used.
    pub seed: u64,
    /// Every run, in the order of the sweep, then the methods, then the operations.
    pub runs: Vec<Run>,
}

/// What was measured in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Guests were saved.
    Save,
    /// Guests were restored.
    Restore,
    /// Single pages were taken out of images.
    Extract,
}

impl Phase {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Extract => "extract",
        }
    }
}

/// One herd, saved or restored by one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The method.
    pub method: Method,
    /// What was done.
    pub operation: Phase,
    /// How many guests took part.
    pub guests: usize,
    /// The point of the sweep: parameter and value, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// From the first start to the last end, in seconds.
    pub makespan_s: f64,
    /// Memory of all guests, in bytes.
    pub guest_bytes: u64,
    /// Bytes of all images.
    pub stored_bytes: u64,
    /// Guest bytes made safe (or restored) per second.
    pub goodput_bytes_per_s: f64,
    /// Every page of every guest was compared after the restore and was the same; of an
    /// extraction every page that was taken out. Known for a save when its images were restored.
    pub identical: Option<bool>,
    /// How long single guests took.
    pub guest_s: Spread,
    /// How long one page took that was taken out of an image and had to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_s: Option<Spread>,
    /// Guests that were not done by the scenario's deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<usize>,
    /// What each resource alone would have taken (virtual mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What the event clock went through (virtual mode): equal for equal histories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// What happened over time; in a file of its own.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// Shortest, middle and longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The shortest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// Of these values; all zero if there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

/// What each resource would have taken for the work it was given, had it never waited: no
/// arrangement of the same work can be faster than the longest of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The server's link, in seconds.
    pub link_s: f64,
    /// The busiest host's link.
    pub host_link_s: f64,
    /// The switch, if the scenario gives it a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_s: Option<f64>,
    /// The busiest host's cores.
    pub cores_s: f64,
    /// The server's cores.
    pub server_cores_s: f64,
    /// The server's disk.
    pub disk_s: f64,
}

/// What work can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// The server's link.
    ServerLink,
    /// The busiest host's link.
    HostLink,
    /// The switch, if the scenario gives it a rate.
    Switch,
    /// The busiest host's cores.
    HostCores,
    /// The server's cores.
    ServerCores,
    /// The server's disk.
    ServerDisk,
}

impl Resource {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerLink => "server link",
            Self::HostLink => "host link",
            Self::Switch => "switch",
            Self::HostCores => "host cores",
            Self::ServerCores => "server cores",
            Self::ServerDisk => "server disk",
        }
    }
}

impl Limits {
    /// The longest, and whose it is; `None` if nothing was used.
    pub fn longest(&self) -> Option<(Resource, f64)> {
        let all = [
            (Resource::ServerLink, self.link_s),
            (Resource::HostLink, self.host_link_s),
            (Resource::Switch, self.switch_s.unwrap_or_default()),
            (Resource::HostCores, self.cores_s),
            (Resource::ServerCores, self.server_cores_s),
            (Resource::ServerDisk, self.disk_s),
        ];
        let used = all.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        // Of equal ones the first.
        used.reduce(|longest, next| if next.1 > longest.1 { next } else { longest })
    }
}

/// A fingerprint of everything that happened in a simulation, until the run's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Events of the clock.
    pub events: u64,
    /// Their digest, in hexadecimal.
    pub digest: String,
}

/// A run over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Start and end of each guest.
    pub guests: Vec<GuestTime>,
    /// How busy each resource was (virtual mode).
    pub usage: Vec<UsageSeries>,
}

/// How busy a resource was in equal spans of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageSeries {
    /// Which.
    pub resource: String,
    /// The length of a span, in seconds.
    pub span_s: f64,
    /// Shares of its capacity, 0 to 1, from the run's start.
    pub busy: Vec<f32>,
}

/// When a guest was under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestTime {
    /// Its name.
    pub guest: String,
    /// Its start, in seconds from the herd's.
    pub start_s: f64,
    /// Its end, likewise.
    pub end_s: f64,
}

impl Run {
    /// Guest bytes for each stored byte.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people and bounds")]
    pub fn ratio(&self) -> f64 {
        self.guest_bytes as f64 / self.stored_bytes.max(1) as f64
    }

    /// The resource that alone would have taken longest, and how long (virtual mode).
    pub fn limit(&self) -> Option<(Resource, f64)> {
        self.limits.and_then(|limits| limits.longest())
    }

    /// Its name in messages.
    pub fn label(&self) -> String {
        let point = self.point.as_deref().map(|point| format!(" at {point}")).unwrap_or_default();
        format!("{} of {} guests, {}{point}", self.operation.name(), self.guests, self.method)
    }
}

/// What a run depended on besides the scenario: in a file of its own, never compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// The program's version.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The machine: processor, cores, memory, system.
    pub machine: String,
    /// When the run ended, seconds since 1970.
    pub ended_unix_s: u64,
    /// How long all of it took, in seconds.
    pub wall_s: f64,
}

/// A file of a result directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultFile {
    /// Its name in the directory.
    pub name: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

impl Results {
    /// The result directory's files: `results.json` and the plots.
    ///
    /// # Errors
    /// [`PlotError`] when a plot cannot be drawn.
    pub fn files(&self) -> Result<Vec<ResultFile>, PlotError> {
        let file = |name: &str, contents| ResultFile { name: name.to_owned(), contents };
        let mut files = vec![
            file("results.json", json(self)),
            file("results.csv", lines::csv(&self.runs).into_bytes()),
            file("timelines.jsonl", lines::timelines(&self.runs)),
        ];
        for (name, svg) in plot::charts(self)? {
            files.push(ResultFile { name, contents: svg.into_bytes() });
        }
        files.push(file("report.html", self.html()?.into_bytes()));
        Ok(files)
    }

    /// Results as they stand in a result directory: `results.json` and `timelines.jsonl`.
    ///
    /// # Errors
    /// [`LoadError`] when the files are not what this version writes.
    pub fn load(results_json: &[u8], timelines_jsonl: &[u8]) -> Result<Self, LoadError> {
        let malformed = |file| move |error: serde_json::Error| LoadError::malformed(file, &error);
        let mut results: Self = serde_json::from_slice(results_json).map_err(malformed("results.json"))?;
        if results.format != RESULTS_FORMAT {
            return Err(LoadError::Format(results.format));
        }
        let lines = timelines_jsonl.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for (run, line) in results.runs.iter_mut().zip(lines) {
            run.timeline = serde_json::from_slice(line).map_err(malformed("timelines.jsonl"))?;
        }
        Ok(results)
    }

    /// The report: one HTML page that needs nothing else.
    ///
    /// # Errors
    /// [`PlotError`] when a plot cannot be drawn.
    pub fn html(&self) -> Result<String, PlotError> {
        html::page(self)
    }

    /// Methods in the order they were run.
    fn methods(&self) -> Vec<Method> {
        methods_of(&self.runs)
    }

    /// Operations in the order they were run.
    fn phases(&self) -> Vec<Phase> {
        in_order(self.runs.iter().map(|run| run.operation))
    }

    /// Points of the sweep in its order; one without a name if there is no sweep.
    fn points(&self) -> Vec<String> {
        in_order(self.runs.iter().map(|run| run.point.clone().unwrap_or_default()))
    }

    /// Runs of one point.
    fn at_point(&self, point: &str) -> Vec<Run> {
        let here = |run: &&Run| run.point.as_deref().unwrap_or_default() == point;
        self.runs.iter().filter(here).cloned().collect()
    }

    /// A figure at each point: the point's number and the value.
    fn along_the_sweep(
        &self,
        method: Method,
        phase: Phase,
        value: impl Fn(&Run) -> Option<f64>,
    ) -> Vec<(f64, f64)> {
        let points = self.points();
        let mine = self.runs.iter().filter(|run| run.method == method && run.operation == phase);
        let place = |run: &Run| {
            let name = run.point.as_deref().unwrap_or_default();
            let number = points.iter().position(|point| point == name)?;
            #[expect(clippy::cast_precision_loss, reason = "points of a sweep")]
            Some((number as f64, value(run)?))
        };
        mine.filter_map(place).collect()
    }

    /// Whether single pages were timed.
    fn has_pages(&self) -> bool {
        self.runs.iter().any(|run| run.page_s.is_some())
    }

    /// The table for people.
    pub fn table(&self) -> Table {
        table::of_runs(&self.runs)
    }
}

/// A result directory that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file is not what it should be.
    #[error("{file} is not a result file of comio: {problem}")]
    Malformed {
        /// Which.
        file: &'static str,
        /// Where and why.
        problem: String,
    },
    /// Another version wrote it.
    #[error("results of format {0} cannot be read by this version, which writes format {RESULTS_FORMAT}")]
    Format(u32),
}

impl LoadError {
    fn malformed(file: &'static str, problem: &serde_json::Error) -> Self {
        Self::Malformed { file, problem: problem.to_string() }
    }
}

fn methods_of(runs: &[Run]) -> Vec<Method> {
    in_order(runs.iter().map(|run| run.method))
}

/// Each value once, in the order of its first appearance.
fn in_order<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

impl Circumstances {
    /// Its file.
    pub fn file(&self) -> ResultFile {
        ResultFile { name: "circumstances.json".to_owned(), contents: json(self) }
    }
}

/// Indented JSON with a final newline; fields in the order of the structs.
fn json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs with text keys: serialising them into memory cannot fail.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;

    pub(crate) fn run(method: Method, operation: Phase, makespan_s: f64, stored_bytes: u64) -> Run {
        Run {
            method,
            operation,
            guests: 4,
            point: None,
            makespan_s,
            guest_bytes: 1 << 30,
            stored_bytes,
            goodput_bytes_per_s: f64::from(1 << 30) / makespan_s,
            identical: Some(true),
            guest_s: Spread::default(),
            page_s: None,
            late: None,
            limits: None,
            history: None,
            timeline: Timeline::default(),
        }
    }

    pub(crate) fn runs() -> Vec<Run> {
        vec![
            run(Method::Raw, Phase::Save, 10.0, 1 << 30),
            run(Method::Raw, Phase::Restore, 9.0, 1 << 30),
            run(Method::Comio, Phase::Save, 2.5, 1 << 28),
            run(Method::Comio, Phase::Restore, 2.0, 1 << 28),
        ]
    }

    pub(crate) fn results() -> Results {
        Results {
            format: RESULTS_FORMAT,
            scenario: "x".to_owned(),
            question: "y?".to_owned(),
            parameter: None,
            scenario_hash: "0".to_owned(),
            costs_hash: None,
            seed: 1,
            runs: runs(),
        }
    }

    /// The same at three points, each taking twice as long as the one before.
    pub(crate) fn swept() -> Results {
        let at = |(point, factor): (&str, f64)| {
            runs()
                .into_iter()
                .map(move |mut run| {
                    run.point = Some(point.to_owned());
                    run.makespan_s *= factor;
                    run.limits = Some(Limits { link_s: run.makespan_s * 0.9, ..Limits::default() });
                    run
                })
                .collect::<Vec<_>>()
        };
        let runs = [("1", 1.0), ("2", 2.0), ("4", 4.0)].into_iter().flat_map(at).collect();
        Results { parameter: Some("guests.count".to_owned()), runs, ..results() }
    }

    #[test]
    fn result_files_are_the_same_for_the_same_runs() {
        let files = results().files().unwrap();
        assert_eq!(files, results().files().unwrap());
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["results.json", "results.csv", "timelines.jsonl", "makespan.svg", "stored.svg", "report.html"]
        );
        let json: serde_json::Value = serde_json::from_slice(&files[0].contents).unwrap();
        let first = &json["runs"][0];
        assert_eq!(first["method"], "raw");
        assert_eq!(first["operation"], "save");
        assert_eq!(first["identical"], true);
    }

    #[test]
    fn results_come_back_from_their_files() {
        let mut results = swept();
        let guest = GuestTime { guest: "g".to_owned(), start_s: 0.5, end_s: 1.5 };
        results.runs[2].timeline.guests = vec![guest];
        let files = results.files().unwrap();
        assert_eq!(Results::load(&files[0].contents, &files[2].contents), Ok(results));
        assert!(Results::load(b"{}", b"").is_err());
        let newer = String::from_utf8_lossy(&files[0].contents).replacen("\"format\": 1", "\"format\": 2", 1);
        assert_eq!(Results::load(newer.as_bytes(), b""), Err(LoadError::Format(2)));
    }

    #[test]
    fn the_table_lines_up() {
        let table = table::of_runs(&runs()).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5);
        let column = |line: &str| line.find("MiB/s");
        assert!(lines[1..].iter().all(|line| column(line) == column(lines[1])), "{table}");
    }
}
