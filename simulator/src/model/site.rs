//! A whole modelled site: hosts with guests, the network, the server, and what is in the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use comio_core::engine::Engine;
use comio_core::storage::Storage;
use futures::future::{Either, select};

use super::clock::{Clock, Nanos};
use super::coder::{CodeTable, CodedGuest, ModelCoder};
use super::cost::{CostError, CostTable};
use super::faults::Struck;
use super::guest::{Copier, ModelGuest};
use super::machine::{Cores, ModelCompute};
use super::network::{Network, Port, goodput};
use super::pipe::{PipeMover, Stream};
use super::server::{ModelServer, ServerParts};
use super::storage::{ClientParts, DEPTH, KERNEL_DEPTH, ModelStorage};
use super::usage::Usage;
use crate::cast::{engine_memory, guest_memories, guest_name, segment_coder};
use crate::herd::{Lane, Member, Mover, Pace};
use crate::hypervisor::{Replay, ReplayHypervisor};
use crate::mover::{EngineMover, Upon};
use crate::report::{Limits, UsageSeries};
use crate::scenario::{Background, Method, Scenario};
use crate::trace::Trace;
use crate::units::Rate;

/// One method's world.
pub(crate) struct Site {
    pub(crate) herd: Vec<Lane>,
    pub(crate) pace: ClockPace,
    clock: Clock,
    network: Arc<Network>,
    server: Arc<ModelServer>,
    hosts: Vec<Host>,
    link_bytes_per_s: f64,
    host_link_bytes_per_s: f64,
    switch_bytes_per_s: Option<f64>,
    disk_bytes_per_s: Option<f64>,
    server_cores: Arc<Cores>,
}

struct Host {
    cores: Arc<Cores>,
    port: Port,
}

/// What the parts of a herd are made from.
struct Plan<'a> {
    scenario: &'a Scenario,
    method: Method,
    costs: &'a CostTable,
    guests: Vec<CodedGuest>,
}

impl Site {
    /// Builds the site of `scenario` for `method`; `coded` are its traces in its order.
    pub(crate) fn build(
        clock: &Clock,
        scenario: &Scenario,
        method: Method,
        coded: &[(Trace, Arc<CodeTable>)],
        costs: &CostTable,
    ) -> Result<Self, CostError> {
        let link_bytes_per_s = scenario.server.link.bytes_per_s();
        let host_link_bytes_per_s = scenario.hosts.link.bytes_per_s();
        let switch_bytes_per_s = scenario.network.switch.map(Rate::bytes_per_s);
        let round_trip = scenario.server.round_trip.0;
        let network = Arc::new(Network::new(clock, link_bytes_per_s, switch_bytes_per_s, round_trip));
        let cores = |count| Arc::new(Cores::new(clock, count));
        let machine = scenario.one_machine.then(|| cores(scenario.hosts.cores));
        let host = |_| Host {
            cores: machine.clone().unwrap_or_else(|| cores(scenario.hosts.cores)),
            port: network.port(host_link_bytes_per_s),
        };
        let hosts: Vec<Host> = (0..scenario.hosts.count).map(host).collect();
        let server_cores = machine.unwrap_or_else(|| cores(scenario.server.cores));
        let server = Arc::new(ModelServer::new(clock, server_parts(scenario, costs, &server_cores)));
        let mut site = Self {
            herd: Vec::new(),
            pace: ClockPace(clock.clone()),
            clock: clock.clone(),
            network,
            server,
            hosts,
            link_bytes_per_s,
            host_link_bytes_per_s,
            switch_bytes_per_s,
            disk_bytes_per_s: scenario.server.disk.map(Rate::bytes_per_s),
            server_cores,
        };
        let traces: Vec<Trace> = coded.iter().map(|(trace, _)| trace.clone()).collect();
        let with_codes = |(memory, (_, codes)): (_, &(Trace, Arc<CodeTable>))| CodedGuest {
            memory: Arc::new(memory),
            codes: Arc::clone(codes),
        };
        let guests = guest_memories(scenario, &traces).zip(coded.iter().cycle()).map(with_codes).collect();
        let plan = Plan { scenario, method, costs, guests };
        site.herd = match method.coder() {
            Some(_) => site.engine_herd(&plan)?,
            None => site.pipe_herd(&plan)?,
        };
        Ok(site)
    }

    fn host_of(&self, guest: usize) -> &Host {
        &self.hosts[guest % self.hosts.len()]
    }

    fn mount(&self, host: &Host, plan: &Plan<'_>, connections: usize, depth: usize) -> Arc<dyn Storage> {
        let parts = ClientParts {
            clock: self.clock.clone(),
            network: Arc::clone(&self.network),
            port: host.port,
            cores: Arc::clone(&host.cores),
            costs: plan.costs.client,
            server: Arc::clone(&self.server),
        };
        Arc::new(ModelStorage::new(parts, connections, depth))
    }

