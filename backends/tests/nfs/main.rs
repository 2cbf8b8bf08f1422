//! Storages on trial: conformance, crashes at every point, a misbehaving NFS server, and a
//! real one.
//!
//! Tests that need nfs-ganesha return early unless `ci/nfs` runs them (it sets
//! `COMIO_GANESHA`, having installed what they need).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, tells what it skips, and its servers live in real time"
)]

mod conform;
mod crash;
mod ganesha;
mod guest;
mod lab;
mod misbehave;
mod misbehaving;
mod speed;

/// A directory for a test, in memory if there is such a place: many small saves sync often.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
