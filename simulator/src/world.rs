//! What the program hands the runner: files, time, cores and servers.
//!
//! The simulator depends on `comio-core` alone, so everything real comes through here.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comio_core::compute::Compute;
use comio_core::engine::Image;
use comio_core::storage::Storage;

use crate::scenario::Scenario;

/// An error of the program's own, passed through.
pub type WorldError = Box<dyn Error + Send + Sync>;

/// The real world, as far as a scenario needs it.
#[async_trait]
pub trait World: Send + Sync {
    /// Time since any fixed moment; never runs backwards.
    fn now(&self) -> Duration;

    /// Waits.
    async fn sleep(&self, duration: Duration);

    /// How many cores this machine has for computing.
    fn cores(&self) -> usize;

    /// The identity of a new image: random.
    fn uuid(&self) -> [u8; 16];

    /// A pool of that many threads.
    fn compute(&self, workers: usize) -> Result<Arc<dyn Compute>, WorldError>;

    /// Opens the image of the trace `name`, with those beside it that it rests on.
    async fn trace(&self, name: &str) -> Result<Image, WorldError>;

    /// Starts the server of `scenario`, or reaches the one that its URL names.
    async fn start_server(&self, scenario: &Scenario) -> Result<Box<dyn RunningServer>, WorldError>;

    /// Tells what goes on, for people who wait.
    fn tell(&self, words: &str);
}

/// A server that can be used until it is stopped.
#[async_trait]
pub trait RunningServer: Send + Sync {
    /// A storage on it for host number `host`, over `connections` connections of its own.
    async fn connect(&self, host: usize, connections: usize) -> Result<Arc<dyn Storage>, WorldError>;

    /// Ends it and removes what an embedded server kept.
    async fn stop(self: Box<Self>) -> Result<(), WorldError>;
}
