//! The testbed: recorded guests, saved and restored by the engine that saves real ones.
//!
//! A scenario ([`scenario`]) says what is measured; the runner moves a herd of guests that
//! replay recorded memory ([`trace`], [`hypervisor`]) and reports what it took ([`report`]).
//! Everything real (storages, servers, threads, the clock) is handed in by the program
//! ([`world`]).

mod aging;
mod cast;
mod disguise;
mod herd;
pub mod hypervisor;
pub mod model;
mod mover;
pub mod replay;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod trace;
pub mod units;
pub mod world;

pub use herd::HerdError;
