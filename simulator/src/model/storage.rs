//! A host's NFS client on the modelled server, as `comio-backends` drives a real one: some
//! connections, a few transfers of 1 MiB on each, writes that are held until COMMIT.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use comio_core::buffer::{Buffer, Payload};
use comio_core::storage::{
    CreateOptions, ObjectInfo, ObjectReader, ObjectWriter, Storage, StorageError, StorageErrorKind,
    check_name, is_temporary_name, temporary_name,
};
use futures::future::{join_all, try_join_all};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore};

use super::clock::Clock;
use super::cost::TransferCosts;
use super::machine::Cores;
use super::network::{Network, Port};
use super::server::{ModelServer, Unreadable};

/// Bytes of a READ or WRITE, as the real client's default.
const TRANSFER_BYTES: usize = 1 << 20;
/// Transfers under way on each connection, likewise.
pub const DEPTH: usize = 4;
/// The same for the kernel's client, which has one connection to a server.
pub const KERNEL_DEPTH: usize = 16;
/// Bytes of a call or an answer without data.
const CALL_BYTES: usize = 160;
/// The unit in which held bytes are counted.
const GRAIN: usize = 4096;

/// What a client works with.
#[derive(Debug, Clone)]
pub struct ClientParts {
    /// Time.
    pub clock: Clock,
    /// The network.
    pub network: Arc<Network>,
    /// The host's place in it.
    pub port: Port,
    /// The host's cores.
    pub cores: Arc<Cores>,
    /// What calls cost them.
    pub costs: TransferCosts,
    /// The server.
    pub server: Arc<ModelServer>,
}

/// A host's mount of the modelled server.
#[derive(Debug, Clone)]
pub struct ModelStorage {
    client: Arc<Client>,
}

#[derive(Debug)]
struct Client {
    parts: ClientParts,
    connections: Vec<Connection>,
    transfers_max: usize,
    gate: Semaphore,
}

/// One TCP connection: one thing at a time each way.
#[derive(Debug, Default)]
struct Connection {
    up: AsyncMutex<()>,
    down: AsyncMutex<()>,
    in_flight: AtomicUsize,
}

impl ModelStorage {
    /// A mount over that many connections, with `depth` transfers under way on each.
    pub fn new(parts: ClientParts, connections: usize, depth: usize) -> Self {
        let connections = connections.max(1);
        let transfers_max = connections * depth;
        let client = Client {
            parts,
            connections: std::iter::repeat_with(Connection::default).take(connections).collect(),
            transfers_max,
            gate: Semaphore::new(transfers_max),
        };
        Self { client: Arc::new(client) }
    }
}

impl Client {
    fn server(&self) -> &ModelServer {
        &self.parts.server
    }

    fn idlest(&self) -> &Connection {
        let load = |connection: &&Connection| connection.in_flight.load(Ordering::Relaxed);
        self.connections.iter().min_by_key(load).unwrap_or(&self.connections[0])
    }

    async fn send(&self, connection: &Connection, len: usize) {
        {
            let _sending = connection.up.lock().await;
            self.parts.network.send(self.parts.port, len).await;
        }
        self.parts.clock.sleep(self.parts.network.latency()).await;
    }

    async fn receive(&self, connection: &Connection, len: usize) {
        self.parts.clock.sleep(self.parts.network.latency()).await;
        let _receiving = connection.down.lock().await;
        self.parts.network.receive(self.parts.port, len).await;
    }

    /// A call about names or attributes, there and back.
    async fn call(&self) {
        let connection = self.idlest();
        let _one_more = OneMore::of(connection);
        self.parts.cores.work(self.parts.costs.call_s()).await;
        self.send(connection, CALL_BYTES).await;
        self.server().call().await;
        self.receive(connection, CALL_BYTES).await;
    }

    /// A WRITE; gives the server's life.
    async fn write(&self, file: &str, len: usize) -> u64 {
        let _turn = self.gate.acquire().await;
        let connection = self.idlest();
        let _one_more = OneMore::of(connection);
        self.parts.cores.work(self.parts.costs.write_s(len)).await;
        self.send(connection, len + CALL_BYTES).await;
        let life = self.server().write(file, len).await;
        self.receive(connection, CALL_BYTES).await;
        life
    }

    /// A READ.
    async fn read(&self, len: usize) {
        let _turn = self.gate.acquire().await;
        let connection = self.idlest();
        let _one_more = OneMore::of(connection);
        self.send(connection, CALL_BYTES).await;
        self.server().read(len).await;
        self.receive(connection, len + CALL_BYTES).await;
        self.parts.cores.work(self.parts.costs.read_s(len)).await;
    }

