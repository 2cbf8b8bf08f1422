//! One TCP connection and the task that owns it.
//!
//! Calls go to the owner through a queue and come back through a oneshot each, so a caller
//! may be cancelled at any point: the owner still writes the whole record and still reads its
//! reply, and the stream stays in step. Several calls are under way at once; replies come in
//! any order.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use comio_core::buffer::Buffer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::message::{MARK_BYTES, Refusal, address_call, read_reply_header};
use super::records::{RecordReader, Target};
use super::status::{Moves, Status};
use super::time::{Instant, now, sleep, spawn_owner};
use super::url::TRANSFER_BYTES_MAX;
use super::xdr::{Cursor, Malformed};

/// The longest reply that carries no read data. Directory pages are asked for below this.
const REPLY_BYTES_MAX: usize = 256 << 10;
/// The longest record of all: read data and a reply's rest.
const RECORD_BYTES_MAX: usize = TRANSFER_BYTES_MAX as usize + REPLY_BYTES_MAX;
/// Everything of a READ reply before its data fits into this.
const READ_HEAD_BYTES_MAX: usize = 640;
/// How often overdue calls are looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// A call waits so many times its patience, or so long if that is more, however much moves on the
/// connection: others keep it busy for ever, and its own reply may be lost.
const OVERDUE: u32 = 5;
const OVERDUE_MIN: Duration = Duration::from_secs(60);
/// Calls waiting for their turn to be written.
const QUEUE: usize = 32;

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Request {
    /// From [`encode_call`](super::message::encode_call).
    pub(super) head: Vec<u8>,
    /// Opaque bytes that end the arguments, not copied.
    pub(super) data: Option<(Arc<Buffer>, Range<usize>)>,
    /// Where a READ's data goes.
    pub(super) target: Option<Target>,
    /// How long the call may wait while nothing moves.
    pub(super) patience: Duration,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Reply {
    /// The results, from the status on.
    Results(Vec<u8>),
    /// A READ that succeeded: so many bytes are in the target, and whether the file ends there.
    Read { len: usize, eof: bool },
}

/// Why a call has no results.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    /// The connection is gone; whether the call was carried out is not known.
    #[error("{0}")]
    Lost(String),
    /// The server sends what no server may send; the connection is gone.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The server refused; the connection is well.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

type Outcome = Result<Reply, CallError>;

struct Call {
    request: Request,
    done: oneshot::Sender<Outcome>,
}

/// A call that was sent.
struct Pending {
    done: oneshot::Sender<Outcome>,
    target: Option<Target>,
    sent: Instant,
    patience: Duration,
}

/// The callers' end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Never used twice.
    pub(super) id: u64,
    calls: mpsc::Sender<Call>,
}

