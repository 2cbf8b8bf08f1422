//! Domains under our hands: Xen's control library behind a small safe interface.
//!
//! [`Control`] lists, pauses and unpauses domains and notes which pages they write to
//! (`interface`), `foreign` maps their memory, `p2m` finds a PV guest's frames,
//! `store` asks Xen's store for names and sizes. [`XenGuest`] puts these together as a
//! [`LiveGuest`](crate::record::LiveGuest); `marker` is what a killed recording leaves
//! behind, so that the next one can set right what it left.
//!
//! The libraries are linked (`libxenctrl`, `libxenforeignmemory`), and the first is of one
//! version of Xen: a program built with the feature `xen` goes with the Xen that it was built
//! against. Where that does not run, [`Control::open`] says so.
//!
//! All `unsafe` of it is in `interface` and `foreign`.

mod cpu;
mod foreign;
mod guest;
mod interface;
mod marker;
mod p2m;
mod store;

pub(crate) use cpu::with_cpu_time;
pub use guest::XenGuest;
pub use interface::{Control, Domain, Kind};
pub use marker::{are_some_left, free_those_of_killed};
