//! A guest held by `xl save -p` while its image is made.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use async_trait::async_trait;
use comio_core::buffer::BufferPool;
use comio_core::hypervisor::{HeldGuest, HypervisorError};
use comio_core::tape::{GuestReader, TapeError, TapeFormat, TapeItem};

use super::domain::Domain;
use super::journal::{Entry, Operation, Process, Step};
use super::xl::Running;
use super::{Toolstack, refused};
use crate::tape;

/// Begins to read `domain` out: xl writes to a pipe and leaves the guest paused.
///
/// # Errors
/// [`HypervisorError`].
pub(super) fn begin(
    toolstack: &Toolstack,
    domain: Domain,
    mut entry: Entry,
) -> Result<Box<dyn HeldGuest>, HypervisorError> {
    toolstack.claim(&entry, "save")?;
    toolstack.stands_still(true);
    let stream = match start(toolstack, &domain, &mut entry) {
        Ok(stream) => stream,
        Err(error) => {
            // xl never ran.
            toolstack.forget(&entry)?;
            return Err(error);
        }
    };
    Ok(Box::new(Held { toolstack: toolstack.clone(), domain, stream }))
}

fn start(toolstack: &Toolstack, domain: &Domain, entry: &mut Entry) -> Result<SaveStream, HypervisorError> {
    let (id, target) = (domain.id.to_string(), "/dev/stdout");
    let mut xl = toolstack.xl.start(["save", "-p", &id, target], Stdio::null(), Stdio::piped())?;
    entry.xl = xl.child.id().and_then(Process::of);
    let noted = toolstack.note(entry);
    let pipe = xl.child.stdout.take().and_then(|pipe| pipe.into_owned_fd().ok());
    let pipe: OwnedFd = pipe.ok_or_else(|| refused("save", domain, "no pipe to xl"))?;
    let tape = tape::read_xl_pipe(File::from(pipe), format!("xl save of {}", domain.name));
    // From here on xl runs: whatever fails, `resume` must see it to its end.
    Ok(SaveStream {
        toolstack: toolstack.clone(),
        domain: domain.clone(),
        entry: entry.clone(),
        tape: Some(tape?),
        xl,
        trouble: noted.err().map(|error| error.to_string()),
    })
}

/// What xl writes, and xl.
struct SaveStream {
    toolstack: Toolstack,
    domain: Domain,
    entry: Entry,
    /// Gone once the pipe is closed.
    tape: Option<Box<dyn GuestReader>>,
    xl: Running,
    /// What went wrong before the first read.
    trouble: Option<String>,
}

impl SaveStream {
    fn failed(&self, problem: String) -> TapeError {
        TapeError::Io {
            action: "save",
            target: format!("guest {:?}", self.domain.name),
            source: io::Error::other(problem),
        }
    }

    /// The stream is complete; the guest must be, too: xl content, and the guest paused.
    async fn settle(&mut self) -> Result<(), TapeError> {
        let status = self.xl.end().await.map_err(|error| self.failed(error.to_string()))?;
        if !status.success() {
            let words = self.xl.last_words();
            return Err(self.failed(format!("xl failed ({status}): {words}")));
        }
        let now = self.toolstack.same(&self.domain).await.map_err(|error| self.failed(error.to_string()))?;
        if !now.is_paused() {
            return Err(self.failed("xl did not leave the guest paused".to_owned()));
        }
        self.entry.step = Step::Held;
        self.entry.cpu_deciseconds = Some(now.cpu_deciseconds);
        self.entry.cpu_ns = now.cpu_ns;
        self.toolstack.note(&self.entry).map_err(|error| self.failed(error.to_string()))
    }

    /// A stream that ended early says less than xl does.
    async fn explain(&mut self, error: TapeError) -> TapeError {
        if !matches!(error, TapeError::Truncated { .. }) {
            return error;
        }
        match self.xl.end().await {
            Ok(status) => {
                let words = self.xl.last_words();
                self.failed(format!("xl stopped early ({status}): {words}"))
            }
            Err(_) => error,
        }
    }
}

#[async_trait]
impl GuestReader for SaveStream {
    fn format(&self) -> TapeFormat {
        TapeFormat::XEN_XL
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.domain.memory_mib << 20)
    }

    async fn next(&mut self, pool: &BufferPool) -> Result<Option<TapeItem>, TapeError> {
        if let Some(trouble) = self.trouble.take() {
            return Err(self.failed(trouble));
        }
        let Some(tape) = &mut self.tape else { return Ok(None) };
        match tape.next(pool).await {
            Ok(Some(item)) => Ok(Some(item)),
            Ok(None) => {
                self.settle().await?;
                self.tape = None;
                Ok(None)
            }
            Err(error) => Err(self.explain(error).await),
        }
    }
}

struct Held {
    toolstack: Toolstack,
    domain: Domain,
    stream: SaveStream,
}

#[async_trait]
impl HeldGuest for Held {
    fn reader(&mut self) -> &mut dyn GuestReader {
        &mut self.stream
    }

    async fn release(self: Box<Self>) -> Result<(), HypervisorError> {
        let entry = &self.stream.entry;
        match entry.operation {
            Operation::Hold => {
                self.toolstack.stands_still(false);
                self.toolstack.forget(entry)
            }
            Operation::Checkpoint | Operation::Restore => self.toolstack.run_on(&self.domain, entry).await,
            Operation::Save => self.toolstack.destroy_held(entry).await,
        }
    }

    async fn resume(mut self: Box<Self>) -> Result<(), HypervisorError> {
        // With nobody reading, xl gives up and lets the guest run on; it may have come to its end.
        self.stream.tape = None;
        let ended = self.stream.xl.end().await;
        ended.map_err(|error| refused("wait for xl's save of", &self.domain, &error.to_string()))?;
        self.toolstack.run_on(&self.domain, &self.stream.entry).await
    }
}
