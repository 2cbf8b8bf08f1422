//! A server as its callers see it: some connections, made again when they are lost, and
//! calls that are repeated until they have an answer or the user's limit is reached.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;
use nfs3_types::rpc::opaque_auth;
use tokio::sync::{Mutex, Semaphore};

use super::connection::{CallError, Connection, Reply, Request};
use super::message::Refusal;
use super::status::Status;
use super::throttle::Throttle;
use super::time::{Instant, now, sleep};
use super::transport::Peer;
use super::url::{NfsOptions, Retry};
use super::xdr::{Cursor, Malformed};

/// Calls under way at once on each connection: enough for 10 Gbit/s at 1 ms with 1 MiB each.
pub(super) const DEPTH: usize = 4;
/// Transfers of no more than this count as a part of one: many pages of scattered places hide a
/// server's latency only when many are asked for at once.
const SMALL_BYTES: usize = 128 << 10;
/// Small transfers that count as one.
const SMALL_IN_ONE: usize = 8;
/// Waits before another attempt, doubling.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// After so many malformed replies in a row the server is not one to talk to.
const MALFORMED_MAX: u32 = 3;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("the server has not answered for {} s, and `soft` allows no more ({last})", .silence.as_secs())]
    GaveUp { silence: Duration, last: String },
    #[error("the server has asked to try again later for {} s, and `soft` allows no more", .0.as_secs())]
    StillDelayed(Duration),
    #[error("the connection was lost again and again for {} s, and `soft` allows no more ({last})", .lost_for.as_secs())]
    StillLost { lost_for: Duration, last: String },
    #[error("the server breaks the NFS protocol: {0}")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What a call came to.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// The connection that it came over.
    pub(super) connection: Arc<Connection>,
    /// An earlier attempt got no answer: the server may have carried the call out twice.
    pub(super) repeated: bool,
}

#[derive(Debug, Default)]
struct Lane {
    connection: Mutex<Option<Arc<Connection>>>,
    in_flight: AtomicUsize,
}

/// Connections to one server.
#[derive(Debug)]
pub(super) struct Server {
    peer: Peer,
    pub(super) credential: opaque_auth<'static>,
    pub(super) patience: Duration,
    retry: Retry,
    lanes: Vec<Lane>,
    next_id: AtomicU64,
    /// Transfers under way, in small ones. It is fair: who asks first is served first.
    gate: Semaphore,
    throttle: Option<Arc<Throttle>>,
    pub(super) status: Arc<Status>,
}

impl Server {
    pub(super) fn new(
        peer: Peer,
        name: String,
        credential: opaque_auth<'static>,
        options: &NfsOptions,
        throttle: Option<Arc<Throttle>>,
    ) -> Self {
        let patience = match options.retry {
            Retry::Hard => options.patience,
            Retry::Soft(limit) => options.patience.min(limit),
        };
        Self {
            peer,
            credential,
            patience,
            retry: options.retry,
            lanes: std::iter::repeat_with(Lane::default).take(options.connections).collect(),
            next_id: AtomicU64::new(0),
            gate: Semaphore::new(options.connections * DEPTH * SMALL_IN_ONE),
            throttle,
            status: Arc::new(Status::new(name)),
        }
    }

    /// Makes the first connection, without trying again.
    pub(super) async fn connect_first(&self) -> Result<(), CallError> {
        self.connection(self.idlest_lane()).await.map(drop)
    }

    /// Transfers that this server has under way at most.
    pub(super) fn transfers_max(&self) -> usize {
        self.lanes.len() * DEPTH
    }

    /// As [`call`](Self::call), for a call that moves `bytes` of data: it waits for its turn
    /// among all transfers, and for the bandwidth limit.
    pub(super) async fn transfer(
        &self,
        bytes: usize,
        request: &(dyn Fn() -> Request + Send + Sync),
    ) -> Result<Answer, ServerError> {
        let share = bytes.div_ceil(SMALL_BYTES).clamp(1, SMALL_IN_ONE);
        // The gate is never closed.
        let _turn = self.gate.acquire_many(u32::try_from(share).unwrap_or(1)).await;
        if let Some(throttle) = &self.throttle {
            throttle.pass(bytes).await;
        }
        self.call(request).await
    }

