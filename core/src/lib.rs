//! What a ComIO image is, how pages are coded (ECBC), and the engine that moves a guest
//! between a hypervisor and a storage.
//!
//! This crate knows no backend: hypervisors, storages, cores and coders are traits (the
//! *ports*), implemented by `comio-backends` for real and by `comio-simulator` for the
//! testbed. It spawns nothing, reads no clock, opens nothing and draws no random number;
//! `clippy.toml` at the root enforces that.

pub mod buffer;
pub mod compute;
pub mod ecbc;
pub mod engine;
pub mod format;
pub mod hypervisor;
pub mod moment;
pub mod page_set;
pub mod segment;
pub mod storage;
pub mod tape;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// Bytes in a guest page. Images of other page sizes are refused.
pub const PAGE_SIZE: usize = 4096;

/// Pages in the largest segment: 4 MiB of guest memory, Xen's own batch.
pub const SEGMENT_PAGES: usize = 1024;

/// The contents of one guest page.
pub type Page = [u8; PAGE_SIZE];
