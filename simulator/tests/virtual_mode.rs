//! Scenarios in virtual mode: the production engine on an event clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::compute::{Compute, ComputeError, Inline, Job, Work};
use comio_core::ecbc;
use comio_core::engine::{self, Engine, Image, Progress, SaveOptions};
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::testing::MemoryStorage;
use comio_simulator::hypervisor::Replay as _;
use comio_simulator::model::coder::CodeTable;
use comio_simulator::model::cost::CostTable;
use comio_simulator::replay::ReplayedGuest;
use comio_simulator::report::{Phase, Resource, Run};
use comio_simulator::runner::{self, Outcome};
use comio_simulator::scenario::{self, Method, Scenario};
use comio_simulator::trace::{SyntheticGuest, Trace};
use comio_simulator::world::{RunningServer, World, WorldError};
use futures::channel::oneshot;
use futures::executor::block_on;

/// A world that has traces and threads and nothing else: no clock, no server.
struct TracesOnly {
    traces: MemoryStorage,
    cores: usize,
}

/// As many threads at once as jobs are given, up to a number.
struct Threads(usize);

#[async_trait]
impl Compute for Threads {
    fn workers(&self) -> usize {
        self.0
    }

    async fn run(&self, job: Job) -> Result<(), ComputeError> {
        let (sender, receiver) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "a test with threads")]
        std::thread::spawn(move || {
            job();
            sender.send(()).expect("somebody waits for the job");
        });
        receiver.await.map_err(|_| ComputeError)
    }
}

#[async_trait]
impl World for TracesOnly {
    fn now(&self) -> Duration {
        panic!("virtual mode looks at no clock")
    }

    async fn sleep(&self, _duration: Duration) {
        panic!("virtual mode sleeps on no clock")
    }

    fn cores(&self) -> usize {
        self.cores
    }

    fn uuid(&self) -> [u8; 16] {
        panic!("virtual mode draws no random number")
    }

    fn compute(&self, workers: usize) -> Result<Arc<dyn Compute>, WorldError> {
        Ok(if workers == 1 { Arc::new(Inline) } else { Arc::new(Threads(workers)) })
    }

    async fn trace(&self, name: &str) -> Result<Image, WorldError> {
        Ok(Image::open_with_ancestors(&self.traces, name, &[]).await?)
    }

    async fn start_server(&self, _scenario: &Scenario) -> Result<Box<dyn RunningServer>, WorldError> {
        panic!("virtual mode starts no server")
    }

    fn tell(&self, _words: &str) {}
}

/// Memory with zero pages, pages of few bits, and noise.
fn recorded(pages: usize) -> Vec<u8> {
    let mut memory = vec![0; pages * 4096];
    let mut state = 1u32;
    for (number, page) in memory.chunks_exact_mut(4096).enumerate() {
        for byte in page {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [.., top] = state.to_le_bytes();
            *byte = match number % 3 {
                0 => 0,
                1 => b'a' + (top >> 6),
                _ => top,
            };
        }
    }
    memory
}

fn world() -> TracesOnly {
    world_of(2048)
}

/// A world whose trace has that many pages.
fn world_of(pages: usize) -> TracesOnly {
    let traces = MemoryStorage::new();
    let trace = Trace::new("t-0", recorded(pages)).unwrap();
    let compute: Arc<dyn Compute> = Arc::new(Inline);
    let guest = ReplayedGuest::new(SyntheticGuest::new(&trace, pages, 0.0, 1, 1), &compute);
    let coder = EcbcCoder::new(ecbc::Method::Dense, Placement::Hybrid);
    let engine = Engine::new(compute, Arc::new(coder), 0);
    let options = SaveOptions { uuid: [1; 16], created_unix_s: 0, replace: false };
    let mut reader = guest.reader();
    let progress = Progress::default();
    block_on(engine::save(&engine, &mut *reader, &traces, "t-0", &options, &progress)).unwrap();
    TracesOnly { traces, cores: 1 }
}

fn run(methods: &str, rest: &str) -> Outcome {
    run_in(&world(), methods, rest)
}

