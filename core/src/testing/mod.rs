//! What tests of every crate share: a storage in memory, a storage that fails or dies on
//! command, and the conformance suite that every storage must pass.

mod conformance;
mod faulty;
mod memory;

pub use conformance::conformance;
pub use faulty::{Fault, FaultyStorage};
pub use memory::MemoryStorage;
