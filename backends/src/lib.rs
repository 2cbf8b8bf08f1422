//! Backends of ComIO: what is real at either end of the engine.

pub mod embedded;
pub mod local;
pub mod netns;
pub mod nfs;
pub mod pool;
pub mod record;
pub mod tape;
pub mod toolstack;
pub mod xen;