fn run_in(world: &TracesOnly, methods: &str, rest: &str) -> Outcome {
    let text =
        format!("name = 'test'\nquestion = 'how long?'\nmode = 'virtual'\nmethods = {methods}\n{rest}");
    let file =
        scenario::parse("test.toml", &text, &|name| if name == "t-0" { Ok(()) } else { Err(Vec::new()) })
            .unwrap();
    block_on(runner::run(&file, world)).unwrap()
}

const HERD: &str = "operation = 'save-then-restore'\n\
    [guests]\ncount = 8\nmemory = '64 MiB'\ntraces = ['t-0']\n[hosts]\ncount = 2\n";

fn find(outcome: &Outcome, method: Method, phase: Phase) -> &Run {
    let mine = |run: &&Run| run.method == method && run.operation == phase;
    outcome.results.runs.iter().find(mine).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "bytes and pages of a test")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

fn assert_within(measured: f64, exact: f64, share: f64) {
    assert!((measured - exact).abs() <= share * exact, "measured {measured} s, exactly {exact} s");
}

#[test]
fn every_guest_comes_back_by_every_method() {
    let all = "['raw', 'lz4', 'zstd1', 'comio-fast', 'comio', 'comio-dense', 'xen', 'xen-sequential', \
               'pipe-lz4', 'pipe-lzop', 'pipe-zstd']";
    let outcome = run(all, HERD);
    assert_eq!(outcome.results.runs.len(), 22);
    for run in &outcome.results.runs {
        assert_eq!(run.identical, Some(true), "{}", run.label());
        let limit = run.limit().unwrap();
        assert!(run.makespan_s >= limit.1 * 0.999, "{} beats its limit {limit:?}", run.label());
    }
}

#[test]
fn the_same_scenario_gives_the_same_bytes() {
    let results = |cores| {
        let world = TracesOnly { cores, ..world() };
        run_in(&world, "['raw', 'lz4', 'comio', 'xen']", HERD).results
    };
    let one = results(1);
    let digest = |run: &Run| run.history.clone().unwrap().digest;
    let digests: std::collections::BTreeSet<String> = one.runs.iter().map(digest).collect();
    assert_eq!(digests.len(), one.runs.len(), "every run has a history of its own");
    for cores in [1, 2, 4] {
        let again = results(cores);
        assert!(one.runs.iter().map(digest).eq(again.runs.iter().map(digest)), "{cores} threads");
        assert_eq!(one.files(), again.files(), "{cores} threads");
    }
}

#[test]
fn a_link_that_is_all_that_matters_takes_bytes_over_bandwidth() {
    // Cores and server are so fast, and the link so slow, that nothing else takes time.
    let slow_link = "operation = 'save-then-restore'\n[guests]\ncount = 8\nmemory = '64 MiB'\ntraces = ['t-0']\n\
        [hosts]\ncount = 4\ncores = 64\n[server]\nlink = '200 Mbit/s'\ncores = 64\n";
    let outcome = run("['raw', 'xen']", slow_link);
    for method in [Method::Raw, Method::Xen] {
        for phase in [Phase::Save, Phase::Restore] {
            let run = find(&outcome, method, phase);
            let exact = as_f64(run.stored_bytes) / (200e6 / 8.0 * 1448.0 / 1514.0);
            assert_within(run.makespan_s, exact, 0.01);
        }
    }
}

