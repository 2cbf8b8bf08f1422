//! Exit codes: what scripts can rely on.

use std::process::ExitCode;

use comio_core::engine::EngineError;
use comio_core::format::FormatError;

/// Text for `--help` and the man page.
pub(crate) const HELP: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the image is damaged, incomplete or no image; 4 a scenario missed an expectation; 130 stopped by a signal.";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The image is damaged, incomplete or no image at all.
    Damaged = 3,
    /// A scenario ran, and missed an expectation.
    Missed = 4,
    /// A signal ended it.
    Stopped = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit code of an error.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    let engine = error.chain().find_map(|cause| cause.downcast_ref::<EngineError>());
    let format = error.chain().find_map(|cause| cause.downcast_ref::<FormatError>());
    if matches!(engine, Some(EngineError::Stopped)) {
        return Exit::Stopped;
    }
    let no_image = matches!(engine, Some(EngineError::Format(FormatError::NotAnImage(_))));
    let damaged = engine.is_some_and(EngineError::is_damage) || format.is_some_and(FormatError::is_damage);
    if damaged || no_image { Exit::Damaged } else { Exit::Failed }
}
