//! Guests on a real Xen host, through the stock toolstack's program `xl`.
//!
//! A save reads what `xl save -p` writes to a pipe: the guest stays paused until its image is
//! durable and checked. When comio dies in the middle, xl finds nobody reading and lets the guest
//! run on; when it dies later, the guest is paused and the [`journal`] says so: see [`recovery`].
//! A restore feeds `xl restore -p`; when that ends early, xl removes what it has made.

mod domain;
pub mod journal;
pub mod recovery;
mod restoring;
mod saving;
mod xl;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comio_core::hypervisor::{GuestInfo, HeldGuest, Hypervisor, HypervisorError, NewGuest};
use comio_core::tape::TapeFormat;

pub use domain::{DOMAIN_0, Domain, find_domain};
pub use xl::Xl;

use crate::xen::SavedConfig;
use journal::{Entry, Journal, Operation, Process, Step};

/// xl and the journal, for one save or restore.
#[derive(Debug, Clone)]
pub struct Toolstack {
    xl: Xl,
    journal: Journal,
    plan: Plan,
    still: Arc<Mutex<Still>>,
}

/// When the guest stood still.
#[derive(Debug, Default, Clone, Copy)]
struct Still {
    from: Option<Instant>,
    to: Option<Instant>,
}

/// What is to be done, for the journal.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Save and what becomes of the guest then, or restore.
    pub operation: Operation,
    /// The image, as the user wrote it.
    pub image: String,
    /// The image's uuid.
    pub image_uuid: String,
    /// Of a restore: the guest in the image, under the name that it is to have.
    pub saved: Option<SavedConfig>,
    /// Of a restore: a configuration file for xl instead of the saved one.
    pub config: Option<PathBuf>,
    /// Of a restore: leave the guest paused.
    pub start_paused: bool,
}

impl Toolstack {
    /// A toolstack that will do what `plan` says.
    pub fn new(xl: Xl, journal: Journal, plan: Plan) -> Self {
        Self { xl, journal, plan, still: Arc::default() }
    }

    /// How long the guest of the last save stood still: from xl's start until it ran on or was
    /// destroyed.
    pub fn still(&self) -> Option<Duration> {
        let still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        Some(still.to?.duration_since(still.from?))
    }

    #[expect(clippy::disallowed_methods, reason = "the user is told how long the guest stood still")]
    fn stands_still(&self, stands: bool) {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        *(if stands { &mut still.from } else { &mut still.to }) = Some(Instant::now());
    }

    fn entry(&self, domid: Option<u32>, uuid: &str, name: &str) -> Result<Entry, HypervisorError> {
        let us = Process::of(std::process::id()).ok_or_else(|| unavailable("cannot read /proc"))?;
        let boot =
            journal::boot().map_err(|error| unavailable(&format!("cannot read the boot's id: {error}")))?;
        Ok(Entry {
            operation: self.plan.operation,
            step: Step::Streaming,
            domid,
            uuid: uuid.to_owned(),
            name: name.to_owned(),
            image: self.plan.image.clone(),
            image_uuid: self.plan.image_uuid.clone(),
            cpu_deciseconds: None,
            cpu_ns: None,
            process: us,
            xl: None,
            boot,
        })
    }

    /// Refuses a guest that the journal has already.
    fn refuse_if_in_hand(&self, uuid: &str, name: &str, action: &'static str) -> Result<(), HypervisorError> {
        let entry = self.journal.entry(uuid).map_err(|error| journal_error(&error))?;
        match entry.filter(Entry::is_of_this_boot) {
            Some(entry) => Err(in_hand(&entry, name, action)),
            None => Ok(()),
        }
    }

    /// Notes that a guest is in hand from here on, unless it is already.
    fn claim(&self, entry: &Entry, action: &'static str) -> Result<(), HypervisorError> {
        match self.journal.claim(entry).map_err(|error| journal_error(&error))? {
            Some(there) => Err(in_hand(&there, &entry.name, action)),
            None => Ok(()),
        }
    }

    fn note(&self, entry: &Entry) -> Result<(), HypervisorError> {
        self.journal.write(entry).map_err(|error| journal_error(&error))
    }

    fn forget(&self, entry: &Entry) -> Result<(), HypervisorError> {
        self.journal.remove(&entry.uuid).map_err(|error| journal_error(&error))
    }

    /// `domain` as it is now.
    async fn same(&self, domain: &Domain) -> Result<Domain, HypervisorError> {
        let now = self.xl.domains().await?.into_iter();
        now.into_iter()
            .find(|now| now.id == domain.id && now.uuid == domain.uuid)
            .ok_or_else(|| HypervisorError::NotFound(domain.name.clone()))
    }

    /// Sees to it that `domain` runs; the journal keeps one that does not.
    async fn run_on(&self, domain: &Domain, entry: &Entry) -> Result<(), HypervisorError> {
        self.xl.let_run(&self.same(domain).await?).await?;
        self.stands_still(false);
        self.forget(entry)
    }

