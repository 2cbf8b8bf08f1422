//! TCP to the server: names resolved, a source port the server accepts, and sockets that
//! notice a dead peer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nfs3_client::io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::time::timeout;

/// How long a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Data not acknowledged for so long means that the peer or the path is gone.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
/// The ports that servers ask for when they want a client run by root.
const PRIVILEGED_PORTS: std::ops::Range<u16> = 665..1024;

/// Whom to connect to, and how.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Tried in order.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) privileged_port: bool,
}

impl Peer {
    /// The same host and another port.
    pub(super) fn at_port(&self, port: u16) -> Self {
        let mut peer = self.clone();
        // The rest of an address stays: a link-local one is nothing without its interface.
        peer.addresses.iter_mut().for_each(|address| address.set_port(port));
        peer
    }

    /// Connects to the first address that answers.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let mut result = Err(io::Error::other("the host has no address"));
        for address in &self.addresses {
            result = timeout(CONNECT_LIMIT, connect_from(*address, self.privileged_port))
                .await
                .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers there")));
            if result.is_ok() {
                break;
            }
        }
        let stream = result?;
        watch_over(&stream)?;
        Ok(stream)
    }
}

/// The addresses of `host`.
pub(super) async fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    // Servers often listen on IPv4 alone: those addresses first.
    let mut addresses: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

async fn connect_from(address: SocketAddr, privileged_port: bool) -> io::Result<TcpStream> {
    if !privileged_port {
        return TcpStream::connect(address).await;
    }
    for _ in PRIVILEGED_PORTS {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        let local = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, next_privileged_port())),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, next_privileged_port())),
        };
        // A port whose last connection went to another server may be used again at once.
        socket.set_reuseaddr(true)?;
        match socket.bind(local) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            // Root without the capability, as in a container.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(error),
        }
        match socket.connect(address).await {
            // The port's last connection to this server is not forgotten yet.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            result => return result,
        }
    }
    // The server may not care.
    tracing::debug!("no source port below 1024 is to be had");
    TcpStream::connect(address).await
}

/// Each attempt takes another port, and each process begins at another one.
fn next_privileged_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PRIVILEGED_PORTS.end - PRIVILEGED_PORTS.start;
    let begin = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
    PRIVILEGED_PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin) % count
}

/// Sends small calls at once, and finds out about a dead peer even while nothing is sent.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    let millis = u32::try_from(UNACKNOWLEDGED_LIMIT.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

/// A stream as `nfs3_client` wants it, for MOUNT and the portmapper.
///
/// The crate's own wrapper loops for ever when the peer closes the connection, and reads
/// whatever length a reply announces: here the first is an error and the second bounded.
#[derive(Debug)]
pub(super) struct CrateIo(pub(super) TcpStream);

/// Replies of MOUNT and portmapper are small; an export list of this size is absurd.
const SMALL_REPLY_BYTES_MAX: usize = 1 << 20;

impl AsyncRead for CrateIo {
    async fn async_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.len() > SMALL_REPLY_BYTES_MAX {
            let problem = format!("the reply announces {} bytes", buf.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        match self.0.read(buf).await? {
            0 if !buf.is_empty() => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))
            }
            n => Ok(n),
        }
    }
}

impl AsyncWrite for CrateIo {
    async fn async_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf).await
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn a_link_local_address_keeps_its_interface() {
        let addresses = resolve("fe80::1%lo").await.unwrap();
        let peer = Peer { addresses, privileged_port: false }.at_port(7);
        let SocketAddr::V6(address) = peer.addresses[0] else { panic!("{peer:?}") };
        assert_eq!((address.scope_id(), address.port()), (1, 7));
    }
}
