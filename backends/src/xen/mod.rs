//! Xen save files as tapes, byte for byte.
//!
//! An `xl save` file is a nest of formats: xl's header, libxl's stream of records, and inside
//! it libxc's image, which holds the guest's memory. [`Parser`] takes the page contents out
//! and codes every other byte into the *frame*; [`Rebuilder`] puts the file together again.
//! Records are kept verbatim, known or not; only the pfn arrays of `PAGE_DATA` are coded, as
//! runs. The frame's coding is specified in `docs/frame-xen.md`.
//!
//! Both are synchronous, do no allocation that grows with the stream, and know nothing of
//! files; [`crate::tape`] runs them on the worker pool.

mod config;
#[cfg(feature = "xen")]
pub mod control;
mod format;
mod frame;
mod input;
mod parser;
mod rebuild;
mod tally;
#[cfg(test)]
mod test;
#[cfg(test)]
pub(crate) mod testing;

pub use config::{ConfigEditor, SavedConfig};
pub use format::{DETECT_LEN, is_xl};
pub use parser::{Parser, Step};
pub use rebuild::{Progress, Rebuilder};
pub use tally::{RecordTally, Tally};
