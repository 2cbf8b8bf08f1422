//! A trace being made: step after step, each upon the one before.

use std::sync::Arc;

use anyhow::bail;
use comio_core::engine::{Foundation, Image, Relative, SaveReport};
use comio_core::storage::Storage;

use super::notes::{Notes, Recorded, Step};
use super::{find, step_name};

/// Numbers the steps of a trace and keeps its notes.
pub(crate) struct TraceWriter {
    storage: Arc<dyn Storage>,
    name: String,
    notes: Notes,
}

impl TraceWriter {
    /// Begins the trace `name`, which must not exist.
    pub(crate) async fn begin(
        storage: Arc<dyn Storage>,
        name: String,
        guest: String,
        every_s: Option<f64>,
    ) -> anyhow::Result<Self> {
        comio_core::storage::check_name(&step_name(&name, u32::MAX), "make a trace of")?;
        if let Some(there) = find(&*storage).await?.into_iter().find(|found| found.name == name) {
            bail!(
                "there is a trace {name:?} of {} steps in {} already: remove it (comio rm), or choose \
                 another name",
                there.steps.len(),
                storage.location()
            );
        }
        Ok(Self { storage, name, notes: Notes { guest, every_s, steps: Vec::new() } })
    }

    /// Where its steps go.
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// How many steps there are.
    pub(crate) fn len(&self) -> u32 {
        // A step's number is in its name: 32 bits, as checked when it is named.
        u32::try_from(self.notes.steps.len()).unwrap_or(u32::MAX)
    }

    /// The name of the next step's image.
    pub(crate) fn next_name(&self) -> String {
        step_name(&self.name, self.len())
    }

    /// The last step, opened.
    pub(crate) async fn last(&self) -> anyhow::Result<Option<Relative>> {
        let Some(last) = self.len().checked_sub(1) else { return Ok(None) };
        let name = step_name(&self.name, last);
        let image = Image::open_with_ancestors(&*self.storage, &name, &[]).await?;
        Ok(Some(Relative { name, image }))
    }

    /// What the next step rests on: the last one, if there is one.
    pub(crate) async fn foundation(&self) -> anyhow::Result<Option<Foundation>> {
        Ok(match self.last().await? {
            Some(last) => Some(Foundation::new(Some(last), None)?),
            None => None,
        })
    }

    /// The next step's image is there: notes it.
    pub(crate) async fn add(
        &mut self,
        report: &SaveReport,
        at_s: Option<f64>,
        recorded: Option<Recorded>,
    ) -> anyhow::Result<()> {
        let uuid = uuid::Uuid::from_bytes(report.uuid).to_string();
        self.notes.steps.push(Step { uuid, at_s, recorded });
        self.notes.write(&*self.storage, &self.name).await
    }

    /// Removes all of it.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        for step in (0..self.len()).rev() {
            self.storage.remove(&step_name(&self.name, step)).await?;
        }
        if self.len() > 0 {
            Notes::remove(&*self.storage, &self.name).await?;
        }
        Ok(())
    }
}
