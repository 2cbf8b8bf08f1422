//! Bounds that make a scenario a regression test.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, words};
use crate::report::{Phase, Resource, Run};
use crate::units::{Size, Span};

/// One `[[expect]]` block: which runs it is about, and the bounds they must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    /// Runs of this method; all methods if absent.
    pub method: Option<Method>,
    /// Runs of this operation; all if absent.
    pub operation: Option<Phase>,
    /// Runs at this point of the sweep, or of this night; all if absent.
    pub point: Option<String>,
    /// The longest makespan.
    pub makespan_max: Option<Span>,
    /// The shortest makespan: a run below it did not do its work.
    pub makespan_min: Option<Span>,
    /// The most bytes stored.
    pub stored_max: Option<Size>,
    /// Least guest bytes per stored byte.
    pub ratio_min: Option<f64>,
    /// The most guests that miss the scenario's deadline.
    #[serde(default, deserialize_with = "words::some_count")]
    pub late_max: Option<usize>,
    /// The makespan is shorter than this method's, for the same operation and guests.
    pub faster_than: Option<Method>,
    /// The resource that alone would take longest (virtual mode).
    pub limited_by: Option<Resource>,
    /// The longest makespan, in what that resource alone would take: 1.05 is 5 % more (virtual
    /// mode).
    pub of_limit_max: Option<f64>,
}

/// A bound that a run missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{run}: {problem}")]
pub struct Missed {
    /// Which run.
    pub run: String,
    /// The bound and the figure.
    pub problem: String,
}

impl Expectation {
    /// Whether it bounds anything.
    pub(super) fn has_bound(&self) -> bool {
        self.makespan_max.is_some()
            || self.makespan_min.is_some()
            || self.stored_max.is_some()
            || self.ratio_min.is_some()
            || self.late_max.is_some()
            || self.faster_than.is_some()
            || self.is_about_limits()
    }

    /// The bounds that `runs` missed. An expectation that fits no run is missed too: it would
    /// otherwise pass by a slip of the pen.
    pub fn check(&self, runs: &[Run]) -> Vec<Missed> {
        let mine: Vec<&Run> = runs.iter().filter(|run| self.is_about(run)).collect();
        if mine.is_empty() {
            return vec![Missed {
                run: "no run".to_owned(),
                problem: format!("nothing was measured for {self:?}"),
            }];
        }
        mine.into_iter().flat_map(|run| self.check_run(run, runs)).collect()
    }

    fn is_about(&self, run: &Run) -> bool {
        self.method.is_none_or(|method| method == run.method)
            && self.operation.is_none_or(|operation| operation == run.operation)
            && (self.point.is_none() || self.point == run.point)
    }

    fn check_run(&self, run: &Run, runs: &[Run]) -> Vec<Missed> {
        let seconds = |span: Span| span.duration().as_secs_f64();
        let mut problems = Vec::new();
        if let Some(max) = self.makespan_max
            && run.makespan_s > seconds(max)
        {
            problems.push(format!("took {:.3} s, at most {max} expected", run.makespan_s));
        }
        if let Some(min) = self.makespan_min
            && run.makespan_s < seconds(min)
        {
            problems.push(format!("took {:.3} s, at least {min} expected", run.makespan_s));
        }
        if let Some(max) = self.stored_max
            && run.stored_bytes > max.0
        {
            problems.push(format!("stored {} bytes, at most {max} expected", run.stored_bytes));
        }
        if let Some(min) = self.ratio_min
            && run.ratio() < min
        {
            problems.push(format!("shrank {:.3} times, at least {min} expected", run.ratio()));
        }
        if let Some(max) = self.late_max
            && run.late.is_none_or(|late| late > max)
        {
            let late = run.late.map_or("an unknown number of".to_owned(), |late| late.to_string());
            problems.push(format!("{late} guests are late, at most {max} expected"));
        }
        if let Some(other) = self.faster_than {
            problems.extend(slower_than(run, other, runs));
        }
        problems.extend(self.beyond_limits(run));
        problems.into_iter().map(|problem| Missed { run: run.label(), problem }).collect()
    }
}