    /// A COMMIT; gives the server's life.
    async fn commit(&self, file: &str) -> u64 {
        let connection = self.idlest();
        let _one_more = OneMore::of(connection);
        self.parts.cores.work(self.parts.costs.call_s()).await;
        self.send(connection, CALL_BYTES).await;
        let life = self.server().commit(file).await;
        self.receive(connection, CALL_BYTES).await;
        life
    }

    async fn read_file(&self, file: &str, id: u64, offset: u64, len: usize) -> Result<Payload, StorageError> {
        let found = self.server().look(file, id, offset, len).map_err(|why| match why {
            Unreadable::Gone => stale("read", file),
            Unreadable::End => {
                let problem = format!("nothing was written as {len} bytes at {offset}");
                StorageError::new(StorageErrorKind::UnexpectedEnd, "read", file, problem)
            }
        })?;
        join_all(pieces(len).map(|len| self.read(len))).await;
        Ok(found)
    }
}

/// Lengths of the transfers that move `len` bytes.
fn pieces(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(TRANSFER_BYTES).map(move |start| TRANSFER_BYTES.min(len - start))
}

/// Counts a call on its connection.
struct OneMore<'a>(&'a AtomicUsize);

impl<'a> OneMore<'a> {
    fn of(connection: &'a Connection) -> Self {
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(&connection.in_flight)
    }
}

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn in_use(action: &'static str, name: &str) -> StorageError {
    StorageError::new(StorageErrorKind::AlreadyExists, action, name, "an image of that name exists")
}

fn stale(action: &'static str, name: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Stale, action, name, "somebody has removed or replaced it")
}

fn not_found(action: &'static str, name: &str) -> StorageError {
    StorageError::new(StorageErrorKind::NotFound, action, name, "there is no such image")
}

#[async_trait]
impl Storage for ModelStorage {
    fn location(&self) -> String {
        "the modelled server".to_owned()
    }

    async fn create(
        &self,
        name: &str,
        options: CreateOptions,
    ) -> Result<Box<dyn ObjectWriter>, StorageError> {
        check_name(name, "create")?;
        // As the real client: look whether the name is taken, then create.
        if !options.replace {
            self.client.call().await;
            if self.client.server().find(name).is_some() {
                return Err(in_use("create", name));
            }
        }
        let temporary = temporary_name(name, options.unique);
        self.client.call().await;
        let id = self.client.server().create(&temporary);
        let room_grains = (options.held_bytes_max / GRAIN).clamp(1, u32::MAX as usize >> 1);
        Ok(Box::new(ModelWriter {
            client: Arc::clone(&self.client),
            name: name.to_owned(),
            temporary,
            id,
            replace: options.replace,
            window: Semaphore::new(self.client.transfers_max),
            room: Arc::new(Semaphore::new(room_grains)),
            room_grains,
            held: Mutex::default(),
            taken: Notify::new(),
            committing: AsyncMutex::new(()),
        }))
    }

    async fn open(&self, name: &str) -> Result<Box<dyn ObjectReader>, StorageError> {
        check_name(name, "open")?;
        self.client.call().await;
        let (id, len) = self.client.server().find(name).ok_or_else(|| not_found("open", name))?;
        Ok(Box::new(ModelReader { client: Arc::clone(&self.client), name: name.to_owned(), id, len }))
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.client.call().await;
        let published = self.client.server().files().into_iter().filter(|(name, _)| !is_temporary_name(name));
        Ok(published.map(|(name, len)| ObjectInfo { name, len, modified_unix_s: None }).collect())
    }

    async fn remove(&self, name: &str) -> Result<(), StorageError> {
        if !is_temporary_name(name) {
            check_name(name, "remove")?;
        }
        self.client.call().await;
        self.client.server().remove(name).then_some(()).ok_or_else(|| not_found("remove", name))
    }

    async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
        self.client.call().await;
        let left = self.client.server().files().into_iter().filter(|(name, _)| is_temporary_name(name));
        Ok(left.map(|(name, len)| ObjectInfo { name, len, modified_unix_s: None }).collect())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.client.call().await;
        Ok(None)
    }
}

/// A file being written.
struct ModelWriter {
    client: Arc<Client>,
    name: String,
    temporary: String,
    id: u64,
    replace: bool,
    /// Transfers of this image under way or waiting for the client's gate.
    window: Semaphore,
    /// What may still be held.
    room: Arc<Semaphore>,
    room_grains: usize,
    held: Mutex<Vec<Held>>,
    taken: Notify,
    committing: AsyncMutex<()>,
}

/// What the server took and may still forget.
struct Held {
    len: usize,
    life: u64,
    /// Goes back when nothing of its buffer is held any more.
    _room: Arc<OwnedSemaphorePermit>,
}