    fn engine_herd(&self, plan: &Plan<'_>) -> Result<Vec<Lane>, CostError> {
        let scenario = plan.scenario;
        let coding = plan.costs.coding(plan.method.nearest_coder())?;
        if let Some(tag) = plan.guests.iter().find_map(|guest| coding.missing(&guest.codes.tally())) {
            return Err(CostError::Missing(format!("{tag} pages of {}", plan.method)));
        }
        let workers = |host: &Host| Arc::new(ModelCompute::new(Arc::clone(&host.cores), coding.clone()));
        // Hosts that are one machine share its workers, too.
        let machine = scenario.one_machine.then(|| self.hosts.first().map(workers)).flatten();
        let model = |(number, guest): (usize, &CodedGuest)| {
            let (copier, costs) = match &machine {
                Some(workers) => (Copier::Workers(Arc::clone(workers)), plan.costs.replay),
                None => (Copier::Cores(Arc::clone(&self.host_of(number).cores)), plan.costs.hypervisor),
            };
            let guest = ModelGuest { number, page_count: guest.memory.page_count(), copier, costs };
            (guest_name(number), Arc::new(guest) as Arc<dyn Replay>)
        };
        let hypervisor = ReplayHypervisor::new(plan.guests.iter().enumerate().map(model));
        let coder = segment_coder(plan.method.nearest_coder(), [0; 16]);
        let coder = Arc::new(ModelCoder::new(coder, plan.guests.clone()));
        let mounts: Vec<(Engine, Arc<dyn Storage>)> = self
            .hosts
            .iter()
            .map(|host| {
                let compute = machine.clone().unwrap_or_else(|| workers(host));
                let engine = Engine::new(compute, Arc::clone(&coder) as _, engine_memory(scenario));
                (engine, self.mount(host, plan, scenario.hosts.connections, DEPTH))
            })
            .collect();
        let turns = scenario.arrival.turns(plan.guests.len(), scenario.seed);
        let lane = |((number, arrival), (engine, mount)): (_, &(Engine, Arc<dyn Storage>))| {
            let mover = EngineMover {
                engine: engine.with_own_buffers(),
                hypervisor: hypervisor.clone(),
                guest: guest_name(number),
                storage: Arc::clone(mount),
                uuid: uuid(scenario.seed, number),
                image: format!("{}.comio", guest_name(number)),
                upon: Upon::Nothing,
            };
            vec![member(number, arrival, mover)]
        };
        Ok(turns.into_iter().enumerate().zip(mounts.iter().cycle()).map(lane).collect())
    }

    fn pipe_herd(&self, plan: &Plan<'_>) -> Result<Vec<Lane>, CostError> {
        let missing = |tool: &str| CostError::Missing(format!("the compressor {tool}"));
        let pipe = match plan.method.tool() {
            Some(tool) => Some(*plan.costs.pipes.get(tool).ok_or_else(|| missing(tool))?),
            None => None,
        };
        let hosts = self.hosts.iter();
        let mounts: Vec<_> = hosts.map(|host| self.mount(host, plan, 1, KERNEL_DEPTH)).collect();
        let turns = plan.scenario.arrival.turns(plan.guests.len(), plan.scenario.seed);
        let sequential = plan.method == Method::XenSequential;
        let mut lanes: Vec<Lane> = Vec::new();
        for ((number, arrival), guest) in turns.into_iter().enumerate().zip(&plan.guests) {
            let mover = PipeMover {
                guest: guest_name(number),
                number,
                stream: Stream::new(guest, pipe.as_ref()),
                pipe,
                cores: Arc::clone(&self.host_of(number).cores),
                hypervisor: plan.costs.hypervisor,
                mount: Arc::clone(&mounts[number % mounts.len()]),
                restored: Mutex::default(),
            };
            let member = member(number, arrival, mover);
            match lanes.get_mut(number % self.hosts.len()) {
                Some(lane) if sequential => lane.push(member),
                _ => lanes.push(vec![member]),
            }
        }
        Ok(lanes)
    }

    /// Runs `main` to its end amid other traffic and faults.
    pub(crate) async fn amid_trouble<T>(&self, scenario: &Scenario, main: impl Future<Output = T>) -> T {
        let trouble = async {
            let struck = Struck {
                clock: &self.clock,
                network: &self.network,
                server: &self.server,
                link_bytes_per_s: self.link_bytes_per_s,
            };
            let traffic = async {
                if let Some(Background { rate, connections }) = scenario.background {
                    self.network.background(goodput(rate.bytes_per_s()), connections).await;
                }
            };
            futures::join!(struck.by(&scenario.faults), traffic);
            futures::future::pending::<T>().await
        };
        match select(std::pin::pin!(main), std::pin::pin!(trouble)).await {
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        }
    }
}

fn member(number: usize, arrival: Duration, mover: impl Mover + 'static) -> Member {
    Member { guest: guest_name(number), arrival, mover: Box::new(mover) }
}

