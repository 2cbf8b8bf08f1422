//! The real world for the testbed: its clock, threads, files and servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comio_backends::embedded::EmbeddedServer;
use comio_backends::local::LocalStorage;
use comio_backends::netns::{Export, Lab, Plan};
use comio_backends::nfs::{NfsStorage, NfsUrl, Throttle};
use comio_backends::pool::WorkerPool;
use comio_core::compute::Compute;
use comio_core::engine::Image;
use comio_core::storage::Storage;
use comio_simulator::scenario::{Scenario, Server};
use comio_simulator::world::{RunningServer, World, WorldError};

use crate::output;

/// Threads of the embedded server: enough that it is not what is measured.
const SERVER_THREADS: usize = 2;

/// This machine.
pub(crate) struct RealWorld {
    started: Instant,
    scenario: PathBuf,
    traces: PathBuf,
    netns: bool,
}

impl RealWorld {
    /// A world for a scenario of the directory `scenario` whose traces are in `traces`.
    #[expect(clippy::disallowed_methods, reason = "this is the testbed's clock")]
    pub(crate) fn new(scenario: PathBuf, traces: PathBuf) -> Self {
        Self { started: Instant::now(), scenario, traces, netns: false }
    }

    /// The same, whose server and links are made of network namespaces.
    pub(crate) fn with_netns(self, netns: bool) -> Self {
        Self { netns, ..self }
    }
}

/// The file of the trace `name`: in the directory `traces`, unless the name is a path, which
/// is taken from the directory `scenario` on.
pub(crate) fn trace_path(scenario: &Path, traces: &Path, name: &str) -> PathBuf {
    let directory = if name.contains('/') { scenario } else { traces };
    directory.join(format!("{name}.comio"))
}

/// Whether the trace `name` is there; if not, the names of those beside where it should be.
pub(crate) fn find_trace(scenario: &Path, traces: &Path, name: &str) -> Result<(), Vec<String>> {
    let path = trace_path(scenario, traces, name);
    if path.is_file() {
        return Ok(());
    }
    let files = path.parent().and_then(|directory| std::fs::read_dir(directory).ok());
    // As they would stand in the scenario: with the directory, if this one has it.
    let prefix = name.rfind('/').map_or("", |slash| &name[..=slash]);
    let names = files.into_iter().flatten().filter_map(|file| {
        let file = file.ok()?.file_name().into_string().ok()?;
        Some(format!("{prefix}{}", file.strip_suffix(".comio")?))
    });
    Err(names.collect())
}

#[async_trait]
impl World for RealWorld {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        #[expect(clippy::disallowed_methods, reason = "this is the testbed's clock")]
        tokio::time::sleep(duration).await;
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    fn uuid(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }

    fn compute(&self, workers: usize) -> Result<Arc<dyn Compute>, WorldError> {
        Ok(Arc::new(WorkerPool::new(workers)?))
    }

    async fn trace(&self, name: &str) -> Result<Image, WorldError> {
        let path = trace_path(&self.scenario, &self.traces, name);
        let (directory, file) = (path.parent().unwrap_or(Path::new(".")), path.file_name());
        let file = file.and_then(|file| file.to_str()).ok_or_else(|| format!("{name:?} names no file"))?;
        let storage = LocalStorage::open(directory, self.compute(1)?)?;
        Ok(Image::open_with_ancestors(&storage, file, &[]).await?)
    }

    async fn start_server(&self, scenario: &Scenario) -> Result<Box<dyn RunningServer>, WorldError> {
        let server = &scenario.server;
        if self.netns {
            output::say("starting nfs-ganesha in network namespaces");
            return Ok(Box::new(Netns { lab: Lab::start(plan(scenario))? }));
        }
        if server.location != Server::EMBEDDED {
            return Ok(Box::new(External { url: server.location.clone() }));
        }
        let link = Arc::new(Throttle::new(server.link.0 / 8));
        let directory = tempfile::Builder::new().prefix("comio-scenario-").tempdir()?;
        let server = EmbeddedServer::start(directory.path(), SERVER_THREADS)?;
        Ok(Box::new(Embedded { server, directory, link }))
    }

    fn tell(&self, words: &str) {
        output::say(words);
    }
}

