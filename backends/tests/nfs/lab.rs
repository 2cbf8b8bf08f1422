//! A laboratory with a real server: nfs-ganesha in a network namespace of its own, behind a
//! bridge on which the link can be slowed and cut.
//!
//! ```text
//! this process ── c0 ═ c1 ─ bridge ─ s1 ═ s0 ── nfs-ganesha, rpcbind
//!                 (cut, slowed here ^     ^)
//! ```
//!
//! Everything is started and removed by the test; neither systemd nor fixed system paths are
//! involved.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use comio_backends::nfs::NfsUrl;

pub(crate) const NFS_PORT: u16 = 12049;
pub(crate) const MOUNT_PORT: u16 = 12050;
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Whether tests with nfs-ganesha are wanted; says so if not.
pub(crate) fn is_open() -> bool {
    let open = std::env::var_os("COMIO_GANESHA").is_some();
    if !open {
        println!("skipped: needs nfs-ganesha and root; ci/nfs runs it");
    }
    open
}

/// How a directory is exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Export {
    pub(crate) name: &'static str,
    pub(crate) access: &'static str,
    pub(crate) squash: &'static str,
}

/// Read-write for everybody, root included.
pub(crate) const OPEN: Export = Export { name: "open", access: "RW", squash: "No_Root_Squash" };

/// The namespaces, the file system and the server.
pub(crate) struct Lab {
    name: String,
    address: String,
    directory: tempfile::TempDir,
    exports: Vec<Export>,
    portmapper: Option<Child>,
    server: Option<Child>,
}

impl Lab {
    /// Starts a server with one open export on a tmpfs of `size` ("512m").
    pub(crate) fn start(size: &str) -> Self {
        Self::with_exports(size, &[OPEN])
    }

