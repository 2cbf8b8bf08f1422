//! Real mode: real bytes, a real server, wall time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::PAGE_SIZE;
use comio_core::compute::Compute;
use comio_core::ecbc;
use comio_core::engine::Engine;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::storage::Storage;

use super::extract::{self, Source};
use super::template::Template;
use super::{LOADING_BYTES, RunError, in_order, load_traces, per_second, run_of, world_error};
use crate::cast::{engine_memory, guest_memories, guest_name, segment_coder};
use crate::herd::{self, Lane, Member, Move, Pace};
use crate::hypervisor::{Replay, ReplayHypervisor};
use crate::mover::{EngineMover, Upon};
use crate::replay::ReplayedGuest;
use crate::report::{Phase, Run, Spread};
use crate::scenario::{Method, Operation, Point, Scenario};
use crate::trace::{SyntheticGuest, Trace};
use crate::units::Share;
use crate::world::World;

/// Runs every point on `world`.
pub(super) async fn run(points: &[Point], world: &dyn World) -> Result<Vec<Run>, RunError> {
    let mut runs = Vec::new();
    for point in points {
        runs.extend(run_point(point, world).await?);
    }
    Ok(runs)
}

async fn run_point(point: &Point, world: &dyn World) -> Result<Vec<Run>, RunError> {
    let scenario = &point.scenario;
    let compute = world.compute(scenario.hosts.cores).map_err(world_error("start the worker pool"))?;
    let loaded = load_traces(&scenario.guests.traces, world, &compute).await?;
    let server = world.start_server(scenario).await.map_err(world_error("start the server"))?;
    let mut storages = Vec::new();
    for host in 0..scenario.hosts.count {
        let storage = server.connect(host, scenario.hosts.connections).await;
        storages.push(storage.map_err(world_error("connect to the server"))?);
    }
    let stage = Stage { point, world, compute, traces: in_order(scenario, &loaded), storages };
    let mut runs = Vec::new();
    // The parser lets no method without the engine into real mode.
    for (method, coder) in scenario.methods.iter().filter_map(|&method| Some((method, method.coder()?))) {
        runs.extend(stage.measure(method, coder).await?);
    }
    drop(stage);
    server.stop().await.map_err(world_error("stop the server"))?;
    Ok(runs)
}

/// What all methods share.
struct Stage<'a> {
    point: &'a Point,
    world: &'a dyn World,
    compute: Arc<dyn Compute>,
    traces: Vec<Trace>,
    storages: Vec<Arc<dyn Storage>>,
}

