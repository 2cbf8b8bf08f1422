//! Virtual mode: the same engine on an event clock and models of everything around it.

pub mod clock;
pub mod fluid;
pub mod usage;

#[cfg(test)]
mod fluid_test;
