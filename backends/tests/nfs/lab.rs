//! The laboratory of `comio_backends::netns`, for tests: what goes wrong is a panic.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use comio_backends::netns::{self, Plan};
pub(crate) use comio_backends::netns::{Export, MOUNT_PORT, NFS_PORT};
use comio_backends::nfs::NfsUrl;

/// Whether tests with nfs-ganesha are wanted; says so if not.
pub(crate) fn is_open() -> bool {
    let open = std::env::var_os("COMIO_GANESHA").is_some();
    if !open {
        println!("skipped: needs nfs-ganesha and root; ci/nfs runs it");
    }
    open
}

/// Read-write for everybody, root included.
pub(crate) const OPEN: Export = Export::OPEN;

/// A server and one host.
pub(crate) struct Lab(netns::Lab);

impl Lab {
    /// Starts a server with one open export on a tmpfs of so many MiB.
    pub(crate) fn start(size_mib: u64) -> Self {
        Self::with_exports(size_mib, &[OPEN])
    }

    pub(crate) fn with_exports(size_mib: u64, exports: &[Export]) -> Self {
        let plan = Plan {
            exports: exports.to_vec(),
            size_bytes: size_mib << 20,
            hosts: 1,
            server_link: None,
            host_link: None,
        };
        Self(netns::Lab::start(plan).unwrap())
    }

    /// An export's directory on the server's disk.
    pub(crate) fn path(&self, export: &str) -> PathBuf {
        self.0.path(export)
    }

    pub(crate) fn start_server(&mut self) {
        self.0.start_server().unwrap();
    }

    pub(crate) fn kill_server(&mut self) {
        self.0.kill_server();
    }

    pub(crate) fn freeze_server(&self, freeze: bool) {
        self.0.freeze_server(freeze).unwrap();
    }

    pub(crate) fn cut_link(&self) {
        self.0.cut_link().unwrap();
    }

    pub(crate) fn restore_link(&self) {
        self.0.restore_link().unwrap();
    }

    /// Limits both directions to so many bits per second.
    pub(crate) fn slow_link(&self, bits_per_s: u64) {
        self.0.slow_link(bits_per_s).unwrap();
    }

    /// An export's URL with `options` ("uid=0&gid=0").
    pub(crate) fn url(&self, export: &str, options: &str) -> NfsUrl {
        NfsUrl::parse(&self.url_text(&format!("/{export}"), options)).unwrap()
    }

    /// The URL of `path` as text, ports included.
    pub(crate) fn url_text(&self, path: &str, options: &str) -> String {
        self.0.url(0, path, options)
    }

    /// The server's IPv4 address.
    pub(crate) fn host(&self) -> String {
        self.0.server_address(0).to_string()
    }

    /// An IPv6 address of the server.
    pub(crate) fn host_v6(&self) -> String {
        self.0.add_ipv6().unwrap().to_string()
    }

    /// Where one of the server's services is.
    pub(crate) fn service(&self, port: u16) -> SocketAddr {
        self.0.service(0, port)
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
}

/// Waits in real time, between looks at something outside of this process or as a fault's
/// own duration; never for a result.
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Whether a command is installed.
pub(crate) fn has(command: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|directory| Path::new(&directory).join(command).exists())
}
