//! Virtual mode: the same engine on an event clock and models of everything around it.

pub mod calibrate;
pub mod clock;
pub mod coder;
pub mod cost;
mod faults;
pub mod fluid;
pub mod guest;
pub mod machine;
pub mod network;
pub(crate) mod pipe;
pub mod sample;
pub mod server;
pub(crate) mod site;
pub mod storage;
pub mod usage;

#[cfg(test)]
mod fluid_test;
