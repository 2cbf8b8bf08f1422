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
use super::xdr::Malformed;

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
/// Cleaning up ends when nothing has moved for so long, or it has taken so long: the user, or a guest
/// that stands still, waits for it, and what stays is recognised later.
const CLEANING_SILENCE: Duration = Duration::from_millis(500);
const CLEANING_LIMIT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const CLEANING_LOOK: Duration = Duration::from_millis(50);
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

impl ServerError {
    /// Whether the server may have carried the call out.
    pub(super) fn leaves_doubt(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// What a reply says: what was asked for, or the status that says why not.
pub(super) type Understood<T> = Result<Result<T, nfsstat3>, Malformed>;
/// How a call's reply is read.
pub(super) type ReadReply<'a, T> = &'a (dyn Fn(&Reply) -> Understood<T> + Send + Sync);

/// What a call came to.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) result: Result<T, nfsstat3>,
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

    /// The places that one image's reads have in the queue for this server: every image has as many,
    /// so none starves another.
    pub(super) fn read_window(&self) -> Semaphore {
        Semaphore::new(self.transfers_max() * SMALL_IN_ONE)
    }

    /// As [`call`](Self::call), for a call that moves `bytes` of data: it waits for its turn
    /// among all transfers, and for the bandwidth limit.
    pub(super) async fn transfer<T>(
        &self,
        bytes: usize,
        request: &(dyn Fn() -> Request + Send + Sync),
        read: ReadReply<'_, T>,
    ) -> Result<Answer<T>, ServerError> {
        // The gate is never closed.
        let _turn = self.gate.acquire_many(places(bytes)).await;
        if let Some(throttle) = &self.throttle {
            throttle.pass(bytes).await;
        }
        self.call(request, read).await
    }

    /// Calls until there is an answer that makes sense: lost connections are made again, and a server
    /// that asks for patience gets it. Cancel-safe.
    pub(super) async fn call<T>(
        &self,
        request: &(dyn Fn() -> Request + Send + Sync),
        read: ReadReply<'_, T>,
    ) -> Result<Answer<T>, ServerError> {
        let _outstanding = self.status.begin();
        let mut backoff = Backoff::default();
        let (mut repeated, mut malformed) = (false, 0);
        let (mut delayed_since, mut lost_since) = (None, None);
        loop {
            let (outcome, sent) = self.patiently(self.attempt(request())).await?;
            let understood = outcome.and_then(|(reply, connection)| Ok((read(&reply)?, connection)));
            let last = match understood {
                Ok((Err(nfsstat3::NFS3ERR_JUKEBOX), _)) => {
                    self.status.put_off();
                    self.check_delay(&mut delayed_since)?;
                    "the server asked to try again later".to_owned()
                }
                Ok((result, connection)) => {
                    self.status.served();
                    return Ok(Answer { result, connection, repeated });
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
        let connection = Arc::new(Connection::start(id, stream, self.patience, Arc::clone(&self.status)));
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

    /// Runs `cleaning` while it gets on, but not for long, whatever the URL allows: `None` if it did not
    /// come to its end.
    pub(super) async fn briefly<F: Future>(&self, cleaning: F) -> Option<F::Output> {
        let begin = now();
        let too_long = async {
            while begin.elapsed() < CLEANING_LIMIT && self.status.silence_since(begin) < CLEANING_SILENCE {
                sleep(CLEANING_LOOK).await;
            }
        };
        tokio::select! {
            biased;
            output = cleaning => Some(output),
            () = too_long => None,
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

    /// How long it has been since the first time, if `soft` does not allow that. Then the server is
    /// given up for the calls that follow, too.
    fn too_long_since(&self, since: &mut Option<Instant>) -> Option<Duration> {
        let elapsed = since.get_or_insert_with(now).elapsed();
        match self.retry {
            Retry::Soft(limit) if elapsed > self.status.limit(limit) => {
                self.status.give_up();
                Some(elapsed)
            }
            _ => None,
        }
    }
}

/// Places that a transfer of `bytes` takes.
pub(super) fn places(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(SMALL_BYTES).clamp(1, SMALL_IN_ONE)).unwrap_or(1)
}

/// Counts a call on its lane.
struct OneMore<'a>(&'a AtomicUsize);

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
