//! Errors of scenario files: where, what, and what would be right.

use std::fmt;
use std::ops::Range;

/// A scenario file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ScenarioError {
    /// The file.
    pub file: String,
    /// Line and column, from 1, if a place is to blame.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl ScenarioError {
    /// An error at the bytes `span` of `text`.
    pub(super) fn at(file: &str, text: &str, span: Option<Range<usize>>, problem: String) -> Self {
        let place = span.map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
            (line, before[line_start..].chars().count() + 1)
        });
        Self { file: file.to_owned(), place, problem }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}