impl Stage<'_> {
    fn scenario(&self) -> &Scenario {
        &self.point.scenario
    }

    /// One method, from the first night to the last if there are nights.
    async fn measure(&self, method: Method, coder: ecbc::Method) -> Result<Vec<Run>, RunError> {
        let template = match method {
            Method::ComioTemplate => Some(self.made_template(coder).await?),
            _ => None,
        };
        let Some(nights) = self.scenario().nights else {
            let herd = self.herd(coder, &Turn { method, night: None, template: template.as_ref() });
            let runs = self.measure_herd(&herd, method, self.point.label.clone(), template.as_ref()).await?;
            self.remove(&[herd], method, template).await?;
            return Ok(runs);
        };
        let (mut runs, mut herds) = (Vec::new(), Vec::new());
        for night in 0..=nights.count {
            let turn = Turn { method, night: Some((night, nights.changed)), template: template.as_ref() };
            let herd = self.herd(coder, &turn);
            let label = Some(night.to_string());
            runs.extend(
                self.measure_herd(&herd, method, label, template.as_ref().filter(|_| night == 0)).await?,
            );
            herds.push(herd);
        }
        // What others rest on goes last.
        herds.reverse();
        self.remove(&herds, method, template).await?;
        Ok(runs)
    }

    /// Saves a herd and, if the scenario says so, restores it. A template that is told of
    /// counts as stored.
    async fn measure_herd(
        &self,
        herd: &[Lane],
        method: Method,
        label: Option<String>,
        template: Option<&Template>,
    ) -> Result<Vec<Run>, RunError> {
        let failed = |phase| move |problem| RunError::Herd { method, phase, problem };
        let (scenario, label) = (self.scenario(), label.as_ref());
        let pace = WorldPace(self.world);
        self.tell(method, Phase::Save);
        let saved = herd::run(herd, Move::Save, &pace).await.map_err(failed(Phase::Save))?;
        let stored_bytes = saved.stored_bytes + template.map_or(0, Template::stored_bytes);
        let mut runs = vec![run_of(scenario, label, method, Phase::Save, saved, stored_bytes)];
        if matches!(scenario.operation, Operation::SaveThenRestore | Operation::Nightly) {
            self.tell(method, Phase::Restore);
            let restored = herd::run(herd, Move::Restore, &pace).await.map_err(failed(Phase::Restore))?;
            runs.push(run_of(scenario, label, method, Phase::Restore, restored, stored_bytes));
            for run in &mut runs {
                run.identical = herd::identical(herd);
            }
        }
        if scenario.operation == Operation::Extract {
            runs.push(Box::pin(self.measure_extraction(method, label, stored_bytes)).await?);
        }
        Ok(runs)
    }

    /// Takes single pages out of the images of a herd that was saved.
    async fn measure_extraction(
        &self,
        method: Method,
        label: Option<&String>,
        stored_bytes: u64,
    ) -> Result<Run, RunError> {
        self.tell(method, Phase::Extract);
        let scenario = self.scenario();
        let guests = guest_memories(scenario, &self.traces).enumerate().zip(self.storages.iter().cycle());
        let sources: Vec<Source<'_>> = guests
            .map(|((number, memory), storage)| {
                let (storage, image) = (&**storage, image_name(number, None));
                Source { memory, storage, image }
            })
            .collect();
        let extracted = extract::run(&sources, scenario.seed, self.world).await;
        let extracted =
            extracted.map_err(|problem| RunError::Herd { method, phase: Phase::Extract, problem })?;
        let makespan = extracted.arrived.makespan;
        let bytes = (sources.len() * extract::PAGES * PAGE_SIZE) as u64;
        let mut run = run_of(scenario, label, method, Phase::Extract, extracted.arrived, stored_bytes);
        run.goodput_bytes_per_s = per_second(bytes, makespan);
        run.identical = Some(extracted.identical);
        run.page_s = Some(Spread::of(extracted.page_s));
        Ok(run)
    }

    async fn made_template(&self, coder: ecbc::Method) -> Result<Template, RunError> {
        self.world.tell("making the template");
        let coder = Arc::new(EcbcCoder::new(coder, Placement::Ordered));
        let engine = Engine::new(Arc::clone(&self.compute), coder, LOADING_BYTES);
        let seed = self.scenario().seed;
        let making = Template::make(&engine, &self.compute, &self.traces, seed, self.world, &self.storages);
        making.await.map_err(RunError::Template)
    }

    async fn remove(
        &self,
        herds: &[Vec<Lane>],
        method: Method,
        template: Option<Template>,
    ) -> Result<(), RunError> {
        let failed = |problem| RunError::Herd { method, phase: Phase::Save, problem };
        for herd in herds {
            herd::remove_images(herd).await.map_err(failed)?;
        }
        match template {
            Some(template) => template.remove(&self.storages).await.map_err(RunError::Template),
            None => Ok(()),
        }
    }

    fn tell(&self, method: Method, phase: Phase) {
        let count = self.scenario().guests.count;
        self.world.tell(&format!("{}: {} of {count} guests", method.title(), phase.name()));
    }

    fn herd(&self, coder: ecbc::Method, turn: &Turn<'_>) -> Vec<Lane> {
        let scenario = self.scenario();
        let replay = |memory: SyntheticGuest| {
            let memory = match turn.night {
                Some((nights, changed)) => memory.after(nights, changed.0),
                None => memory,
            };
            Arc::new(ReplayedGuest::new(memory, &self.compute)) as Arc<dyn Replay>
        };
        let guests = guest_memories(scenario, &self.traces).map(replay);
        let hypervisor =
            ReplayHypervisor::new(guests.enumerate().map(|(number, guest)| (guest_name(number), guest)));
        let coder = segment_coder(coder, self.world.uuid()).in_units(scenario.guests.unit);
        let coder = Arc::new(coder);
        let engine = Engine::new(Arc::clone(&self.compute), coder, engine_memory(scenario));
        let turns = scenario.arrival.turns(scenario.guests.count, scenario.seed);
        let hosts = self.storages.iter().enumerate().cycle();
        let member = |number: usize, arrival: Duration, host: usize, storage: &Arc<dyn Storage>| {
            let mover = EngineMover {
                engine: engine.with_own_buffers(),
                hypervisor: hypervisor.clone(),
                guest: guest_name(number),
                storage: Arc::clone(storage),
                uuid: self.world.uuid(),
                image: image_name(number, turn.night.map(|(night, _)| night)),
                upon: turn.upon(number, host),
            };
            vec![Member { guest: guest_name(number), arrival, mover: Box::new(mover) }]
        };
        let members = turns.into_iter().enumerate().zip(hosts);
        members.map(|((number, arrival), (host, storage))| member(number, arrival, host, storage)).collect()
    }
}

/// What a herd is made for.
struct Turn<'a> {
    method: Method,
    /// Nights since the first, and what each has changed.
    night: Option<(u32, Share)>,
    template: Option<&'a Template>,
}

impl Turn<'_> {
    /// What guest `number`, on that host, is saved upon.
    fn upon(&self, number: usize, host: usize) -> Upon {
        if let Some(template) = self.template {
            return Upon::Shared(template.foundation(host));
        }
        match self.night {
            Some((night, _)) if self.method == Method::ComioIncrement && night > 0 => {
                Upon::Parent(image_name(number, Some(night - 1)))
            }
            _ => Upon::Nothing,
        }
    }
}

fn image_name(guest: usize, night: Option<u32>) -> String {
    let night = night.map(|night| format!("-night-{night}")).unwrap_or_default();
    format!("{}{night}.comio", guest_name(guest))
}

struct WorldPace<'a>(&'a dyn World);

#[async_trait]
impl Pace for WorldPace<'_> {
    fn now(&self) -> Duration {
        self.0.now()
    }

    async fn sleep_until(&self, moment: Duration) {
        let wait = moment.saturating_sub(self.0.now());
        if !wait.is_zero() {
            self.0.sleep(wait).await;
        }
    }
}