#[test]
fn cores_that_are_all_that_matter_take_work_over_cores() {
    // Every guest has every page of the trace once, so that all work is known beforehand.
    let (guests, pages) = (32, 16_384);
    let slow_cores = "operation = 'save-then-restore'\n\
        [guests]\ncount = 32\nmemory = '64 MiB'\ntraces = ['t-0']\nprivate = '0 %'\n\
        [hosts]\ncount = 1\ncores = 2\nlink = '400 Gbit/s'\n\
        [server]\nlink = '400 Gbit/s'\nround-trip = '1 us'\ncommit = '1 us'\ncores = 64\n";
    let outcome = run_in(&world_of(pages), "['comio-dense']", slow_cores);
    let trace = Trace::new("t-0", recorded(pages)).unwrap();
    let tally = CodeTable::new(&trace, ecbc::Method::Dense).tally();
    let costs = CostTable::checked_in().unwrap();
    let coding = costs.coding(ecbc::Method::Dense).unwrap();
    for (phase, work, copy_ns, kib_ns) in [
        (Phase::Save, Work::Encode(tally), costs.hypervisor.read_ns, costs.client.write_ns_per_kib),
        (Phase::Restore, Work::Decode(tally), costs.hypervisor.write_ns, costs.client.read_ns_per_kib),
    ] {
        let run = find(&outcome, Method::ComioDense, phase);
        let kib = as_f64(run.stored_bytes) / 1024.0;
        // Calls of 1 MiB; those of other kinds are few.
        let client_ns = kib * kib_ns + kib / 1024.0 * costs.client.call_ns;
        let guest_s = coding.seconds(&work) + as_f64(pages as u64) * copy_ns * 1e-9;
        let all_s = f64::from(guests) * guest_s + client_ns * 1e-9;
        let exact = all_s / 2.0;
        assert_within(run.makespan_s, exact, 0.01);
    }
}

#[test]
fn a_switch_that_is_all_that_matters_takes_bytes_over_its_rate() {
    let slow_switch = "operation = 'save-then-restore'\n[guests]\ncount = 8\nmemory = '64 MiB'\ntraces = ['t-0']\n\
        [hosts]\ncount = 4\ncores = 64\n[network]\nswitch = '200 Mbit/s'\n\
        [server]\nlink = '1 Gbit/s'\ncores = 64\n";
    let outcome = run("['raw']", slow_switch);
    for phase in [Phase::Save, Phase::Restore] {
        let run = find(&outcome, Method::Raw, phase);
        let exact = as_f64(run.stored_bytes) / (200e6 / 8.0 * 1448.0 / 1514.0);
        assert_within(run.makespan_s, exact, 0.01);
        assert_eq!(run.limit().unwrap().0, Resource::Switch);
        assert!(run.timeline.usage.iter().any(|series| series.resource == "switch"));
    }
}

#[test]
fn one_by_one_waits_for_each_commit() {
    let slow_commit = format!("{HERD}[server]\ncommit = '500 ms'\n");
    let outcome = run("['xen', 'xen-sequential']", &slow_commit);
    let makespan = |method| find(&outcome, method, Phase::Save).makespan_s;
    // Each of two hosts waits for four commits instead of one.
    assert_within(makespan(Method::XenSequential) - makespan(Method::Xen), 1.5, 0.2);
}

#[test]
fn other_traffic_takes_its_share() {
    let alone = run("['raw']", HERD);
    let amid = run("['raw']", &format!("{HERD}[background]\nrate = '500 Mbit/s'\nconnections = 8\n"));
    let makespan = |outcome| find(outcome, Method::Raw, Phase::Save).makespan_s;
    let ratio = makespan(&amid) / makespan(&alone);
    assert!((1.8..2.2).contains(&ratio), "{ratio} times as long beside half the link's traffic");
}

#[test]
fn a_server_that_restarts_costs_its_outage_and_loses_nothing() {
    let fault = "[[faults]]\nkind = 'server-restart'\nat = '1 s'\nlasts = '2 s'\n";
    let outcome = run("['raw', 'comio']", &format!("{HERD}{fault}"));
    let alone = run("['raw', 'comio']", HERD);
    for method in [Method::Raw, Method::Comio] {
        let (amid, alone) = (find(&outcome, method, Phase::Save), find(&alone, method, Phase::Save));
        assert_eq!(amid.identical, Some(true));
        let later = amid.makespan_s - alone.makespan_s;
        // The outage, the client's second, and what was written twice.
        assert!((2.5..6.0).contains(&later), "{method}: {later} s later");
    }
}

#[test]
fn a_fault_that_ends_leaves_the_others_as_they_are() {
    let slow = "[[faults]]\nkind = 'slow-link'\nat = '0 s'\nlasts = '100 s'\nrate = '100 Mbit/s'\n";
    let restart = "[[faults]]\nkind = 'server-restart'\nat = '5 s'\nlasts = '1 s'\n";
    let makespan = |faults: &str| {
        let outcome = run("['raw']", &format!("{HERD}{faults}"));
        find(&outcome, Method::Raw, Phase::Save).makespan_s
    };
    let (alone, both) = (makespan(slow), makespan(&format!("{slow}{restart}")));
    assert!(both > alone + 1.0, "{both} s with a restart, {alone} s without");
    assert_within(makespan(&format!("{restart}{slow}")), both, 1e-9);
}