    /// Destroys the guest of `entry`, if nothing shows that it ran since it was held.
    async fn destroy_held(&self, entry: &Entry) -> Result<(), HypervisorError> {
        let domains = self.xl.domains().await?;
        let destroyed = match held(entry, &domains) {
            Ok(domain) => self.xl.act("destroy", domain).await,
            Err(error) => Err(error),
        };
        destroyed.map_err(|error| with_advice(error, AFTER_IMAGE))?;
        self.stands_still(false);
        self.forget(entry)
    }
}

/// What to do when a guest could not be destroyed.
const AFTER_IMAGE: &str = "its image is whole; comio recover lets the guest run and marks the image, comio recover --finish destroys the guest";

fn with_advice(error: HypervisorError, advice: &str) -> HypervisorError {
    match error {
        HypervisorError::Refused { action, guest, problem } => {
            HypervisorError::Refused { action, guest, problem: format!("{problem} ({advice})") }
        }
        other => other,
    }
}

/// The refusal of a guest that `entry` has.
fn in_hand(entry: &Entry, name: &str, action: &'static str) -> HypervisorError {
    let problem = if entry.is_in_work() {
        format!("process {} is at work on it", entry.process.pid)
    } else {
        "an earlier save or restore of it was interrupted: run comio recover first".to_owned()
    };
    HypervisorError::Refused { action, guest: name.to_owned(), problem }
}

/// The domain of `entry` if it is still as it was when it was held.
fn held<'a>(entry: &Entry, domains: &'a [Domain]) -> Result<&'a Domain, HypervisorError> {
    let there = domains.iter().find(|domain| Some(domain.id) == entry.domid && domain.uuid == entry.uuid);
    let domain = there.ok_or_else(|| HypervisorError::NotFound(entry.name.clone()))?;
    let ran = "it is not as it was when its image was taken: somebody let it run since. It was left alone";
    let same_time = match (entry.cpu_ns, domain.cpu_ns) {
        (Some(then), Some(now)) => then == now,
        _ => entry.cpu_deciseconds == Some(domain.cpu_deciseconds),
    };
    if entry.step != Step::Held || !domain.is_paused() || !same_time {
        return Err(refused("destroy", domain, ran));
    }
    Ok(domain)
}

#[async_trait]
impl Hypervisor for Toolstack {
    async fn list(&self) -> Result<Vec<GuestInfo>, HypervisorError> {
        let domains = self.xl.domains().await?.into_iter().filter(|domain| domain.id != DOMAIN_0);
        Ok(domains
            .map(|domain| GuestInfo {
                running: domain.is_running(),
                memory_bytes: domain.memory_mib << 20,
                name: domain.name,
            })
            .collect())
    }

    /// `guest` is a number, a name or a uuid.
    async fn begin_save(&self, guest: &str) -> Result<Box<dyn HeldGuest>, HypervisorError> {
        let domains = self.xl.domains().await?;
        let domain = domain::find_domain(&domains, guest)?.clone();
        if domain.id == DOMAIN_0 {
            return Err(refused("save", &domain, "it is Xen's control domain"));
        }
        self.refuse_if_in_hand(&domain.uuid, &domain.name, "save")?;
        if domain.is_paused() {
            return Err(refused(
                "save",
                &domain,
                "it is paused, and must answer the request to suspend: xl unpause it first",
            ));
        }
        if !domain.is_running() {
            return Err(refused("save", &domain, &format!("it does not run (state {})", domain.state)));
        }
        let entry = self.entry(Some(domain.id), &domain.uuid, &domain.name)?;
        saving::begin(self, domain, entry)
    }

    async fn begin_restore(
        &self,
        guest: &str,
        format: TapeFormat,
    ) -> Result<Box<dyn NewGuest>, HypervisorError> {
        let saved = self.plan.saved.as_ref().filter(|_| format == TapeFormat::XEN_XL);
        let saved = saved.ok_or_else(|| HypervisorError::Refused {
            action: "restore",
            guest: guest.to_owned(),
            problem: "its image was not made from a Xen guest".to_owned(),
        })?;
        self.refuse_if_in_hand(&saved.uuid, &saved.name, "restore")?;
        let entry = self.entry(None, &saved.uuid, &saved.name)?;
        restoring::begin(self, saved, self.plan.config.as_deref(), entry).await
    }
}

fn refused(action: &'static str, domain: &Domain, problem: &str) -> HypervisorError {
    HypervisorError::Refused { action, guest: domain.name.clone(), problem: problem.to_owned() }
}

fn unavailable(problem: &str) -> HypervisorError {
    HypervisorError::Unavailable(problem.to_owned())
}

fn journal_error(error: &io::Error) -> HypervisorError {
    HypervisorError::Unavailable(format!("the journal of guests in hand cannot be kept: {error}"))
}

/// The state directory where none is named.
pub const STATE_DIRECTORY: &str = "/var/lib/comio";

/// Opens the journal in `directory`.
///
/// # Errors
/// [`HypervisorError::Unavailable`].
pub fn open_journal(directory: &Path) -> Result<Journal, HypervisorError> {
    Journal::open(directory).map_err(|error| {
        unavailable(&format!("cannot use the state directory {}: {error}", directory.display()))
    })
}
