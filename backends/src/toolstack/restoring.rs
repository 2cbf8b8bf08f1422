//! A guest being made by `xl restore -p` from its image.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;

use async_trait::async_trait;
use comio_core::hypervisor::{HypervisorError, NewGuest};
use comio_core::tape::{GuestWriter, TapeError, TapeItem};

use super::domain::Domain;
use super::journal::{Entry, Process, Step};
use super::xl::Running;
use super::{Toolstack, refused, unavailable};
use crate::tape;
use crate::xen::{ConfigEditor, SavedConfig};

/// Begins to make a guest: xl reads from a pipe, and leaves the guest paused.
///
/// # Errors
/// [`HypervisorError::AlreadyExists`] for a guest of that name or uuid; others.
pub(super) async fn begin(
    toolstack: &Toolstack,
    guest: &SavedConfig,
    config: Option<&Path>,
    mut entry: Entry,
) -> Result<Box<dyn NewGuest>, HypervisorError> {
    // Looked at after this: what is there then, no restore of ours has made.
    toolstack.claim(&entry, "restore")?;
    let started = match refuse_if_there(toolstack, guest).await {
        Ok(before) => start(toolstack, config).map(|xl| (before, xl)),
        Err(error) => Err(error),
    };
    let (before, mut xl) = match started {
        Ok(started) => started,
        Err(error) => {
            // xl never ran.
            toolstack.forget(&entry)?;
            return Err(error);
        }
    };
    entry.xl = xl.child.id().and_then(Process::of);
    toolstack.note(&entry)?;
    let pipe = xl.child.stdin.take().ok_or_else(|| unavailable("no pipe to xl"))?;
    let pipe = pipe.into_owned_fd().map_err(|error| unavailable(&error.to_string()))?;
    let tape = tape::write_xl_pipe(File::from(pipe), format!("xl restore of {}", guest.name))?;
    let editor = ConfigEditor::renaming(&guest.name);
    let stream = RestoreStream { tape: Some(tape), editor, xl, done: false, guest: guest.name.clone() };
    Ok(Box::new(New { toolstack: toolstack.clone(), entry, before, stream }))
}

/// The numbers of the domains there are, none of which may have the guest's name or uuid.
async fn refuse_if_there(toolstack: &Toolstack, guest: &SavedConfig) -> Result<Vec<u32>, HypervisorError> {
    let there = toolstack.xl.domains().await?;
    let taken = there.iter().find(|domain| domain.name == guest.name || domain.uuid == guest.uuid);
    match taken {
        Some(taken) => Err(HypervisorError::AlreadyExists(taken.name.clone())),
        None => Ok(there.into_iter().map(|domain| domain.id).collect()),
    }
}

fn start(toolstack: &Toolstack, config: Option<&Path>) -> Result<Running, HypervisorError> {
    let mut args = vec!["restore".as_ref(), "-p".as_ref()];
    args.extend(config.map(Path::as_os_str));
    args.push("/dev/stdin".as_ref());
    toolstack.xl.start(args, Stdio::piped(), Stdio::null())
}

/// What xl reads, and xl.
struct RestoreStream {
    /// Gone once the pipe is closed.
    tape: Option<Box<dyn GuestWriter>>,
    editor: ConfigEditor,
    xl: Running,
    /// xl has made the guest.
    done: bool,
    guest: String,
}

impl RestoreStream {
    fn failed(&self, problem: String) -> TapeError {
        TapeError::Io {
            action: "restore",
            target: format!("guest {:?}", self.guest),
            source: io::Error::other(problem),
        }
    }

    /// A pipe that nobody reads any more says less than xl does.
    async fn explain(&mut self, error: TapeError) -> TapeError {
        let closed =
            matches!(&error, TapeError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe);
        if !closed {
            return error;
        }
        match self.xl.end().await {
            Ok(status) => {
                let words = self.xl.last_words();
                self.failed(format!("xl failed ({status}): {words}"))
            }
            Err(_) => error,
        }
    }
}

#[async_trait]
impl GuestWriter for RestoreStream {
    async fn write(&mut self, item: TapeItem) -> Result<(), TapeError> {
        let item = match item {
            TapeItem::Frame(bytes) => TapeItem::Frame(self.editor.edit(bytes)?),
            batch @ TapeItem::Batch(_) => batch,
        };
        let Some(tape) = &mut self.tape else { return Ok(()) };
        match tape.write(item).await {
            Err(error) => Err(self.explain(error).await),
            Ok(()) => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<(), TapeError> {
        if let Some(mut tape) = self.tape.take()
            && let Err(error) = tape.finish().await
        {
            return Err(self.explain(error).await);
        }
        let status = self.xl.end().await.map_err(|error| self.failed(error.to_string()))?;
        if !status.success() {
            let words = self.xl.last_words();
            return Err(self.failed(format!("xl failed ({status}): {words}")));
        }
        self.done = true;
        Ok(())
    }
}

struct New {
    toolstack: Toolstack,
    entry: Entry,
    /// The domains there were before.
    before: Vec<u32>,
    stream: RestoreStream,
}

impl New {
    /// The domain that xl has made, if it is there: one that merely has the same name is another's.
    async fn domain(&mut self) -> Result<Option<Domain>, HypervisorError> {
        let mut domains = self.toolstack.xl.domains().await?.into_iter();
        Ok(domains.find(|domain| domain.uuid == self.entry.uuid && !self.before.contains(&domain.id)))
    }

    /// Lets the new guest run. One that cannot be let run is removed; its image has all of it.
    async fn unpause(&mut self, domain: &Domain) -> Result<(), HypervisorError> {
        let Err(failure) = self.toolstack.xl.act("unpause", domain).await else { return Ok(()) };
        let now = self.toolstack.same(domain).await?;
        if !now.never_ran() {
            return Ok(());
        }
        self.toolstack.xl.act("destroy", domain).await?;
        self.toolstack.forget(&self.entry)?;
        Err(failure)
    }
}

#[async_trait]
impl NewGuest for New {
    fn writer(&mut self) -> &mut dyn GuestWriter {
        &mut self.stream
    }

    async fn start(mut self: Box<Self>) -> Result<(), HypervisorError> {
        let domain = self.domain().await?;
        let domain =
            domain.ok_or_else(|| unavailable("xl said that it made the guest, but it is not there"))?;
        self.entry.step = Step::Held;
        self.entry.domid = Some(domain.id);
        self.toolstack.note(&self.entry)?;
        if !self.toolstack.plan.start_paused {
            self.unpause(&domain).await?;
        }
        if let Err(error) = self.toolstack.forget(&self.entry) {
            // The guest is there and runs: a restore that is called failed would be tried again.
            tracing::warn!(%error, guest = domain.name, "the journal still has a guest that was restored");
        }
        Ok(())
    }

    async fn discard(mut self: Box<Self>) -> Result<(), HypervisorError> {
        // With the pipe closed, xl gives up and removes what it has made.
        self.stream.tape = None;
        if !self.stream.done {
            let ended = self.stream.xl.end().await;
            ended.map_err(|error| unavailable(&format!("cannot wait for xl: {error}")))?;
        }
        if let Some(domain) = self.domain().await? {
            if !domain.never_ran() {
                let problem = "it has run already, so it is somebody else's, or somebody let it run: it was left alone, see comio recover";
                return Err(refused("remove", &domain, problem));
            }
            self.toolstack.xl.act("destroy", &domain).await?;
        }
        self.toolstack.forget(&self.entry)
    }
}