impl ModelWriter {
    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admit(&self, len: usize) -> Arc<OwnedSemaphorePermit> {
        let grains = len.div_ceil(GRAIN).clamp(1, self.room_grains);
        // Bounded by `room_grains`, which was clamped to 32 bits.
        let grains = u32::try_from(grains).unwrap_or(u32::MAX >> 1);
        loop {
            let taken = self.taken.notified();
            if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(grains) {
                return Arc::new(room);
            }
            if self.held().is_empty() {
                taken.await;
            } else {
                let _alone = self.committing.lock().await;
                self.commit_alone().await;
            }
        }
    }

    async fn write_piece(&self, len: usize, room: &Arc<OwnedSemaphorePermit>) -> Result<(), StorageError> {
        let life = {
            let _place = self.window.acquire().await;
            self.client.write(&self.temporary, len).await
        };
        self.held().push(Held { len, life, _room: Arc::clone(room) });
        self.taken.notify_waiters();
        Ok(())
    }

    /// Makes durable what is held now, writing again what a restarted server has forgotten.
    async fn commit_alone(&self) {
        let mut held = std::mem::take(&mut *self.held());
        while !held.is_empty() {
            let life = self.client.commit(&self.temporary).await;
            held.retain(|held| held.life != life);
            let again = held.iter().map(|held| self.client.write(&self.temporary, held.len));
            let lives = join_all(again).await;
            for (held, life) in held.iter_mut().zip(lives) {
                held.life = life;
            }
        }
    }
}

#[async_trait]
impl ObjectWriter for ModelWriter {
    async fn write_at(&self, offset: u64, data: Payload) -> Result<(), StorageError> {
        let len = data.len();
        let room = self.admit(len).await;
        try_join_all(pieces(len).map(|len| self.write_piece(len, &room))).await?;
        self.client.server().keep(&self.temporary, offset, data);
        drop(room);
        // Begin early, while there is room for others to go on writing.
        let much = self.room.available_permits() < self.room_grains / 2;
        if let Ok(_alone) = self.committing.try_lock()
            && much
        {
            self.commit_alone().await;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), StorageError> {
        let _alone = self.committing.lock().await;
        self.commit_alone().await;
        Ok(())
    }

    async fn read_at(&self, offset: u64, len: usize, _buffer: Buffer) -> Result<Payload, StorageError> {
        self.client.read_file(&self.temporary, self.id, offset, len).await
    }

    async fn publish(self: Box<Self>) -> Result<(), StorageError> {
        // LINK or RENAME, then a look whether it is there.
        self.client.call().await;
        let server = self.client.server();
        let published = if !self.replace && server.find(&self.name).is_some() {
            server.remove(&self.temporary);
            Err(in_use("publish", &self.name))
        } else if server.rename(&self.temporary, &self.name) {
            Ok(())
        } else {
            Err(stale("publish", &self.temporary))
        };
        self.client.call().await;
        published
    }

    async fn abandon(self: Box<Self>) -> Result<(), StorageError> {
        self.client.call().await;
        self.client.server().remove(&self.temporary);
        Ok(())
    }
}

/// A file being read.
struct ModelReader {
    client: Arc<Client>,
    name: String,
    id: u64,
    len: u64,
}

#[async_trait]
impl ObjectReader for ModelReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn request_bytes(&self) -> usize {
        0
    }

    async fn read_at(&self, offset: u64, len: usize, _buffer: Buffer) -> Result<Payload, StorageError> {
        self.client.read_file(&self.name, self.id, offset, len).await
    }
}

#[cfg(test)]
mod test {
    use comio_core::testing::conformance_but_for_payloads;

    use super::super::clock::run;
    use super::super::server::ServerParts;
    use super::*;

    #[test]
    fn the_modelled_server_conforms() {
        let clock = Clock::default();
        let network = Arc::new(Network::new(&clock, 1e8, None, 200_000));
        let cores = Arc::new(Cores::new(&clock, 2));
        let costs = TransferCosts { call_ns: 1000.0, write_ns_per_kib: 10.0, read_ns_per_kib: 10.0 };
        let server = ServerParts {
            threads: 4,
            cores: Arc::clone(&cores),
            costs,
            disk_bytes_per_s: Some(1e8),
            cache_bytes: 2 << 20,
            commit_ns: 1_000_000,
            cold: false,
        };
        let server = Arc::new(ModelServer::new(&clock, server));
        let port = network.port(1e8);
        let parts = ClientParts { clock: clock.clone(), network, port, cores, costs, server };
        let storage = ModelStorage::new(parts, 2, DEPTH);
        run(&clock, conformance_but_for_payloads(&storage)).unwrap();
    }
}
