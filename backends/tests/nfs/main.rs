//! Storages on trial: conformance, crashes at every point, a misbehaving NFS server, and a
//! real one.
//!
//! Tests that need nfs-ganesha return early unless `ci/nfs` runs them (it sets
//! `COMIO_GANESHA`, having installed what they need).

mod conform;
mod crash;
mod ganesha;
mod guest;
mod lab;
mod misbehave;
mod misbehaving;
mod speed;