/// The server in this process, over a directory that goes with it.
struct Embedded {
    server: EmbeddedServer,
    directory: tempfile::TempDir,
    /// The link that the scenario puts before the server: all hosts share it.
    link: Arc<Throttle>,
}

#[async_trait]
impl RunningServer for Embedded {
    async fn connect(&self, _host: usize, connections: usize) -> Result<Arc<dyn Storage>, WorldError> {
        connect(&self.server.url(), connections, Some(Arc::clone(&self.link))).await
    }

    async fn stop(self: Box<Self>) -> Result<(), WorldError> {
        drop(self.server);
        Ok(self.directory.close()?)
    }
}

/// Namespaces for `scenario`: the server's link as it says, and each host's where it is narrower
/// and so may count.
fn plan(scenario: &Scenario) -> Plan {
    let (server, hosts) = (&scenario.server, &scenario.hosts);
    let guests_bytes = scenario.guests.memory.0.saturating_mul(scenario.guests.count as u64);
    Plan {
        exports: vec![Export::OPEN],
        // Pages as they are, and room for tables.
        size_bytes: guests_bytes.saturating_add(guests_bytes / 16).saturating_add(64 << 20),
        hosts: hosts.count,
        server_link: Some(server.link.0),
        host_link: (hosts.link < server.link).then_some(hosts.link.0),
    }
}

/// nfs-ganesha behind links of network namespaces.
struct Netns {
    lab: Lab,
}

#[async_trait]
impl RunningServer for Netns {
    async fn connect(&self, host: usize, connections: usize) -> Result<Arc<dyn Storage>, WorldError> {
        connect(&self.lab.url(host, "/open", ""), connections, None).await
    }

    async fn stop(self: Box<Self>) -> Result<(), WorldError> {
        Ok(())
    }
}

/// A server that runs anyway.
struct External {
    url: String,
}

#[async_trait]
impl RunningServer for External {
    async fn connect(&self, _host: usize, connections: usize) -> Result<Arc<dyn Storage>, WorldError> {
        connect(&self.url, connections, None).await
    }

    async fn stop(self: Box<Self>) -> Result<(), WorldError> {
        Ok(())
    }
}

async fn connect(
    url: &str,
    connections: usize,
    link: Option<Arc<Throttle>>,
) -> Result<Arc<dyn Storage>, WorldError> {
    let mut url = NfsUrl::parse(url)?;
    url.options.connections = connections.max(1);
    let storage = match link {
        Some(link) => NfsStorage::connect_within(&url, Some(link)).await,
        None => NfsStorage::connect(&url).await,
    };
    Ok(Arc::new(storage?))
}

#[cfg(test)]
mod test {
    use comio_core::buffer::{Buffer, Payload};
    use comio_core::storage::CreateOptions;
    use comio_simulator::scenario;

    use super::*;

    #[tokio::test]
    async fn hosts_share_the_embedded_servers_link() -> Result<(), WorldError> {
        let text = "name = 'x'\nquestion = 'y?'\nmode = 'real'\noperation = 'save'\nmethods = ['raw']\n\
            [guests]\ncount = 4\nmemory = '1 MiB'\ntraces = ['t']\n\
            [hosts]\ncount = 4\n[server]\nlink = '80 Mbit/s'\n";
        let scenario = scenario::parse("x.toml", text, &|_| Ok(()))?.scenario;
        let world = RealWorld::new(PathBuf::new(), PathBuf::new());
        let server = world.start_server(&scenario).await?;
        let begin = world.now();
        let host = async |host: usize| -> Result<(), WorldError> {
            let storage = server.connect(host, 1).await?;
            let options = CreateOptions { replace: true, held_bytes_max: 8 << 20, unique: host as u64 };
            let writer = storage.create(&format!("guest-{host}"), options).await?;
            for offset in 0..4 {
                let piece = Payload::Bytes(Buffer::unpooled(vec![7; 256 << 10]));
                writer.write_at(offset * (256 << 10), piece).await?;
            }
            writer.sync().await?;
            Ok(writer.publish().await?)
        };
        tokio::try_join!(host(0), host(1), host(2), host(3))?;
        // 4 MiB at 10 MB/s: 0.42 s, of which the last transfer of each host begins with its turn.
        let took = world.now().saturating_sub(begin);
        assert!(took >= Duration::from_millis(300), "took {took:?}");
        server.stop().await
    }
}
