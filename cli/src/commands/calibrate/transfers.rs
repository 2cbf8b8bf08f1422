//! What moving bytes over NFS costs this machine's cores: client and server, measured against
//! nfs-ganesha behind a link of network namespaces.

use anyhow::Context;
use comio_backends::netns::{Export, Lab, Plan};
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_core::buffer::{BufferPool, Payload};
use comio_core::storage::{CreateOptions, Storage};
use comio_simulator::model::cost::TransferCosts;
use futures::stream::{self, StreamExt, TryStreamExt};

/// A link at which neither side is what limits: cores then work as they do in scenarios, in
/// short spells.
const LINK_BITS_PER_S: u64 = 1_000_000_000;
const TOTAL_BYTES: u64 = 256 << 20;
const PIECE_BYTES: usize = 4 << 20;
const AT_ONCE: usize = 4;
const HELD_BYTES_MAX: usize = 64 << 20;
/// The first fills buffers and caches.
const ROUNDS: u64 = 4;

/// Costs of the client and of the server, by what `client` and `server` say of calls.
pub(super) async fn measure(
    client: TransferCosts,
    server: TransferCosts,
) -> anyhow::Result<(TransferCosts, TransferCosts)> {
    let plan = Plan {
        exports: vec![Export::OPEN],
        size_bytes: 2 * TOTAL_BYTES,
        hosts: 1,
        server_link: Some(LINK_BITS_PER_S),
        host_link: None,
    };
    let lab = Lab::start(plan).context("cannot start nfs-ganesha in network namespaces")?;
    let storage = NfsStorage::connect(&NfsUrl::parse(&lab.url(0, "/open", ""))?).await?;
    let pool = BufferPool::new(4 * HELD_BYTES_MAX, PIECE_BYTES);
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let before = Used::now(&lab)?;
        write(&storage, &pool, round).await?;
        let middle = Used::now(&lab)?;
        read_back(&storage, &pool).await?;
        let after = Used::now(&lab)?;
        if round > 0 {
            written.push(middle.since(&before));
            read.push(after.since(&middle));
        }
    }
    let costs = |base: TransferCosts, pick: fn(&Used) -> f64| {
        let per_kib = |used: &[Used]| ns_per_kib(median(used.iter().map(pick).collect()), base.call_ns);
        TransferCosts { write_ns_per_kib: per_kib(&written), read_ns_per_kib: per_kib(&read), ..base }
    };
    Ok((costs(client, |used| used.client_s), costs(server, |used| used.server_s)))
}

/// Seconds of a core used by either side.
struct Used {
    client_s: f64,
    server_s: f64,
}

impl Used {
    fn now(lab: &Lab) -> anyhow::Result<Self> {
        Ok(Self { client_s: Lab::own_cpu_s()?, server_s: lab.server_cpu_s()? })
    }

    fn since(&self, before: &Self) -> Self {
        Self { client_s: self.client_s - before.client_s, server_s: self.server_s - before.server_s }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What is left for a KiB when calls of 1 MiB have had their constant part.
#[expect(clippy::cast_precision_loss, reason = "a quarter of a GiB")]
fn ns_per_kib(seconds: f64, call_ns: f64) -> f64 {
    let kib = (TOTAL_BYTES >> 10) as f64;
    ((seconds * 1e9 - call_ns * kib / 1024.0) / kib).max(0.0).round()
}

fn offsets() -> impl Iterator<Item = u64> {
    (0..TOTAL_BYTES).step_by(PIECE_BYTES)
}

const NAME: &str = "calibration";

async fn write(storage: &NfsStorage, pool: &BufferPool, unique: u64) -> anyhow::Result<()> {
    let options = CreateOptions { replace: true, held_bytes_max: HELD_BYTES_MAX, unique };
    let writer = storage.create(NAME, options).await?;
    let writes = stream::iter(offsets().map(Ok::<_, anyhow::Error>));
    let one = async |offset| {
        let mut buffer = pool.take_slot().await?;
        if unique == 0 {
            buffer.spare().fill(0x5a);
        }
        buffer.set_len(PIECE_BYTES);
        Ok(writer.write_at(offset, Payload::Bytes(buffer)).await?)
    };
    writes.try_for_each_concurrent(AT_ONCE, one).await?;
    writer.sync().await?;
    writer.publish().await?;
    Ok(())
}

async fn read_back(storage: &NfsStorage, pool: &BufferPool) -> anyhow::Result<()> {
    let reader = storage.open(NAME).await?;
    let reads = stream::iter(offsets()).map(|offset| {
        let reader = &reader;
        async move { anyhow::Ok(reader.read_at(offset, PIECE_BYTES, pool.take_slot().await?).await?.len()) }
    });
    reads.buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(())
}
