//! What tests of every crate share: a storage in memory, a storage that fails or dies on
//! command, and the conformance suite that every storage must pass.

mod conformance;
mod faulty;
mod memory;

pub use conformance::{conformance, conformance_but_for_payloads};
pub use faulty::{Fault, FaultyStorage};
pub use memory::MemoryStorage;
