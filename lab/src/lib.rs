//! The codec laboratory: every coder on the same pages of real guests in the same run.
//!
//! `comio bench codec` is its face. It is a crate of its own so that the peers, some of which
//! are C, are dependencies of no product code.

mod coder;
mod envelope;
mod front;
mod limits;
mod measure;
mod ours;
mod peers;
mod plot;
mod report;
mod set;

pub use coder::{CoderName, UNIT_PAGES};
pub use measure::Row;
pub use report::Report;
pub use set::{Sampler, Set};

/// A measurement that failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A coder that gave back something else.
    #[error("{coder} does not give back a unit of {set}: its figures would mean nothing")]
    Changed {
        /// The coder.
        coder: String,
        /// Where.
        set: String,
    },
    /// There is no page to measure.
    #[error("{set} has no page but such of one word all over")]
    Empty {
        /// Which.
        set: String,
    },
    /// A plot could not be drawn.
    #[error("cannot draw the plot of units of {unit_pages} pages: {problem}")]
    Plot {
        /// Which.
        unit_pages: usize,
        /// What plotters said.
        problem: String,
    },
}

/// Measures all coders on all sets at all sizes of units, each `rounds` times.
///
/// `tell` is told what is measured now.
///
/// # Errors
/// A set without pages; a coder that does not give back what it was given.
pub fn run(sets: &[Set], rounds: usize, tell: &dyn Fn(&str)) -> Result<Report, LabError> {
    measure::pin();
    let mut report = Report::default();
    for set in sets {
        if set.memory.is_empty() {
            return Err(LabError::Empty { set: set.name.clone() });
        }
        for unit_pages in UNIT_PAGES {
            tell(&format!("{}, units of {unit_pages} pages", set.name));
            report.add(measure::measure(set, unit_pages, rounds)?);
        }
    }
    tell("zeros and noise");
    report.limits = limits::text(rounds);
    Ok(report)
}
