//! What is known of a trace beside its images.

use anyhow::{Context, bail};
use comio_core::buffer::{Buffer, Payload};
use comio_core::storage::{CreateOptions, Storage, StorageErrorKind};
use serde::{Deserialize, Serialize};

/// The largest file of notes that is read, in bytes: a million steps.
const NOTES_BYTES_MAX: u64 = 256 << 20;

/// A trace's notes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// What the guest was called.
    pub(crate) guest: String,
    /// How far the steps were to lie apart, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) every_s: Option<f64>,
    /// One for each step, in order.
    pub(crate) steps: Vec<Step>,
}

/// What is known of a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The uuid of its image.
    pub(crate) uuid: String,
    /// When it was taken, in seconds from the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_s: Option<f64>,
    /// How, if `comio record` took it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) recorded: Option<Recorded>,
}

/// How a running guest's step was taken.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// How long the guest stood still for it, in milliseconds.
    pub(crate) paused_ms: f64,
    /// Pages that were copied out of the guest, in all rounds.
    pub(crate) copied_pages: u64,
    /// Pages whose contents differ from the step before.
    pub(crate) changed_pages: u64,
}

fn file_name(trace: &str) -> String {
    format!("{trace}.trace.json")
}

impl Notes {
    /// The notes of `trace`, if there are any.
    pub(crate) async fn read(storage: &dyn Storage, trace: &str) -> anyhow::Result<Option<Self>> {
        let name = file_name(trace);
        let reader = match storage.open(&name).await {
            Ok(reader) => reader,
            Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if reader.len() > NOTES_BYTES_MAX {
            bail!("{name} has {} bytes: no notes of a trace are that long", reader.len());
        }
        let len = usize::try_from(reader.len())?;
        let bytes = reader.read_at(0, len, Buffer::unpooled(vec![0; len])).await?.into_bytes()?;
        Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{name} is no notes of a trace"))?))
    }

    /// Writes them beside the trace, in place of the ones that were there.
    pub(crate) async fn write(&self, storage: &dyn Storage, trace: &str) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let unique = u64::from(std::process::id());
        let options = CreateOptions { replace: true, held_bytes_max: 2 * bytes.len(), unique };
        let writer = storage.create(&file_name(trace), options).await?;
        let written = async {
            writer.write_at(0, Payload::Bytes(Buffer::unpooled(bytes))).await?;
            writer.sync().await
        };
        if let Err(error) = written.await {
            // The first failure is what the user must know.
            let _ = writer.abandon().await;
            return Err(error.into());
        }
        Ok(writer.publish().await?)
    }

    /// Removes them.
    pub(crate) async fn remove(storage: &dyn Storage, trace: &str) -> anyhow::Result<()> {
        Ok(storage.remove(&file_name(trace)).await?)
    }
}