    pub(crate) fn with_exports(size: &str, exports: &[Export]) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let mut lab = Self {
            name: format!("cl{process}x{number}"),
            address: format!("10.{}.{}", 100 + process % 100, number % 250),
            directory: tempfile::tempdir().unwrap(),
            exports: exports.to_vec(),
            portmapper: None,
            server: None,
        };
        lab.build_network();
        lab.mount_tmpfs(size);
        lab.write_configuration();
        lab.start_portmapper();
        lab.start_server();
        lab
    }

    fn build_network(&self) {
        let Self { name, address, .. } = self;
        // Interface names have at most 15 characters.
        let link = format!("{name}c");
        ip(&format!("netns add {name}b"));
        ip(&format!("netns add {name}s"));
        ip(&format!("-n {name}b link add br0 type bridge forward_delay 0"));
        ip(&format!("link add {link} type veth peer name c1 netns {name}b"));
        ip(&format!("-n {name}b link add s1 type veth peer name s0 netns {name}s"));
        for port in ["c1", "s1"] {
            ip(&format!("-n {name}b link set {port} master br0 up"));
        }
        ip(&format!("-n {name}b link set br0 up"));
        ip(&format!("-n {name}s link set lo up"));
        ip(&format!("-n {name}s address add {address}.2/24 dev s0"));
        ip(&format!("-n {name}s link set s0 up"));
        ip(&format!("address add {address}.1/24 dev {link}"));
        ip(&format!("link set {link} up"));
    }

    fn mount_tmpfs(&self, size: &str) {
        let data = self.data();
        std::fs::create_dir(&data).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&data));
        for export in &self.exports {
            std::fs::create_dir(data.join(export.name)).unwrap();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// An export's directory on the server's disk.
    pub(crate) fn path(&self, export: &str) -> PathBuf {
        self.data().join(export)
    }

    fn write_configuration(&self) {
        let state = self.directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let mut text = format!(
            "NFS_CORE_PARAM {{ NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; Protocols = 3; Enable_NLM = false; \
             Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true; \
             Plugins_Dir = /usr/lib/x86_64-linux-gnu/ganesha; }}\n\
             NFSv4 {{ RecoveryRoot = {}; Graceless = true; }}\nLOG {{ Default_Log_Level = EVENT; }}\n",
            state.display()
        );
        for (number, export) in self.exports.iter().enumerate() {
            let Export { name, access, squash } = export;
            let _ = writeln!(
                text,
                "EXPORT {{ Export_Id = {}; Path = {}; Pseudo = /{name}; Access_Type = {access}; Squash = {squash}; \
                 SecType = sys; Protocols = 3; Transports = TCP; PrivilegedPort = false; FSAL {{ Name = VFS; }} }}",
                number + 1,
                self.path(name).display(),
            );
        }
        std::fs::write(self.configuration(), text).unwrap();
    }

    fn configuration(&self) -> PathBuf {
        self.directory.path().join("ganesha.conf")
    }

    /// The portmapper has a `/run` of its own, which the server shares.
    fn start_portmapper(&mut self) {
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/rpcbind && exec rpcbind -f";
        let log = std::fs::File::create(self.directory.path().join("rpcbind.log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}s", self.name), "sh", "-c", script]);
        self.portmapper = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.wait_for_port(111);
    }

    /// Starts the server, and returns when it answers.
    pub(crate) fn start_server(&mut self) {
        let directory = self.directory.path();
        let portmapper = self.portmapper.as_ref().unwrap().id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &portmapper, "-m", "-n", "ganesha.nfsd", "-F", "-N", "NIV_EVENT"]);
        command.arg("-f").arg(self.configuration());
        command.arg("-L").arg(directory.join("ganesha.log"));
        command.arg("-p").arg(directory.join("ganesha.pid"));
        self.server = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        self.wait_for_port(NFS_PORT);
        self.wait_for_port(MOUNT_PORT);
    }

    fn wait_for_port(&self, port: u16) {
        let address = self.service(port);
        let begin = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let log = std::fs::read_to_string(self.directory.path().join("ganesha.log")).unwrap_or_default();
            assert!(begin.elapsed() < READY_LIMIT, "nobody listens on port {port}:\n{log}");
            pause(POLL);
        }
    }

    /// Kills the server without a word.
    pub(crate) fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Stops the server in its tracks, or lets it go on.
    pub(crate) fn freeze_server(&self, freeze: bool) {
        let server = self.server.as_ref().unwrap().id().to_string();
        run(Command::new("kill").args([if freeze { "-STOP" } else { "-CONT" }, &server]));
    }

    /// Cuts the link: packets vanish, and nobody is told.
    pub(crate) fn cut_link(&self) {
        ip(&format!("-n {}b link set s1 nomaster", self.name));
    }

    pub(crate) fn restore_link(&self) {
        ip(&format!("-n {}b link set s1 master br0", self.name));
    }

    /// Limits both directions to `rate` ("1gbit").
    pub(crate) fn slow_link(&self, rate: &str) {
        for port in ["c1", "s1"] {
            let arguments = format!(
                "-n {}b qdisc replace dev {port} root tbf rate {rate} burst 256kb limit 2500000",
                self.name
            );
            run(Command::new("tc").args(arguments.split(' ')));
        }
    }

    /// An export's URL with `options` ("uid=0&gid=0").
    pub(crate) fn url(&self, export: &str, options: &str) -> NfsUrl {
        NfsUrl::parse(&self.url_text(&format!("/{export}"), options)).unwrap()
    }

    /// The URL of `path` as text, ports included.
    pub(crate) fn url_text(&self, path: &str, options: &str) -> String {
        format!("nfs://{}.2{path}?nfsport={NFS_PORT}&mountport={MOUNT_PORT}&{options}", self.address)
    }

    /// The server's IPv4 address.
    pub(crate) fn host(&self) -> String {
        format!("{}.2", self.address)
    }

    /// Where one of the server's services is.
    pub(crate) fn service(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", self.host()).parse().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill_server();
        if let Some(mut portmapper) = self.portmapper.take() {
            let _ = portmapper.kill();
            let _ = portmapper.wait();
        }
        for part in ["b", "s"] {
            let _ = Command::new("ip").args(["netns", "delete", &format!("{}{part}", self.name)]).status();
        }
        let _ = Command::new("umount").arg("-l").arg(self.data()).status();
    }
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
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