    /// Calls until there is an answer: lost connections are made again, and a server that
    /// asks for patience gets it. Cancel-safe.
    pub(super) async fn call(
        &self,
        request: &(dyn Fn() -> Request + Send + Sync),
    ) -> Result<Answer, ServerError> {
        let _outstanding = self.status.begin();
        let mut backoff = Backoff::default();
        let (mut repeated, mut malformed) = (false, 0);
        let (mut delayed_since, mut lost_since) = (None, None);
        loop {
            let (outcome, sent) = self.patiently(self.attempt(request())).await?;
            let last = match outcome {
                Ok((reply, connection)) if !is_delayed(&reply) => {
                    self.status.served();
                    return Ok(Answer { reply, connection, repeated });
                }
                Ok(_) => {
                    self.status.put_off();
                    self.check_delay(&mut delayed_since)?;
                    "the server asked to try again later".to_owned()
                }
                Err(CallError::Refused(refusal)) => return Err(refusal.into()),
                Err(CallError::Malformed(problem)) => {
                    malformed += 1;
                    if malformed == MALFORMED_MAX {
                        return Err(problem.into());
                    }
                    repeated = true;
                    problem.to_string()
                }
                Err(CallError::Lost(problem)) => {
                    repeated |= sent;
                    self.check_losses(&mut lost_since, &problem)?;
                    problem
                }
            };
            tracing::debug!(last, "calling again");
            self.patiently(backoff.wait()).await?;
        }
    }

    /// One attempt; and whether the call was sent at all.
    async fn attempt(&self, request: Request) -> (Result<(Reply, Arc<Connection>), CallError>, bool) {
        let lane = self.idlest_lane();
        lane.in_flight.fetch_add(1, Ordering::Relaxed);
        let _one_more = OneMore(&lane.in_flight);
        let connection = match self.connection(lane).await {
            Ok(connection) => connection,
            Err(error) => return (Err(error), false),
        };
        let outcome = connection.call(request).await;
        (outcome.map(|reply| (reply, connection)), true)
    }

    fn idlest_lane(&self) -> &Lane {
        let load = |lane: &&Lane| lane.in_flight.load(Ordering::Relaxed);
        // There is at least one connection (see the URL's options).
        self.lanes.iter().min_by_key(load).expect("a server has at least one lane")
    }

    /// The lane's connection, made now if there is none.
    async fn connection(&self, lane: &Lane) -> Result<Arc<Connection>, CallError> {
        let mut current = lane.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.is_lost()) {
            return Ok(Arc::clone(connection));
        }
        let stream = self.peer.connect().await.inspect_err(|error| self.status.failed(&error.to_string()))?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::start(id, stream, Arc::clone(&self.status)));
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Waits for `future`, but with `soft` only while the server is not silent too long.
    pub(super) async fn patiently<F: Future>(&self, future: F) -> Result<F::Output, ServerError> {
        let Retry::Soft(limit) = self.retry else { return Ok(future.await) };
        let silent_too_long = async {
            loop {
                match self.status.patience_left(limit) {
                    Duration::ZERO => return self.status.silence(),
                    left => sleep(left.min(Duration::from_millis(200))).await,
                }
            }
        };
        tokio::select! {
            biased;
            output = future => Ok(output),
            silence = silent_too_long => {
                let last = self.status.last_trouble();
                self.status.give_up();
                Err(ServerError::GaveUp { silence, last })
            }
        }
    }

    /// Notes that the server asked to try again later; an error once `soft` allows no more.
    pub(super) fn check_delay(&self, since: &mut Option<Instant>) -> Result<(), ServerError> {
        match self.too_long_since(since) {
            Some(delayed_for) => Err(ServerError::StillDelayed(delayed_for)),
            None => Ok(()),
        }
    }

    /// The same for connections lost: bytes may move in vain, so silence is not the measure.
    fn check_losses(&self, since: &mut Option<Instant>, last: &str) -> Result<(), ServerError> {
        match self.too_long_since(since) {
            Some(lost_for) => Err(ServerError::StillLost { lost_for, last: last.to_owned() }),
            None => Ok(()),
        }
    }

    /// How long it has been since the first time, if `soft` does not allow that.
    fn too_long_since(&self, since: &mut Option<Instant>) -> Option<Duration> {
        let elapsed = since.get_or_insert_with(now).elapsed();
        match self.retry {
            Retry::Soft(limit) if elapsed > limit => Some(elapsed),
            _ => None,
        }
    }
}

/// Counts a call on its lane.
struct OneMore<'a>(&'a AtomicUsize);

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_delayed(reply: &Reply) -> bool {
    match reply {
        Reply::Results(results) => {
            matches!(Cursor::new(results).status(), Ok(nfsstat3::NFS3ERR_JUKEBOX))
        }
        Reply::Read { .. } => false,
    }
}

/// The waits between attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Duration,
}

impl Backoff {
    pub(super) async fn wait(&mut self) {
        self.last = (self.last * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        sleep(self.last).await;
    }
}