#[test]
fn a_deadline_counts_who_is_late_and_turns_are_kept() {
    let text = "operation = 'save'\ndeadline = '3500 ms'\n\
        [guests]\ncount = 8\nmemory = '16 MiB'\ntraces = ['t-0']\n\
        [arrival]\npattern = 'staggered'\nevery = '1 s'\n";
    let outcome = run("['comio']", text);
    let run = find(&outcome, Method::Comio, Phase::Save);
    assert_eq!(run.late, Some(4));
    assert!(run.timeline.guests.iter().zip(0u32..).all(|(time, turn)| time.start_s >= f64::from(turn)));
}

#[test]
fn a_cold_server_reads_from_its_disk() {
    let disk = |cold| {
        let text = format!(
            "operation = 'restore'\n[guests]\ncount = 4\nmemory = '64 MiB'\ntraces = ['t-0']\n\
             [server]\nlink = '10 Gbit/s'\ndisk = '50 MiB/s'\ncold = {cold}\n"
        );
        find(&run("['raw']", &text), Method::Raw, Phase::Restore).makespan_s
    };
    // 256 MiB at 50 MiB/s.
    assert_within(disk(true), 5.12, 0.05);
    assert!(disk(false) < 2.0);
}

#[test]
fn a_thread_of_the_server_waits_for_the_disk_with_its_call() {
    let run = |threads| {
        let text = format!(
            "operation = 'restore'\n[guests]\ncount = 4\nmemory = '64 MiB'\ntraces = ['t-0']\n\
             [hosts]\ncores = 16\n\
             [server]\nlink = '10 Gbit/s'\ndisk = '500 MiB/s'\ncold = true\nthreads = {threads}\ncores = 4\n"
        );
        find(&run("['raw']", &text), Method::Raw, Phase::Restore).clone()
    };
    let (one, many) = (run(1), run(64));
    let limits = one.limits.unwrap();
    let one_by_one = limits.disk_s + 4.0 * limits.server_cores_s;
    assert!(
        one.makespan_s >= one_by_one,
        "{} s, but reading and answering take {one_by_one} s",
        one.makespan_s
    );
    assert!(many.makespan_s < 0.9 * one_by_one, "{} s", many.makespan_s);
}

#[test]
fn every_shipped_scenario_can_be_run() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut names = Vec::new();
    for file in std::fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let find_trace = |trace: &str| {
                let is_there = directory.join(format!("traces/{trace}.comio")).is_file();
                if is_there { Ok(()) } else { Err(Vec::new()) }
            };
            let file = scenario::parse(&name, &text, &find_trace).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(file.scenario.name, name, "the scenario's name is its file's");
            names.push(name);
        }
    }
    names.sort();
    for name in
        ["bandwidth", "cores", "evening", "morning", "paper", "quickstart", "scale", "shutdown", "units"]
    {
        assert!(names.iter().any(|found| found == name), "{name}.toml is missing");
    }
}

/// What people would do without ComIO stands beside it wherever methods are compared.
#[test]
fn comparisons_have_all_their_baselines() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    for name in ["paper", "bandwidth", "cores", "evening", "morning", "shutdown"] {
        let text = std::fs::read_to_string(directory.join(format!("{name}.toml"))).unwrap();
        let methods = scenario::parse(name, &text, &|_| Ok(())).unwrap().scenario.methods;
        for baseline in [
            Method::XenSequential,
            Method::Xen,
            Method::PipeLz4,
            Method::PipeLzop,
            Method::PipeZstd,
            Method::Lz4,
            Method::Zstd1,
            Method::Comio,
        ] {
            assert!(methods.contains(&baseline), "{name}.toml lacks {baseline}");
        }
    }
}

#[test]
fn the_published_schema_is_the_programs() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/scenario.schema.json");
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        published == scenario::schema(),
        "write it anew: comio scenario schema > scenarios/scenario.schema.json"
    );
}
