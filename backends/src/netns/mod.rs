//! A real server behind real links, all on this machine: nfs-ganesha in a network namespace of
//! its own, behind a bridge whose ports are held to a rate by token buckets.
//!
//! ```text
//! this process ─┬─ host 0 ═ c0 ─┐
//!               ├─ host 1 ═ c1 ─┤ bridge ─ s1 ═ s0 ── nfs-ganesha, rpcbind
//!               └─ …            ┘         ^     ^
//!                    (a host's link,      (the server's link,
//!                     if it is narrower)   each way)
//! ```
//!
//! Each host has an interface, an address and a subnet of its own, so its connections take its own
//! link; the server answers in every subnet. Its export is on a tmpfs that nobody else sees.
//! Everything is started here and ends with the [`Lab`], and with the process if that is killed;
//! neither systemd nor fixed system paths are involved. Needs root.

mod command;
mod error;
mod server;
mod starter;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

pub use command::missing_tools;
use command::{ip, run};
pub use error::LabError;
pub use server::Export;
use starter::Starter;

/// The NFS service's port.
pub const NFS_PORT: u16 = 12049;
/// The MOUNT service's port.
pub const MOUNT_PORT: u16 = 12050;
/// What a link's queue holds, in bytes: 20 ms of 1 Gbit/s, at which TCP loses nothing that matters.
const QUEUE_BYTES: u64 = 2_500_000;
/// The least token bucket, in bytes: several of the largest packets that the kernel hands over.
const BURST_BYTES_MIN: u64 = 256 << 10;
/// What a bucket must hold of a link's traffic at least: a tick of a kernel's slowest clock.
const TICKS_PER_S: u64 = 250;
/// Subnets of four addresses in the last byte of an address.
const HOSTS_MAX: usize = 63;

/// What a laboratory is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the server exports.
    pub exports: Vec<Export>,
    /// The export's file system, in bytes.
    pub size_bytes: u64,
    /// Hosts, each with a link of its own.
    pub hosts: usize,
    /// The server's link each way, in bits per second; `None` leaves it as fast as the machine.
    pub server_link: Option<u64>,
    /// The same for each host.
    pub host_link: Option<u64>,
}

/// The namespaces, the links and the server.
#[derive(Debug)]
pub struct Lab {
    name: String,
    /// The first three numbers of its addresses.
    network: [u8; 3],
    directory: tempfile::TempDir,
    plan: Plan,
    starter: Starter,
    portmapper: Option<Child>,
    server: Option<Child>,
}