impl Connection {
    /// Starts the owner of `io`. A reply may stand still in its middle for `patience`, whatever its
    /// call may take until it begins.
    pub(super) fn start<IO>(id: u64, io: IO, patience: Duration, status: Arc<Status>) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (calls, queue) = mpsc::channel(QUEUE);
        spawn_owner(own(io, queue, patience, status));
        Self { id, calls }
    }

    /// Whether the owner has ended.
    pub(super) fn is_lost(&self) -> bool {
        self.calls.is_closed()
    }

    /// Sends a call and waits for its outcome. Cancel-safe.
    pub(super) async fn call(&self, request: Request) -> Outcome {
        let (done, outcome) = oneshot::channel();
        let lost = || CallError::Lost("the connection was lost".to_owned());
        self.calls.send(Call { request, done }).await.map_err(|_| lost())?;
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Calls without their whole replies, by transaction number.
#[derive(Default)]
struct Waiting(Mutex<BTreeMap<u32, Pending>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn own<IO>(io: IO, mut queue: mpsc::Receiver<Call>, patience: Duration, status: Arc<Status>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin,
{
    let waiting = Waiting::default();
    let moves = Moves::new(Arc::clone(&status));
    let (read, write) = tokio::io::split(io);
    let end = tokio::select! {
        biased;
        error = receive(read, &waiting, &moves) => Some(error),
        end = send(write, &mut queue, &waiting, &moves) => end.err().map(CallError::from),
        why = watch(&waiting, &moves, patience) => Some(CallError::Lost(why.to_owned())),
    };
    // When the callers are gone nobody would listen, whoever went first: a server that is stopped
    // behind its last caller is not in trouble.
    let deserted = queue.is_closed() && queue.is_empty() && waiting.lock().is_empty();
    queue.close();
    let Some(error) = end.filter(|_| !deserted) else { return };
    status.failed(&error.to_string());
    let pending = std::mem::take(&mut *waiting.lock());
    for (_, pending) in pending {
        let _ = pending.done.send(Err(error.clone()));
    }
    while let Some(call) = queue.recv().await {
        let _ = call.done.send(Err(error.clone()));
    }
}

/// Writes calls until the callers are gone.
async fn send<IO: AsyncWrite>(
    mut io: WriteHalf<IO>,
    queue: &mut mpsc::Receiver<Call>,
    waiting: &Waiting,
    moves: &Moves,
) -> io::Result<()> {
    let mut xid = first_transaction();
    while let Some(Call { request, done }) = queue.recv().await {
        xid = xid.wrapping_add(1);
        let Request { mut head, data, target, patience } = request;
        let data_len = data.as_ref().map_or(0, |(_, range)| range.len());
        address_call(&mut head, xid, data_len);
        waiting.lock().insert(xid, Pending { done, target, sent: now(), patience });
        let bytes = data.as_ref().map_or(&[][..], |(buffer, range)| &buffer[range.clone()]);
        let padding = &[0; 3][..data_len.next_multiple_of(4) - data_len];
        write_all(&mut io, [&head, bytes, padding], moves).await?;
        if let Some(pending) = waiting.lock().get_mut(&xid) {
            pending.sent = now();
        }
    }
    Ok(())
}

/// Where a connection's transaction numbers begin: at random, since servers that remember replies
/// may take a number seen from the same port before for the same call.
fn first_transaction() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    (random >> 32) as u32
}

async fn write_all<IO: AsyncWrite>(
    io: &mut WriteHalf<IO>,
    mut parts: [&[u8]; 3],
    moves: &Moves,
) -> io::Result<()> {
    while parts.iter().any(|part| !part.is_empty()) {
        let mut written = io.write_vectored(&parts.map(IoSlice::new)).await?;
        if written == 0 {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the connection takes no more bytes"));
        }
        moves.sent();
        for part in &mut parts {
            let done = written.min(part.len());
            *part = &part[done..];
            written -= done;
        }
    }
    Ok(())
}

/// Ends when a call has waited too long while nothing moved, or much too long, or when a reply has stood
/// still in its middle for `patience`; gives the reason.
async fn watch(waiting: &Waiting, moves: &Moves, patience: Duration) -> &'static str {
    loop {
        if moves.reply_stands_still().is_some_and(|silence| silence >= patience) {
            return "a reply broke off in its middle";
        }
        let left = |call: &Pending| {
            let in_silence = call.patience.saturating_sub(moves.silence_since(call.sent));
            let in_all = (call.patience * OVERDUE).max(OVERDUE_MIN).saturating_sub(call.sent.elapsed());
            in_silence.min(in_all)
        };
        let left = waiting.lock().values().map(left).min();
        match left {
            Some(Duration::ZERO) => return "no answer within the time limit",
            Some(left) => sleep(left.min(WATCH_INTERVAL)).await,
            None => sleep(WATCH_INTERVAL).await,
        }
    }
}

/// Reads replies for ever; gives the reason why it cannot go on.
async fn receive<IO: AsyncRead>(io: ReadHalf<IO>, waiting: &Waiting, moves: &Moves) -> CallError {
    let mut reader = RecordReader::new(io, moves);
    loop {
        let received = receive_one(&mut reader, waiting, moves).await;
        moves.set_receiving(false);
        if let Err(error) = received {
            return error;
        }
    }
}

async fn receive_one<R: AsyncRead + Unpin>(
    reader: &mut RecordReader<'_, R>,
    waiting: &Waiting,
    moves: &Moves,
) -> Result<(), CallError> {
    let (len, last) = reader.mark().await?;
    moves.set_receiving(true);
    if len < 4 {
        return Err(Malformed("a record without a transaction number").into());
    }
    if len > RECORD_BYTES_MAX {
        return Err(Malformed("a record longer than any that was asked for").into());
    }
    let mut head = Vec::with_capacity(len.min(READ_HEAD_BYTES_MAX));
    reader.append(&mut head, len.min(READ_HEAD_BYTES_MAX)).await?;
    let xid = Cursor::new(&head).u32()?;
    let target = waiting.lock().get(&xid).map(|pending| pending.target.clone());
    let Some(target) = target else {
        // A second reply to the same call, say: no harm.
        tracing::debug!(xid, "a reply to no call");
        return skip_record(reader, len - head.len(), last).await;
    };
    // Until its reply is complete the call goes on waiting: the server may stop in the middle.
    let outcome = match receive_reply(reader, head, len, last, target.as_ref()).await {
        Err(error @ (CallError::Lost(_) | CallError::Malformed(_))) => return Err(error),
        outcome => outcome,
    };
    moves.status.answered();
    if let Some(pending) = waiting.lock().remove(&xid) {
        // A caller that was cancelled does not listen any more.
        let _ = pending.done.send(outcome);
    }
    Ok(())
}

async fn skip_record<R: AsyncRead + Unpin>(
    reader: &mut RecordReader<'_, R>,
    mut rest: usize,
    mut last: bool,
) -> Result<(), CallError> {
    loop {
        reader.skip(rest).await?;
        if last {
            return Ok(());
        }
        (rest, last) = reader.mark().await?;
    }
}

/// Reads the rest of a reply of which `head` has arrived, `len` being its fragment's length.
async fn receive_reply<R: AsyncRead + Unpin>(
    reader: &mut RecordReader<'_, R>,
    mut head: Vec<u8>,
    len: usize,
    last: bool,
    target: Option<&Target>,
) -> Outcome {
    let reply_bytes_max = REPLY_BYTES_MAX + target.map_or(0, Target::len);
    let mut rest = len - head.len();
    if rest + head.len() > reply_bytes_max {
        return Err(Malformed("a reply longer than what was asked for").into());
    }
    if !last || target.is_none() {
        reader.append(&mut head, rest).await?;
        gather_fragments(reader, &mut head, last, reply_bytes_max).await?;
        rest = 0;
    }
    let mut cursor = Cursor::new(&head);
    cursor.u32()?;
    read_reply_header(&mut cursor)??;
    let results_at = head.len() - cursor.remaining();
    if let Some(target) = target
        && let Some((len, eof)) = read_read_head(&mut cursor)?
    {
        let arrived_at = head.len() - cursor.remaining();
        receive_data(reader, &head[arrived_at..], rest, len, target).await?;
        return Ok(Reply::Read { len, eof });
    }
    reader.append(&mut head, rest).await?;
    Ok(Reply::Results(head.split_off(results_at)))
}

async fn gather_fragments<R: AsyncRead + Unpin>(
    reader: &mut RecordReader<'_, R>,
    record: &mut Vec<u8>,
    mut last: bool,
    record_bytes_max: usize,
) -> Result<(), CallError> {
    while !last {
        let len;
        (len, last) = reader.mark().await?;
        if record.len() + len > record_bytes_max {
            return Err(Malformed("a reply longer than what was asked for").into());
        }
        reader.append(record, len).await?;
    }
    Ok(())
}

/// A successful READ's results up to the data: its length, and whether the file ends there.
/// `None` for a READ that failed; its results are left to the caller.
fn read_read_head(cursor: &mut Cursor<'_>) -> Result<Option<(usize, bool)>, Malformed> {
    if cursor.u32()? != 0 {
        return Ok(None);
    }
    cursor.attributes()?;
    let count = cursor.u32()?;
    let eof = cursor.bool()?;
    if cursor.u32()? != count {
        return Err(Malformed("a READ whose count is not its data's length"));
    }
    Ok(Some((count as usize, eof)))
}

/// Moves `len` bytes of read data, of which `arrived` is here and `rest` bytes (padding
/// included) are still to come, into the target.
async fn receive_data<R: AsyncRead + Unpin>(
    reader: &mut RecordReader<'_, R>,
    arrived: &[u8],
    rest: usize,
    len: usize,
    target: &Target,
) -> Result<(), CallError> {
    if len > target.len() {
        return Err(Malformed("more data than was asked for").into());
    }
    if arrived.len() + rest != len.next_multiple_of(4) {
        return Err(Malformed("a READ whose data is not as long as it says").into());
    }
    let here = arrived.len().min(len);
    target.put(0, &arrived[..here]);
    reader.fill_target(target, here..len).await?;
    reader.skip(rest - (len - here)).await?;
    Ok(())
}

const _: () = assert!(MARK_BYTES == 4 && READ_HEAD_BYTES_MAX > 28 + 400 + 104);

#[cfg(test)]
mod test {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn request(patience: Duration) -> Request {
        Request { head: vec![0; 44], data: None, target: None, patience }
    }

    /// A server that answers every call but the first: that one's reply is lost for ever.
    async fn answer_all_but_the_first(io: tokio::io::DuplexStream) {
        use tokio::io::AsyncReadExt;
        let (mut read, mut write) = tokio::io::split(io);
        let mut first = true;
        while let Ok(mark) = read.read_u32().await {
            let mut call = vec![0; (mark & 0x7fff_ffff) as usize];
            if read.read_exact(&mut call).await.is_err() {
                return;
            }
            // Accepted, without a verifier, and the status is OK.
            let reply = [&call[..4], &[0, 0, 0, 1], &[0; 20]].concat();
            let mark = 0x8000_0000 | u32::try_from(reply.len()).unwrap();
            if !std::mem::take(&mut first)
                && (write.write_u32(mark).await.is_err() || write.write_all(&reply).await.is_err())
            {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_is_noticed_on_a_connection_that_others_keep_busy() {
        let (near, far) = tokio::io::duplex(1 << 10);
        tokio::task::LocalSet::new()
            .run_until(async {
                tokio::task::spawn_local(answer_all_but_the_first(far));
                let connection = Connection::start(1, near, PATIENCE, Arc::new(Status::new("server".into())));
                let request = || request(PATIENCE);
                let begin = now();
                let others = async {
                    while connection.call(request()).await.is_ok() {
                        sleep(Duration::from_secs(1)).await;
                    }
                };
                let (lost, ()) = futures::join!(connection.call(request()), others);
                assert!(matches!(lost, Err(CallError::Lost(_))), "{lost:?}");
                let took = begin.elapsed();
                assert!(took > Duration::from_secs(90) && took < Duration::from_secs(110), "{took:?}");
            })
            .await;
    }

    /// A server that takes every call, and breaks off the first one's reply behind so many bytes.
    async fn break_off(io: tokio::io::DuplexStream, bytes: usize) {
        use tokio::io::AsyncReadExt;
        let (mut read, mut write) = tokio::io::split(io);
        let mut first = true;
        while let Ok(mark) = read.read_u32().await {
            let mut call = vec![0; (mark & 0x7fff_ffff) as usize];
            if read.read_exact(&mut call).await.is_err() {
                return;
            }
            if std::mem::take(&mut first) {
                let reply = [&[0x80, 0, 4, 0], &call[..4], &[0; 1020]].concat();
                if write.write_all(&reply[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }

    /// However long the call may take until its reply begins, and although other calls go out.
    #[tokio::test(start_paused = true)]
    async fn a_reply_that_breaks_off_is_noticed() {
        // Before the server says which call it is for, and after that.
        for bytes in [4, 100, 800] {
            let (near, far) = tokio::io::duplex(2 << 10);
            tokio::task::LocalSet::new()
                .run_until(async {
                    tokio::task::spawn_local(break_off(far, bytes));
                    let connection =
                        Connection::start(1, near, PATIENCE, Arc::new(Status::new("server".into())));
                    let begin = now();
                    let others = async {
                        while !connection.is_lost() {
                            let next = sleep(Duration::from_secs(1));
                            tokio::select! {
                                _ = connection.call(request(10 * PATIENCE)) => {}
                                () = next => {}
                            }
                        }
                    };
                    let (lost, ()) = futures::join!(connection.call(request(10 * PATIENCE)), others);
                    assert!(matches!(lost, Err(CallError::Lost(_))), "{bytes}: {lost:?}");
                    let took = begin.elapsed();
                    assert!(took >= PATIENCE && took < PATIENCE + 2 * WATCH_INTERVAL, "{bytes}: {took:?}");
                })
                .await;
        }
    }

    #[tokio::test]
    async fn a_server_that_stops_behind_its_last_caller_is_not_in_trouble() {
        let status = Arc::new(Status::new("server".into()));
        for (stays, trouble) in [(false, false), (true, true)] {
            let (near, far) = tokio::io::duplex(64);
            let (calls, queue) = mpsc::channel(1);
            let calls = stays.then_some(calls);
            drop(far);
            own(near, queue, PATIENCE, Arc::clone(&status)).await;
            assert_eq!(status.is_troubled(), trouble);
            drop(calls);
        }
    }
}
