//! What goes wrong, and when: the server's link carries what all faults of a moment leave of it.

use std::sync::{Mutex, PoisonError};

use futures::future::join_all;

use super::clock::{Clock, Nanos, SECOND};
use super::network::Network;
use super::server::ModelServer;
use crate::scenario::{Fault, FaultKind};
use crate::units::Rate;

/// What a client waits before it looks for a server that was gone: measured, about a second.
const RECONNECT_NS: Nanos = SECOND;

/// What faults strike.
pub(super) struct Struck<'a> {
    pub(super) clock: &'a Clock,
    pub(super) network: &'a Network,
    pub(super) server: &'a ModelServer,
    /// What the server's link carries without faults.
    pub(super) link_bytes_per_s: f64,
}

impl Struck<'_> {
    /// Lets every fault come and go.
    pub(super) async fn by(&self, faults: &[Fault]) {
        let left = Mutex::new(vec![self.link_bytes_per_s; faults.len()]);
        join_all(faults.iter().enumerate().map(|(number, fault)| self.by_one(fault, number, &left))).await;
    }

    /// `left` is what each fault leaves of the link; this one's is at `number`.
    async fn by_one(&self, fault: &Fault, number: usize, left: &Mutex<Vec<f64>>) {
        let leave = |bytes_per_s: f64| {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            left[number] = bytes_per_s;
            self.network.set_server_link(left.iter().copied().fold(self.link_bytes_per_s, f64::min));
        };
        self.clock.sleep(fault.at.0).await;
        match fault.kind {
            FaultKind::SlowLink => {
                leave(fault.rate.map_or(0.0, Rate::bytes_per_s));
                self.clock.sleep(fault.lasts.0).await;
            }
            FaultKind::ServerRestart => {
                leave(0.0);
                self.server.restart();
                self.clock.sleep(fault.lasts.0 + RECONNECT_NS).await;
            }
        }
        leave(self.link_bytes_per_s);
    }
}
