//! The signals that end a command in good order.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for Ctrl-C, Ctrl-\, SIGTERM, and SIGHUP, a closed terminal's: no guest must stay held,
/// paused or tracked. A SIGHUP that the user wants ignored (nohup) stays ignored.
pub(crate) struct Signals(Vec<Signal>);

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        if !is_ignored(SignalKind::hangup()) {
            kinds.push(SignalKind::hangup());
        }
        Ok(Self(kinds.into_iter().map(signal).collect::<Result<_, _>>()?))
    }

    /// Waits for any of them.
    pub(crate) async fn any(&mut self) {
        let waiting = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(waiting).await;
    }
}

/// Whether this process was started with `kind` ignored, or the kernel does not tell.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signals are counted from 1.
    mask.is_none_or(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
