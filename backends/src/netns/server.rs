//! nfs-ganesha and its portmapper.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::command::program;
use super::{Lab, LabError, MOUNT_PORT, NFS_PORT};

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Of a log, for an error.
const LOG_LINES: usize = 12;

/// How a directory is exported.
#[derive(Debug, Clone, Copy)]
pub struct Export {
    /// Its name below the root.
    pub name: &'static str,
    /// `RW`, `RO` or `None`.
    pub access: &'static str,
    /// As ganesha calls it.
    pub squash: &'static str,
    /// Whether clients must come from ports below 1024.
    pub low_ports_only: bool,
}

impl Export {
    /// Read-write for everybody, root included.
    pub const OPEN: Self =
        Self { name: "open", access: "RW", squash: "No_Root_Squash", low_ports_only: false };
}

impl Lab {
    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// An export's directory as the server sees it.
    pub(super) fn export_path(&self, export: &str) -> PathBuf {
        self.data().join(export)
    }

    fn configuration(&self) -> Result<PathBuf, LabError> {
        let state = self.directory.path().join("state");
        std::fs::create_dir_all(&state)?;
        let mut text = format!(
            "NFS_CORE_PARAM {{ NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; Protocols = 3; Enable_NLM = false; \
             Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true;{} }}\n\
             NFSv4 {{ RecoveryRoot = {}; Graceless = true; }}\nLOG {{ Default_Log_Level = EVENT; }}\n",
            plugins(),
            state.display()
        );
        for (number, export) in self.plan.exports.iter().enumerate() {
            let super::Export { name, access, squash, low_ports_only } = export;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "EXPORT {{ Export_Id = {}; Path = {}; Pseudo = /{name}; Access_Type = {access}; Squash = {squash}; \
                 SecType = sys; Protocols = 3; Transports = TCP; PrivilegedPort = {low_ports_only}; FSAL {{ Name = VFS; }} }}",
                number + 1,
                self.export_path(name).display(),
            );
        }
        let path = self.directory.path().join("ganesha.conf");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// The portmapper, without which ganesha does not start, has a `/run` of its own. Its mounts
    /// are the server's too, and vanish with both.
    pub(super) fn start_portmapper(&mut self) -> Result<(), LabError> {
        let data = self.data();
        std::fs::create_dir(&data)?;
        let data = data.display();
        let exports: Vec<_> =
            self.plan.exports.iter().map(|export| format!("{data}/{}", export.name)).collect();
        let script = format!(
            "mount -t tmpfs -o size={} tmpfs {data} && mkdir {} && \
             mount -t tmpfs tmpfs /run && mkdir -p /run/rpcbind && exec rpcbind -f",
            self.plan.size_bytes,
            exports.join(" "),
        );
        let log = std::fs::File::create(self.directory.path().join("rpcbind.log"))?;
        let mut command = program("ip");
        command.args(["netns", "exec", &format!("{}s", self.name), "setpriv", "--pdeathsig", "KILL"]);
        command.args(["sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.portmapper = Some(self.starter.spawn(command)?);
        self.wait_for_port(111)
    }

    /// Starts the server, and returns when it answers.
    ///
    /// # Errors
    /// [`LabError::Silent`] with the end of its log.
    pub fn start_server(&mut self) -> Result<(), LabError> {
        let directory = self.directory.path();
        let portmapper = self.portmapper.as_ref().map_or(0, std::process::Child::id).to_string();
        let mut command = program("nsenter");
        command.args(["-t", &portmapper, "-m", "-n", "setpriv", "--pdeathsig", "KILL"]);
        command.args(["ganesha.nfsd", "-F", "-N", "NIV_EVENT"]);
        command.arg("-f").arg(self.configuration()?);
        command.arg("-L").arg(directory.join("ganesha.log"));
        command.arg("-p").arg(directory.join("ganesha.pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(self.starter.spawn(command)?);
        self.wait_for_port(NFS_PORT)?;
        self.wait_for_port(MOUNT_PORT)
    }

    #[expect(clippy::disallowed_methods, reason = "waits for a process outside of this one")]
    fn wait_for_port(&mut self, port: u16) -> Result<(), LabError> {
        let address = self.service(0, port);
        let begin = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let child = self.server.as_mut().or(self.portmapper.as_mut());
            let ended = child.is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
            if ended || begin.elapsed() > READY_LIMIT {
                return Err(LabError::Silent { port, log: self.log_end() });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let log = read("rpcbind.log") + &read("ganesha.log");
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Kills the server without a word.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Where Debian keeps ganesha's plug-ins, if it is not where ganesha looks.
fn plugins() -> String {
    let place = format!("/usr/lib/{}-linux-gnu/ganesha", std::env::consts::ARCH);
    if Path::new(&place).exists() { format!(" Plugins_Dir = {place};") } else { String::new() }
}
