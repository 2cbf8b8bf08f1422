//! Guests moved by the engine, for real or modelled.

use std::sync::Arc;

use async_trait::async_trait;
use comio_core::engine::{self, Engine, EngineError, Progress, SaveOptions};
use comio_core::storage::Storage;

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
}

impl EngineMover {
    fn image(&self) -> String {
        format!("{}.comio", self.guest)
    }
}

#[async_trait]
impl Mover for EngineMover {
    async fn save(&self) -> Result<u64, EngineError> {
        let options = SaveOptions { uuid: self.uuid, created_unix_s: 0, replace: false };
        let (image, progress) = (self.image(), Progress::default());
        let (engine, storage, hypervisor) = (&self.engine, &*self.storage, &self.hypervisor);
        let saved = engine::save_guest(engine, hypervisor, &self.guest, storage, &image, &options, &progress);
        Ok(saved.await?.stored_bytes)
    }

    async fn restore(&self) -> Result<(), EngineError> {
        let (image, progress) = (self.image(), Progress::default());
        let (storage, hypervisor) = (&*self.storage, &self.hypervisor);
        engine::restore_guest(&self.engine, storage, &image, hypervisor, &self.guest, &progress).await?;
        Ok(())
    }

    async fn remove_image(&self) -> Result<(), EngineError> {
        Ok(self.storage.remove(&self.image()).await?)
    }

    fn identical(&self) -> Option<bool> {
        match self.hypervisor.state(&self.guest) {
            Some(GuestState::Restored { identical }) => Some(identical),
            _ => None,
        }
    }
}
