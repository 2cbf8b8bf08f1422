//! Running `xl`, Xen's own tool.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use comio_core::hypervisor::HypervisorError;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::process::{Child, Command};

use super::domain::{self, Domain};
use super::{refused, with_advice};
#[cfg(feature = "xen")]
use crate::xen::control::with_cpu_time;

/// What xl says is kept up to here.
const WORDS_MAX: u64 = 16 << 10;
/// What to do with a guest that xl cannot resume.
const SUSPENDED: &str = "its save ended before it was resumed, and this xl cannot do that: xl destroy ends it as if its power had failed, then start it anew";

/// The program.
#[derive(Debug, Clone)]
pub struct Xl {
    program: PathBuf,
}

/// xl at work, what it says kept.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    words: File,
}

impl Xl {
    /// xl at `program`, looked for in `PATH` if it is a bare name.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// The domains there are, domain 0 among them.
    ///
    /// # Errors
    /// [`HypervisorError::Unavailable`].
    pub async fn domains(&self) -> Result<Vec<Domain>, HypervisorError> {
        let mut command = self.command();
        let output = command.args(["list", "-v"]).stdin(Stdio::null()).output();
        let output = output.await.map_err(|error| self.missing(&error))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            let problem =
                format!("xl list failed: {} (only root on a Xen host can use it)", last_words(&words));
            return Err(HypervisorError::Unavailable(problem));
        }
        domain::parse_list(&String::from_utf8_lossy(&output.stdout)).map(with_cpu_time)
    }

    /// The domain that `wanted` means: a number, else a name, else a uuid.
    ///
    /// # Errors
    /// [`HypervisorError::NotFound`], [`HypervisorError::Unavailable`].
    pub async fn domain(&self, wanted: &str) -> Result<Domain, HypervisorError> {
        domain::find_domain(&self.domains().await?, wanted).cloned()
    }

    /// Asks `domain` to shut down, as its own administrator would; it may take its time, or refuse.
    ///
    /// # Errors
    /// [`HypervisorError`].
    pub async fn shut_down(&self, domain: &Domain) -> Result<(), HypervisorError> {
        self.act("shutdown", domain).await
    }

    /// Frees what is left of a domain that has shut itself down; any other is left alone.
    ///
    /// # Errors
    /// [`HypervisorError`].
    pub async fn clear_away(&self, domain: &Domain) -> Result<(), HypervisorError> {
        if domain.has_powered_off() { self.act("destroy", domain).await } else { Ok(()) }
    }

    /// Lets `domain` run: unpauses it, after it was resumed where an xl that was killed in the
    /// middle of a save has left it suspended.
    ///
    /// # Errors
    /// [`HypervisorError::Refused`], also for one that has shut down or crashed.
    pub(super) async fn let_run(&self, domain: &Domain) -> Result<(), HypervisorError> {
        if domain.is_suspended() {
            // Older ones than Xen 4.20 have no such command.
            self.act("resume", domain).await.map_err(|error| with_advice(error, SUSPENDED))?;
        }
        if domain.is_paused() {
            return self.act("unpause", domain).await;
        }
        if domain.is_suspended() || domain.is_running() {
            return Ok(());
        }
        Err(refused("resume", domain, &format!("it has shut down or crashed (state {})", domain.state)))
    }

    /// Runs `xl ACTION GUEST's id`.
    ///
    /// # Errors
    /// [`HypervisorError`].
    pub(super) async fn act(&self, action: &'static str, domain: &Domain) -> Result<(), HypervisorError> {
        let mut command = self.command();
        let output = command.arg(action).arg(domain.id.to_string()).stdin(Stdio::null()).output();
        let output = output.await.map_err(|error| self.missing(&error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(HypervisorError::Refused {
            action,
            guest: domain.name.clone(),
            problem: last_words(&String::from_utf8_lossy(&output.stderr)),
        })
    }

    /// Starts xl with a pipe at one end.
    ///
    /// # Errors
    /// [`HypervisorError::Unavailable`].
    pub(super) fn start<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Running, HypervisorError> {
        let words = memfd_create("comio-xl", MemfdFlags::CLOEXEC).map_err(io::Error::from);
        let words = File::from(words.map_err(|error| self.missing(&error))?);
        let stderr = words.try_clone().map_err(|error| self.missing(&error))?;
        let child = self.command().args(args).stdin(stdin).stdout(stdout).stderr(stderr).spawn();
        Ok(Running { child: child.map_err(|error| self.missing(&error))?, words })
    }

    /// In a process group of its own: Ctrl-C is for us, xl has a guest in its hands.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.process_group(0);
        command
    }

    fn missing(&self, error: &io::Error) -> HypervisorError {
        let program = self.program.display();
        HypervisorError::Unavailable(format!(
            "cannot run {program}: {error} (it is in Debian's xen-utils-common; is this a Xen host, and the user root?)"
        ))
    }
}

impl Running {
    /// Waits for its end.
    pub(super) async fn end(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// What it said last.
    pub(super) fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        let read = self.words.seek(SeekFrom::Start(0));
        let read = read.and_then(|_| (&self.words).take(WORDS_MAX).read_to_end(&mut words));
        match read {
            Ok(_) => last_words(&String::from_utf8_lossy(&words)),
            Err(error) => format!("(what it said cannot be read: {error})"),
        }
    }
}

/// xl's word is all there is where the hypervisor itself cannot be asked.
#[cfg(not(feature = "xen"))]
fn with_cpu_time(domains: Vec<Domain>) -> Vec<Domain> {
    domains
}

/// The last lines of what xl said, in one line, without the progress that it shows.
fn last_words(words: &str) -> String {
    let lines = words.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("xc: progress:")).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    if last.is_empty() { "it said nothing".to_owned() } else { last.join("; ") }
}
