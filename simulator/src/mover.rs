//! Guests moved by the engine, for real or modelled.

use std::sync::Arc;

use async_trait::async_trait;
use comio_core::engine::{self, Engine, EngineError, Foundation, Image, Progress, Relative, SaveOptions};
use comio_core::storage::{Storage, StorageError, StorageErrorKind};

use crate::herd::Mover;
use crate::hypervisor::{GuestState, ReplayHypervisor};

/// The engine, with buffers of this guest's own: guests that shared them could wait for each
/// other's.
pub(crate) struct EngineMover {
    pub(crate) engine: Engine,
    pub(crate) hypervisor: ReplayHypervisor,
    pub(crate) guest: String,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) uuid: [u8; 16],
    /// The name of its image.
    pub(crate) image: String,
    /// What the image rests on.
    pub(crate) upon: Upon,
}

/// What a guest's image rests on.
#[derive(Clone)]
pub(crate) enum Upon {
    /// Nothing: it is complete by itself.
    Nothing,
    /// What is already open, for all guests of a host.
    Shared(Arc<Foundation>),
    /// The image of that name beside it, which is opened when the save begins.
    Parent(String),
}

impl Upon {
    async fn foundation(&self, storage: &dyn Storage) -> Result<Option<Arc<Foundation>>, EngineError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Shared(foundation) => Ok(Some(Arc::clone(foundation))),
            Self::Parent(name) => {
                let image = Image::open_with_ancestors(storage, name, &[]).await?;
                let parent = Relative { name: name.clone(), image };
                Ok(Some(Arc::new(Foundation::new(Some(parent), None)?)))
            }
        }
    }
}

#[async_trait]
impl Mover for EngineMover {
    async fn save(&self) -> Result<u64, EngineError> {
        let options = SaveOptions { uuid: self.uuid, created_unix_s: 0, replace: false };
        let (engine, storage, hypervisor) = (&self.engine, &*self.storage, &self.hypervisor);
        let progress = Progress::default();
        let foundation = self.upon.foundation(storage).await?;
        let saving = engine::save_guest_upon(
            engine,
            foundation.as_deref(),
            hypervisor,
            &self.guest,
            storage,
            &self.image,
            &options,
            None,
            &progress,
        );
        let report = saving.await?;
        match report.trouble {
            None => Ok(report.stored_bytes),
            // The image is whole, and not what was to be measured.
            Some(trouble) => {
                let kind = StorageErrorKind::Other;
                Err(StorageError::new(kind, "read what it rests on", &*self.image, trouble).into())
            }
        }
    }

    async fn restore(&self) -> Result<(), EngineError> {
        let (storage, hypervisor, progress) = (&*self.storage, &self.hypervisor, Progress::default());
        engine::restore_guest(&self.engine, storage, &self.image, hypervisor, &self.guest, &progress).await?;
        Ok(())
    }

    async fn remove_image(&self) -> Result<(), EngineError> {
        Ok(self.storage.remove(&self.image).await?)
    }

    fn identical(&self) -> Option<bool> {
        match self.hypervisor.state(&self.guest) {
            Some(GuestState::Restored { identical }) => Some(identical),
            _ => None,
        }
    }
}