impl Lab {
    /// Builds everything, and returns when the server answers.
    ///
    /// # Errors
    /// [`LabError`]: who does not run it as root or lacks a program is told what to do.
    pub fn start(plan: Plan) -> Result<Self, LabError> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let missing = missing_tools();
        if !missing.is_empty() {
            return Err(LabError::Missing(missing));
        }
        if plan.hosts > HOSTS_MAX {
            return Err(LabError::TooManyHosts { hosts: plan.hosts, most: HOSTS_MAX });
        }
        remove_stale();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            name: format!("cl{}x{number}", std::process::id()),
            network: free_network()?,
            directory: tempfile::Builder::new().prefix("comio-netns-").tempdir()?,
            plan,
            starter: Starter::new()?,
            portmapper: None,
            server: None,
        };
        lab.build_network()?;
        lab.start_portmapper()?;
        lab.start_server()?;
        if let Some(rate) = lab.plan.server_link {
            lab.slow_link(rate)?;
        }
        if let Some(rate) = lab.plan.host_link {
            lab.slow_hosts(rate)?;
        }
        Ok(lab)
    }

    fn build_network(&self) -> Result<(), LabError> {
        let name = &self.name;
        ip(&format!("netns add {name}b"))?;
        ip(&format!("netns add {name}s"))?;
        ip(&format!("-n {name}b link add br0 type bridge forward_delay 0"))?;
        ip(&format!("-n {name}b link add s1 type veth peer name s0 netns {name}s"))?;
        ip(&format!("-n {name}b link set s1 master br0 up"))?;
        ip(&format!("-n {name}b link set br0 up"))?;
        ip(&format!("-n {name}s link set lo up"))?;
        for host in 0..self.plan.hosts.max(1) {
            // Interface names have at most 15 characters.
            let link = self.interface(host);
            ip(&format!("link add {link} type veth peer name c{host} netns {name}b"))?;
            ip(&format!("-n {name}b link set c{host} master br0 up"))?;
            ip(&format!("-n {name}s address add {}/30 dev s0", self.server_address(host)))?;
            ip(&format!("address add {}/30 dev {link}", self.address(host, 1)))?;
            ip(&format!("link set {link} up"))?;
        }
        ip(&format!("-n {name}s link set s0 up"))
    }

    fn interface(&self, host: usize) -> String {
        format!("{}c{host}", self.name)
    }

    #[expect(clippy::cast_possible_truncation, reason = "hosts were counted: below 64")]
    fn address(&self, host: usize, place: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, 4 * host as u8 + place)
    }

    /// The server's address as a host knows it.
    pub fn server_address(&self, host: usize) -> Ipv4Addr {
        self.address(host, 2)
    }

    /// Gives the server and the first host IPv6 addresses, too; says the server's.
    ///
    /// # Errors
    /// When `ip` fails, as on a machine without IPv6.
    pub fn add_ipv6(&self) -> Result<Ipv6Addr, LabError> {
        let [a, b, c] = self.network.map(u16::from);
        // The same numbers among the addresses that mean nothing outside of a site.
        let address = |place| Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, place);
        ip(&format!("-n {}s address add {}/126 dev s0 nodad", self.name, address(2)))?;
        ip(&format!("address add {}/126 dev {} nodad", address(1), self.interface(0)))?;
        Ok(address(2))
    }

    /// Where one of the server's services is, for a host.
    pub fn service(&self, host: usize, port: u16) -> SocketAddr {
        (self.server_address(host), port).into()
    }

    /// The URL of `path` for a host, with further `options` ("uid=0&gid=0").
    pub fn url(&self, host: usize, path: &str, options: &str) -> String {
        let address = self.server_address(host);
        format!("nfs://{address}{path}?nfsport={NFS_PORT}&mountport={MOUNT_PORT}&{options}")
    }

    /// An export's directory as this process sees it.
    pub fn path(&self, export: &str) -> PathBuf {
        let portmapper = self.portmapper.as_ref().map_or(0, Child::id);
        PathBuf::from(format!("/proc/{portmapper}/root{}", self.export_path(export).display()))
    }

    /// Seconds of a core that the server has used.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn server_cpu_s(&self) -> Result<f64, LabError> {
        command::cpu_s(&self.server.as_ref().map_or(0, Child::id).to_string())
    }

    /// Seconds of a core that this process has used.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn own_cpu_s() -> Result<f64, LabError> {
        command::cpu_s("self")
    }

    /// Stops the server in its tracks, or lets it go on.
    ///
    /// # Errors
    /// When there is none.
    pub fn freeze_server(&self, freeze: bool) -> Result<(), LabError> {
        let server = self.server.as_ref().map_or(0, Child::id).to_string();
        run(Command::new("kill").args([if freeze { "-STOP" } else { "-CONT" }, &server]))
    }

    /// Cuts the server's link: packets vanish, and nobody is told.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut_link(&self) -> Result<(), LabError> {
        ip(&format!("-n {}b link set s1 nomaster", self.name))
    }

    /// Mends what [`cut_link`](Self::cut_link) cut.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn restore_link(&self) -> Result<(), LabError> {
        ip(&format!("-n {}b link set s1 master br0", self.name))
    }

    /// Holds the server's link, each way, to `bits_per_s`.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn slow_link(&self, bits_per_s: u64) -> Result<(), LabError> {
        shape(Some(&format!("{}b", self.name)), "s1", bits_per_s)?;
        shape(Some(&format!("{}s", self.name)), "s0", bits_per_s)
    }

    fn slow_hosts(&self, bits_per_s: u64) -> Result<(), LabError> {
        for host in 0..self.plan.hosts {
            shape(Some(&format!("{}b", self.name)), &format!("c{host}"), bits_per_s)?;
            shape(None, &self.interface(host), bits_per_s)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill_server();
        if let Some(mut portmapper) = self.portmapper.take() {
            // Either may have ended by itself. The tmpfs goes with the last of them.
            let _ = portmapper.kill();
            let _ = portmapper.wait();
        }
        // Links vanish with a namespace at their end.
        for part in ["b", "s"] {
            let _ = ip(&format!("netns delete {}{part}", self.name));
        }
    }
}

/// A token bucket at an interface, in the namespace or in this one.
fn shape(namespace: Option<&str>, interface: &str, bits_per_s: u64) -> Result<(), LabError> {
    let burst = (bits_per_s / 8 / TICKS_PER_S).max(BURST_BYTES_MIN);
    let limit = QUEUE_BYTES.max(2 * burst);
    let mut command = command::program("tc");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["qdisc", "replace", "dev", interface, "root", "tbf"]);
    command.args(["rate", &format!("{bits_per_s}bit"), "burst", &burst.to_string()]);
    run(command.args(["limit", &limit.to_string()]))
}

/// Three numbers of addresses that nobody on this machine uses.
fn free_network() -> Result<[u8; 3], LabError> {
    let is_ours = |network: &[u8; 3]| {
        let [a, b, c] = *network;
        UdpSocket::bind((Ipv4Addr::new(a, b, c, 1), 0)).is_ok()
    };
    let numbers = (100..200).flat_map(|b| (0..250).map(move |c| [10, b, c]));
    // Where to begin differs, so that two that start at once hardly meet.
    let begin = std::process::id() as usize % 25_000;
    numbers.clone().skip(begin).chain(numbers).find(|network| !is_ours(network)).ok_or(LabError::NoAddress)
}

/// Removes what a process that was killed has left.
fn remove_stale() {
    let Ok(namespaces) = std::fs::read_dir("/run/netns") else { return };
    for name in namespaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let process =
            name.strip_prefix("cl").and_then(|rest| rest.split_once('x')).map(|(process, _)| process);
        let gone = process.and_then(|process| process.parse::<u32>().ok());
        if gone.is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists()) {
            // Another may have been quicker.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