fn server_parts(scenario: &Scenario, costs: &CostTable, cores: &Arc<Cores>) -> ServerParts {
    let server = &scenario.server;
    ServerParts {
        threads: server.threads,
        cores: Arc::clone(cores),
        costs: costs.server,
        disk_bytes_per_s: server.disk.map(Rate::bytes_per_s),
        cache_bytes: server.cache.0,
        commit_ns: server.commit.0,
        cold: server.cold,
    }
}

/// An identity for each guest's image: nothing random in virtual mode.
fn uuid(seed: u64, number: usize) -> [u8; 16] {
    (u128::from(seed) << 64 | number as u128).rotate_left(64).to_be_bytes()
}

/// Time as herds see it.
pub(crate) struct ClockPace(Clock);

#[async_trait]
impl Pace for ClockPace {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now())
    }

    async fn sleep_until(&self, moment: Duration) {
        let moment = u64::try_from(moment.as_nanos()).unwrap_or(Nanos::MAX);
        if moment > self.0.now() {
            self.0.sleep_until(moment).await;
        }
    }
}

/// What every resource had done at a moment.
pub(crate) struct Snapshot {
    at: Nanos,
    work: Work,
}

struct Work {
    link: [f64; 2],
    host_link: Vec<f64>,
    switch: f64,
    cores: Vec<f64>,
    server_cores: f64,
    disk: f64,
}

impl Work {
    fn of(site: &Site) -> Self {
        let (up, down) = site.network.usage();
        let (server_cores, disk) = site.server.usage();
        Self {
            link: [up.total(), down.total()],
            host_link: site.hosts.iter().map(|host| site.network.busier_way(host.port)).collect(),
            switch: site.network.switch_usage().map_or(0.0, |switch| switch.total()),
            cores: site.hosts.iter().map(|host| host.cores.usage().total()).collect(),
            server_cores: server_cores.total(),
            disk: disk.map_or(0.0, |disk| disk.total()),
        }
    }
}

impl Snapshot {
    /// Now.
    pub(crate) fn of(site: &Site) -> Self {
        Self { at: site.clock.now(), work: Work::of(site) }
    }

    /// What each resource would have taken for what was done since.
    #[expect(clippy::cast_precision_loss, reason = "cores of a machine")]
    pub(crate) fn limits_until_now(&self, site: &Site) -> Limits {
        let (before, now) = (&self.work, Work::of(site));
        let most = |now: &[f64], before: &[f64]| {
            now.iter().zip(before).map(|(now, before)| now - before).fold(0.0, f64::max)
        };
        let cores_each = site.hosts.first().map_or(1, |host| host.cores.count()) as f64;
        let disk = now.disk - before.disk;
        Limits {
            link_s: most(&now.link, &before.link) / goodput(site.link_bytes_per_s),
            host_link_s: most(&now.host_link, &before.host_link) / goodput(site.host_link_bytes_per_s),
            switch_s: site.switch_bytes_per_s.map(|rate| (now.switch - before.switch) / goodput(rate)),
            cores_s: most(&now.cores, &before.cores) / cores_each,
            server_cores_s: (now.server_cores - before.server_cores) / site.server_cores.count() as f64,
            disk_s: site.disk_bytes_per_s.map_or(0.0, |rate| disk / rate),
        }
    }

    /// How busy each resource was since.
    #[expect(clippy::cast_precision_loss, reason = "cores of all machines")]
    pub(crate) fn usage_until_now(&self, site: &Site) -> Vec<UsageSeries> {
        let (up, down) = site.network.usage();
        let (server_cores, disk) = site.server.usage();
        let mut cores = Usage::default();
        for host in &site.hosts {
            cores.merge(&host.cores.usage());
        }
        let link = goodput(site.link_bytes_per_s);
        let core_count: usize = site.hosts.iter().map(|host| host.cores.count()).sum();
        let mut series = vec![
            self.series("to the server", &up, link),
            self.series("from the server", &down, link),
            self.series("hosts' cores", &cores, core_count as f64),
            self.series("server's cores", &server_cores, site.server_cores.count() as f64),
        ];
        if let (Some(switch), Some(rate)) = (site.network.switch_usage(), site.switch_bytes_per_s) {
            series.push(self.series("switch", &switch, goodput(rate)));
        }
        if let (Some(disk), Some(rate)) = (disk, site.disk_bytes_per_s) {
            series.push(self.series("server's disk", &disk, rate));
        }
        series
    }

    /// `usage` since the snapshot, in shares of `capacity`.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "for a plot")]
    fn series(&self, resource: &str, usage: &Usage, capacity: f64) -> UsageSeries {
        let span_s = usage.bucket() as f64 * 1e-9;
        // The first span may begin a little before the snapshot.
        let skip = usize::try_from(self.at / usage.bucket()).unwrap_or(usize::MAX);
        let busy = usage.work().iter().skip(skip).map(|work| (work / span_s / capacity) as f32);
        UsageSeries { resource: resource.to_owned(), span_s, busy: busy.collect() }
    }
}