impl Expectation {
    /// Whether it is about limits, which only models know.
    pub(super) fn is_about_limits(&self) -> bool {
        self.limited_by.is_some() || self.of_limit_max.is_some()
    }

    /// What is not as expected of the run's limit.
    fn beyond_limits(&self, run: &Run) -> Option<String> {
        if !self.is_about_limits() {
            return None;
        }
        let Some((resource, seconds)) = run.limit() else {
            return Some("no limits are known, which are expected".to_owned());
        };
        let name = resource.name();
        if let Some(expected) = self.limited_by.filter(|expected| *expected != resource) {
            return Some(format!("is limited by the {name}, not by the {}", expected.name()));
        }
        let max = self.of_limit_max.filter(|max| run.makespan_s > seconds * max)?;
        let taken = run.makespan_s / seconds;
        Some(format!("took {taken:.3} times what the {name} alone would, at most {max} expected"))
    }
}

fn slower_than(run: &Run, other: Method, runs: &[Run]) -> Option<String> {
    let same_task = |candidate: &&Run| {
        candidate.method == other
            && candidate.operation == run.operation
            && candidate.guests == run.guests
            && candidate.point == run.point
    };
    let Some(rival) = runs.iter().find(same_task) else {
        return Some(format!("should be faster than {other}, which was not measured"));
    };
    (run.makespan_s >= rival.makespan_s)
        .then(|| format!("took {:.3} s, {other} took {:.3} s", run.makespan_s, rival.makespan_s))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::Limits;
    use crate::report::test::runs;

    fn expectation(text: &str) -> Expectation {
        toml::from_str(text).unwrap()
    }

    fn problems(text: &str) -> usize {
        expectation(text).check(&runs()).len()
    }

    #[test]
    fn kept_bounds_are_silent() {
        assert_eq!(problems("makespan-max = \"10 s\""), 0);
        assert_eq!(problems("method = \"comio\"\nratio-min = 4.0\nstored-max = \"256 MiB\""), 0);
        assert_eq!(problems("method = \"comio\"\nfaster-than = \"raw\""), 0);
    }

    #[test]
    fn each_missed_bound_is_told() {
        assert_eq!(problems("makespan-max = \"9500 ms\""), 1);
        assert_eq!(problems("operation = \"save\"\nmakespan-min = \"3 s\""), 1);
        assert_eq!(problems("method = \"comio\"\nratio-min = 4.1\nstored-max = \"1 MiB\""), 4);
        assert_eq!(problems("method = \"raw\"\nfaster-than = \"comio\""), 2);
        assert_eq!(problems("method = \"raw\"\noperation = \"save\"\nlate-max = 3"), 1);
    }

    #[test]
    fn runs_are_held_to_their_limits() {
        let limited = |text: &str| {
            let mut runs = runs();
            for run in &mut runs {
                run.limits =
                    Some(Limits { link_s: run.makespan_s / 1.04, cores_s: 0.1, ..Limits::default() });
            }
            expectation(text).check(&runs).len()
        };
        assert_eq!(limited("limited-by = \"server-link\"\nof-limit-max = 1.05"), 0);
        assert_eq!(limited("limited-by = \"host-cores\""), 4);
        assert_eq!(limited("of-limit-max = 1.03\noperation = \"save\""), 2);
        assert_eq!(problems("of-limit-max = 1.05"), 4, "limits that are not known are missed");
    }

    #[test]
    fn an_expectation_about_nothing_is_missed() {
        assert_eq!(problems("method = \"lz4\"\nratio-min = 1.0"), 1);
        assert_eq!(problems("method = \"raw\"\nfaster-than = \"lz4\""), 2);
    }
}
