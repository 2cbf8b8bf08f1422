//! What to do with guests that an interrupted comio has left.

use comio_core::hypervisor::HypervisorError;

use super::domain::Domain;
use super::journal::{Entry, Journal, Operation, Step};
use super::xl::Xl;
use super::{held, journal_error, refused};

/// The state that an interrupted operation has left a guest in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A process still works on it, or xl does: hands off.
    InWork,
    /// The host was started anew, or the guest is gone: nothing to do.
    Gone,
    /// It runs.
    Runs(Domain),
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

    /// Looks again.
    ///
    /// # Errors
    /// [`HypervisorError::Unavailable`].
    pub async fn look_again(&mut self) -> Result<(), HypervisorError> {
        self.domains = self.xl.domains().await?;
        Ok(())
    }

    /// What became of the guest of `entry`.
    pub fn find(&self, entry: &Entry) -> Found {
        if !entry.is_of_this_boot() {
            return Found::Gone;
        }
        if entry.process.is_alive() || entry.xl.is_some_and(|xl| xl.is_alive()) {
            return Found::InWork;
        }
        let same = |domain: &&Domain| {
            domain.uuid == entry.uuid && entry.domid.is_none_or(|domid| domid == domain.id)
        };
        match self.domains.iter().find(same) {
            None => Found::Gone,
            Some(domain) if domain.is_paused() => {
                Found::Paused { domain: domain.clone(), unchanged: held(entry, &self.domains).is_ok() }
            }
            Some(domain) => Found::Runs(domain.clone()),
        }
    }

    /// Lets a paused guest run on. It stays in the journal, see [`forget`](Self::forget).
    ///
    /// # Errors
    /// [`HypervisorError`].
    pub async fn unpause(&self, domain: &Domain) -> Result<(), HypervisorError> {
        self.xl.act("unpause", domain).await
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
