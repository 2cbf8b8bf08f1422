//! The proxy of the misbehaving server: records between client and server, and what the plan
//! does to them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::files::Forgetful;
use super::plan::{Fault, Operation, Plan};

const NFS_PROGRAM: u32 = 100_003;
/// Where in a call its program and procedure stand.
const PROGRAM_AT: usize = 12;
const PROCEDURE_AT: usize = 20;
/// Where in a reply with an empty verifier the results begin.
const RESULTS_AT: usize = 24;

pub(super) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The proxy's end of the test; dropping it closes everything.
pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What all connections share.
struct Shared {
    server: SocketAddr,
    /// Forget what was not committed when the server restarts; a real server does so itself.
    files: Option<Arc<Forgetful>>,
    plan: Arc<Plan>,
    /// Counts the server's lives; connections end with the life they began in.
    life: watch::Sender<u64>,
    /// Added to every verifier.
    verifier: AtomicU8,
    /// A call was held.
    held: watch::Sender<bool>,
    client_dead: AtomicBool,
}

impl Proxy {
    pub(super) async fn start(server: SocketAddr, files: Option<Arc<Forgetful>>, plan: Arc<Plan>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (life, _) = watch::channel(0);
        let (held, _) = watch::channel(false);
        let (verifier, client_dead) = (AtomicU8::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { server, files, plan, life, verifier, held, client_dead });
        let for_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(Arc::clone(&for_all).serve(client));
            }
        });
        Self { port, shared, task }
    }

    /// Returns when a call was held, or the client has died.
    pub(super) async fn held(&self) {
        // The sender is here.
        let _ = self.shared.held.subscribe().wait_for(|held| *held).await;
    }
}

/// What is to be done to the replies of calls under way, by transaction number.
type Replies = Mutex<BTreeMap<u32, (Operation, Option<Fault>)>>;

impl Shared {
    async fn serve(self: Arc<Self>, client: TcpStream) {
        let mut life = self.life.subscribe();
        life.mark_unchanged();
        let Ok(server) = TcpStream::connect(self.server).await else { return };
        // Small records must not wait for each other here.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let replies = Replies::default();
        tokio::select! {
            biased;
            _ = life.changed() => {}
            _ = self.calls(from_client, to_server, &replies) => {}
            _ = self.replies(from_server, to_client, &replies) => {}
        }
    }

    async fn calls(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        replies: &Replies,
    ) -> io::Result<()> {
        loop {
            let mut call = read_record(&mut from).await?;
            if self.client_dead.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            let (operation, fault) = if word(&call, PROGRAM_AT) == NFS_PROGRAM {
                let operation = Operation::of_procedure(word(&call, PROCEDURE_AT));
                (operation, self.plan.meet(operation, false))
            } else {
                (Operation::Other, None)
            };
            match fault {
                Some(Fault::CloseBefore) => return Ok(()),
                Some(Fault::Restart) => return self.restart(true).await,
                Some(Fault::RestartSameVerifier) => return self.restart(false).await,
                Some(Fault::NewVerifier) => {
                    self.verifier.fetch_add(1, Ordering::SeqCst);
                }
                Some(Fault::ShortWrite) => shorten_write(&mut call),
                Some(Fault::Hold | Fault::ClientDead) => {
                    self.client_dead.store(fault == Some(Fault::ClientDead), Ordering::SeqCst);
                    self.held.send_replace(true);
                    return std::future::pending().await;
                }
                _ => {}
            }
            replies.lock().unwrap_or_else(PoisonError::into_inner).insert(word(&call, 0), (operation, fault));
            write_record(&mut to, &call).await?;
        }
    }

    async fn restart(&self, other_verifier: bool) -> io::Result<()> {
        if let Some(files) = &self.files {
            files.forget().await;
        }
        self.verifier.fetch_add(u8::from(other_verifier), Ordering::SeqCst);
        self.life.send_modify(|life| *life += 1);
        Ok(())
    }

