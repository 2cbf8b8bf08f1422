//! What to do with guests that an interrupted comio has left.

use comio_core::hypervisor::HypervisorError;

use super::domain::Domain;
use super::journal::{Entry, Journal, Operation, Step};
use super::xl::Xl;
use super::{held, journal_error, refused};

/// The state that an interrupted operation has left a guest in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A process still works on it: hands off.
    InWork,
    /// The process is gone, and its xl has not come to its end yet: hands off until then.
    Ending,
    /// The host was started anew, or the guest is gone: nothing to do.
    Gone,
    /// It runs.
    Runs(Domain),
    /// It is neither paused nor runs: suspended by an xl that was killed, shut down or crashed.
    Stopped(Domain),
    /// It is paused.
    Paused {
        /// It.
        domain: Domain,
        /// All of it was read out, and nothing shows that it ran since.
        unchanged: bool,
    },
}

/// Guests in the journal, and what may be done with them.
#[derive(Debug)]
pub struct Recovery {
    xl: Xl,
    journal: Journal,
    domains: Vec<Domain>,
}

impl Recovery {
    /// Looks at the host.
    ///
    /// # Errors
    /// [`HypervisorError::Unavailable`].
    pub async fn new(xl: Xl, journal: Journal) -> Result<Self, HypervisorError> {
        let domains = xl.domains().await?;
        Ok(Self { xl, journal, domains })
    }

    /// What became of the guest of `entry`.
    pub fn find(&self, entry: &Entry) -> Found {
        if !entry.is_of_this_boot() {
            return Found::Gone;
        }
        if entry.process.is_alive() {
            return Found::InWork;
        }
        if entry.is_ending() {
            return Found::Ending;
        }
        let same = |domain: &&Domain| {
            domain.uuid == entry.uuid && entry.domid.is_none_or(|domid| domid == domain.id)
        };
        match self.domains.iter().find(same) {
            None => Found::Gone,
            Some(domain) if domain.is_paused() => {
                Found::Paused { domain: domain.clone(), unchanged: held(entry, &self.domains).is_ok() }
            }
            Some(domain) if domain.is_running() => Found::Runs(domain.clone()),
            Some(domain) => Found::Stopped(domain.clone()),
        }
    }

    /// Lets a guest run on. It stays in the journal, see [`forget`](Self::forget).
    ///
    /// # Errors
    /// [`HypervisorError`].
    pub async fn let_run(&self, domain: &Domain) -> Result<(), HypervisorError> {
        self.xl.let_run(domain).await
    }

    /// Destroys a guest: one whose image is complete, or a half-restored one that never ran.
    ///
    /// # Errors
    /// [`HypervisorError::Refused`] if something shows that it ran.
    pub async fn destroy(&self, entry: &Entry) -> Result<(), HypervisorError> {
        let domains = self.xl.domains().await?;
        let half_made = entry.operation == Operation::Restore && entry.step == Step::Streaming;
        let domain = if half_made {
            let there = domains.iter().find(|domain| domain.uuid == entry.uuid);
            let domain = there.ok_or_else(|| HypervisorError::NotFound(entry.name.clone()))?;
            if !domain.never_ran() {
                return Err(refused("remove", domain, "it ran since it was restored, and was left alone"));
            }
            domain
        } else {
            held(entry, &domains)?
        };
        self.xl.act("destroy", domain).await?;
        self.forget(entry)
    }

    /// Nothing is left to do for the guest of `entry`.
    ///
    /// # Errors
    /// [`HypervisorError::Unavailable`].
    pub fn forget(&self, entry: &Entry) -> Result<(), HypervisorError> {
        self.journal.remove(&entry.uuid).map_err(|error| journal_error(&error))
    }
}
