//! The network: every host's link, the server's, and the switch between them.

use std::sync::Arc;

use super::clock::{Clock, Nanos};
use super::fluid::{Class, Fluid, Link};
use super::usage::Usage;

/// Bytes of data for each byte on the wire: 1448 of 1514 in a full Ethernet frame of TCP.
const GOODPUT: f64 = 1448.0 / 1514.0;

/// Full-duplex links around one switch.
#[derive(Debug)]
pub struct Network {
    fluid: Arc<Fluid>,
    to_server: Link,
    from_server: Link,
    /// All that is under way, in both directions; `None` if it is never the bottleneck.
    switch: Option<Link>,
    latency: Nanos,
}

/// A host's place in the network.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    up: Class,
    down: Class,
    up_link: Link,
    down_link: Link,
}

impl Network {
    /// A server link of `bytes_per_s` each way (on the wire), `round_trip` from any host, around a
    /// switch that carries `switch_bytes_per_s` in all, if that is a limit.
    pub fn new(clock: &Clock, bytes_per_s: f64, switch_bytes_per_s: Option<f64>, round_trip: Nanos) -> Self {
        let fluid = Fluid::new(clock);
        let to_server = fluid.link(bytes_per_s * GOODPUT);
        let from_server = fluid.link(bytes_per_s * GOODPUT);
        let switch = switch_bytes_per_s.map(|bytes_per_s| fluid.link(bytes_per_s * GOODPUT));
        Self { fluid, to_server, from_server, switch, latency: round_trip / 2 }
    }

    /// A host with a link of `bytes_per_s` each way.
    pub fn port(&self, bytes_per_s: f64) -> Port {
        let up_link = self.fluid.link(bytes_per_s * GOODPUT);
        let down_link = self.fluid.link(bytes_per_s * GOODPUT);
        Port {
            up: self.class(&[up_link, self.to_server], f64::INFINITY, 1.0),
            down: self.class(&[self.from_server, down_link], f64::INFINITY, 1.0),
            up_link,
            down_link,
        }
    }

    /// What goes over `links` and through the switch between them.
    fn class(&self, links: &[Link], each_max: f64, weight: f64) -> Class {
        let path: Vec<Link> = links.iter().copied().chain(self.switch).collect();
        self.fluid.class(&path, each_max, weight)
    }

    /// Half a round trip.
    pub fn latency(&self) -> Nanos {
        self.latency
    }

    /// Sends bytes from a host; one connection sends one thing at a time.
    pub async fn send(&self, port: Port, len: usize) {
        self.fluid.flow(port.up, as_f64(len)).await;
    }

    /// Brings bytes to a host.
    pub async fn receive(&self, port: Port, len: usize) {
        self.fluid.flow(port.down, as_f64(len)).await;
    }

    /// Other people's traffic: `connections` that together want `bytes_per_s` each way, until
    /// the future is dropped.
    pub async fn background(&self, bytes_per_s: f64, connections: usize) {
        let weight = as_f64(connections.max(1));
        let up = self.class(&[self.to_server], bytes_per_s, weight);
        let down = self.class(&[self.from_server], bytes_per_s, weight);
        futures::join!(self.fluid.flow(up, f64::MAX), self.fluid.flow(down, f64::MAX));
    }

    /// Changes the server's link, both ways, to `bytes_per_s` on the wire; 0 cuts it.
    pub fn set_server_link(&self, bytes_per_s: f64) {
        self.fluid.set_capacity(self.to_server, bytes_per_s * GOODPUT);
        self.fluid.set_capacity(self.from_server, bytes_per_s * GOODPUT);
    }

    /// Bytes that went over a host's link, the busier way.
    pub fn busier_way(&self, port: Port) -> f64 {
        self.fluid.usage(port.up_link).total().max(self.fluid.usage(port.down_link).total())
    }

    /// Bytes that went through the switch, if it is a limit.
    pub fn switch_usage(&self) -> Option<Usage> {
        self.switch.map(|switch| self.fluid.usage(switch))
    }

    /// Bytes that went to the server, and from it.
    pub fn usage(&self) -> (Usage, Usage) {
        (self.fluid.usage(self.to_server), self.fluid.usage(self.from_server))
    }
}

/// Bytes of data a link of `bytes_per_s` carries in a second.
pub fn goodput(bytes_per_s: f64) -> f64 {
    bytes_per_s * GOODPUT
}

#[expect(clippy::cast_precision_loss, reason = "lengths of transfers")]
fn as_f64(len: usize) -> f64 {
    len as f64
}