    async fn replies(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        replies: &Replies,
    ) -> io::Result<()> {
        loop {
            let mut reply = read_record(&mut from).await?;
            let xid = word(&reply, 0);
            let known = replies.lock().unwrap_or_else(PoisonError::into_inner).remove(&xid);
            let (operation, fault) = known.unwrap_or((Operation::Other, None));
            if matches!(operation, Operation::Write | Operation::Commit) && word(&reply, RESULTS_AT) == 0 {
                // The verifier is the last of the results.
                let last = reply.len() - 1;
                reply[last] = reply[last].wrapping_add(self.verifier.load(Ordering::SeqCst));
            }
            match fault {
                Some(Fault::LoseReply) => return Ok(()),
                Some(Fault::Silence) => continue,
                Some(Fault::Stall) => {
                    write_claiming(&mut to, &reply[..reply.len() / 2], reply.len()).await?;
                    return std::future::pending().await;
                }
                Some(Fault::Twice) => write_record(&mut to, &reply).await?,
                Some(Fault::Fragments) => {
                    write_fragments(&mut to, &reply).await?;
                    continue;
                }
                Some(Fault::Transaction(xid)) => reply[..4].copy_from_slice(&xid.to_be_bytes()),
                Some(Fault::Truncated) => {
                    return write_claiming(&mut to, &reply[..reply.len() - 4], reply.len()).await;
                }
                Some(Fault::Longer) => {
                    write_claiming(&mut to, &reply, reply.len() - 4).await?;
                    continue;
                }
                Some(Fault::Cut) => reply.truncate(RESULTS_AT + 8),
                Some(Fault::Answer(status)) => reply = answer(xid, status),
                Some(Fault::Huge) => return write_claiming(&mut to, &reply, (1 << 31) - 1).await,
                Some(Fault::MoreData) => reply = more_data(reply),
                Some(Fault::Garbage) => reply[RESULTS_AT..].fill(0xff),
                _ => {}
            }
            write_record(&mut to, &reply).await?;
        }
    }
}

/// A reply with that status and nothing else.
fn answer(xid: u32, status: nfsstat3) -> Vec<u8> {
    // A reply, accepted, without a verifier, carried out.
    [xid, 1, 0, 0, 0, 0, status as u32].into_iter().flat_map(u32::to_be_bytes).collect()
}

fn word(record: &[u8], at: usize) -> u32 {
    record.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
}

/// Reads a record as `nfs3_server` and our client write it: in one fragment.
async fn read_record(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mark = from.read_u32().await?;
    let mut record = vec![0; (mark & 0x7fff_ffff) as usize];
    from.read_exact(&mut record).await?;
    Ok(record)
}

async fn write_record(to: &mut OwnedWriteHalf, record: &[u8]) -> io::Result<()> {
    write_claiming(to, record, record.len()).await
}

async fn write_claiming(to: &mut OwnedWriteHalf, record: &[u8], len: usize) -> io::Result<()> {
    to.write_u32(0x8000_0000 | u32::try_from(len).unwrap()).await?;
    to.write_all(record).await
}

async fn write_fragments(to: &mut OwnedWriteHalf, record: &[u8]) -> io::Result<()> {
    let fragments = record.chunks(7).collect::<Vec<_>>();
    for (i, fragment) in fragments.iter().enumerate() {
        let last = if i + 1 == fragments.len() { 0x8000_0000 } else { 0 };
        to.write_u32(last | u32::try_from(fragment.len()).unwrap()).await?;
        to.write_all(fragment).await?;
    }
    Ok(())
}

/// Where a call's arguments begin: after credential and verifier.
fn arguments_at(call: &[u8]) -> usize {
    let credential = 24 + 8 + (word(call, 28) as usize).next_multiple_of(4);
    credential + 8 + (word(call, credential + 4) as usize).next_multiple_of(4)
}

/// Lets a WRITE carry half of its data.
fn shorten_write(call: &mut Vec<u8>) {
    let handle_at = arguments_at(call);
    let count_at = handle_at + 4 + (word(call, handle_at) as usize).next_multiple_of(4) + 8;
    let count = word(call, count_at) / 2 / 4 * 4;
    if count == 0 {
        return;
    }
    for at in [count_at, count_at + 8] {
        call[at..at + 4].copy_from_slice(&count.to_be_bytes());
    }
    call.truncate(count_at + 12 + count as usize);
}

/// Lets a READ bring 4 bytes more than it found.
fn more_data(mut reply: Vec<u8>) -> Vec<u8> {
    let attributes = if word(&reply, RESULTS_AT + 4) == 1 { 84 } else { 0 };
    let count_at = RESULTS_AT + 8 + attributes;
    let count = word(&reply, count_at) + 4;
    for at in [count_at, count_at + 8] {
        reply[at..at + 4].copy_from_slice(&count.to_be_bytes());
    }
    reply.extend_from_slice(&[0xee; 4]);
    reply
}
