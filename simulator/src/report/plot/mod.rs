//! Plots as SVG, drawn with plotters.

mod bars;
mod curves;
mod lanes;

use plotters::style::RGBColor;

use super::{Phase, Results, Run};
use crate::scenario::Method;

pub(super) use bars::{BarChart, Group};
pub(super) use curves::{Curve, CurveChart};
pub(super) use lanes::LaneChart;

/// A plot that could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw the plot {title:?}: {problem}")]
pub struct PlotError {
    title: String,
    problem: String,
}

impl PlotError {
    fn new(title: &str, problem: &dyn std::error::Error) -> Self {
        Self { title: title.to_owned(), problem: problem.to_string() }
    }
}

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
/// Distinguishable for the colour-blind (Okabe and Ito), then darker shades of the same.
const COLOURS: [RGBColor; 11] = [
    RGBColor(0x00, 0x5f, 0x9e),
    RGBColor(0xe0, 0x8e, 0x1b),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x3f, 0x8a),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x6b, 0x72, 0x80),
    RGBColor(0x9a, 0x7b, 0x00),
    RGBColor(0x00, 0x5c, 0x43),
    RGBColor(0x7a, 0x1f, 0x4f),
    RGBColor(0x1f, 0x29, 0x37),
];

/// The plots of `results`, with their file names.
pub(super) fn charts(results: &Results) -> Result<Vec<(String, String)>, PlotError> {
    let mut charts = Vec::new();
    if results.parameter.is_some() {
        for phase in results.phases() {
            charts.push((format!("makespan-{}.svg", phase.name()), makespan_curves(results, phase).svg()?));
        }
        charts.push(("stored.svg".to_owned(), stored_curves(results).svg()?));
    } else {
        charts.push(("makespan.svg".to_owned(), makespan_bars(results).svg()?));
        charts.push(("stored.svg".to_owned(), stored_bars(&results.runs).svg()?));
    }
    Ok(charts)
}

/// How many guests of which size took part in `runs`.
pub(super) fn herd(runs: &[Run]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let mib = run.guest_bytes / run.guests.max(1) as u64 / (1 << 20);
    format!("{} guests of {mib} MiB", run.guests)
}

fn makespan_bars(results: &Results) -> BarChart {
    let runs = &results.runs;
    let phases = results.phases();
    let bar = |method, phase: &Phase| {
        let run = runs.iter().find(|run| run.method == method && run.operation == *phase);
        run.map_or((0.0, "not measured".to_owned()), |run| {
            let goodput = run.goodput_bytes_per_s / f64::from(1 << 20);
            (run.makespan_s, format!("{:.2} s  ({goodput:.0} MiB/s)", run.makespan_s))
        })
    };
    let group = |method: Method| Group {
        label: method.title().to_owned(),
        bars: phases.iter().map(|phase| bar(method, phase)).collect(),
    };
    BarChart {
        title: "Time until the last guest is done".to_owned(),
        subtitle: format!("{}; shorter is better", herd(runs)),
        groups: results.methods().into_iter().map(group).collect(),
        series: phases.iter().map(|phase| phase.name().to_owned()).collect(),
    }
}

/// The storage that each method took, in `runs` of one point.
#[expect(clippy::cast_precision_loss, reason = "lengths of bars")]
pub(super) fn stored_bars(runs: &[Run]) -> BarChart {
    let size = |method| {
        let run = runs.iter().find(|run| run.method == method);
        run.map_or((0.0, String::new()), |run| {
            let mib = run.stored_bytes as f64 / f64::from(1 << 20);
            (mib, format!("{mib:.0} MiB  (ratio {:.2})", run.ratio()))
        })
    };
    let group = |method: Method| Group { label: method.title().to_owned(), bars: vec![size(method)] };
    BarChart {
        title: "Storage taken".to_owned(),
        subtitle: format!("{}; shorter is better", herd(runs)),
        groups: super::methods_of(runs).into_iter().map(group).collect(),
        series: vec!["stored".to_owned()],
    }
}

/// Makespan over the sweep, with what the busiest resource alone would take.
fn makespan_curves(results: &Results, phase: Phase) -> CurveChart {
    let mut curves = Vec::new();
    for (colour, method) in results.methods().into_iter().enumerate() {
        let curve = |name: String, dashed, value: fn(&Run) -> Option<f64>| Curve {
            name,
            colour,
            dashed,
            points: results.along_the_sweep(method, phase, value),
        };
        curves.push(curve(method.title().to_owned(), false, |run| Some(run.makespan_s)));
        curves.push(curve(String::new(), true, |run| run.limits.map(|limits| limits.longest().1)));
    }
    CurveChart {
        title: format!("Time until the last guest is {}d", phase.name()),
        subtitle: "dashed: what the busiest resource alone would take".to_owned(),
        x_name: results.parameter.clone().unwrap_or_default(),
        x_labels: results.points(),
        y_name: "seconds".to_owned(),
        curves,
    }
}

fn stored_curves(results: &Results) -> CurveChart {
    let phase = results.phases().first().copied().unwrap_or(Phase::Save);
    #[expect(clippy::cast_precision_loss, reason = "points of a plot")]
    let gib = |run: &Run| Some(run.stored_bytes as f64 / f64::from(1 << 30));
    let curve = |(colour, method): (usize, Method)| Curve {
        name: method.title().to_owned(),
        colour,
        dashed: false,
        points: results.along_the_sweep(method, phase, gib),
    };
    CurveChart {
        title: "Storage taken".to_owned(),
        subtitle: "by all images together".to_owned(),
        x_name: results.parameter.clone().unwrap_or_default(),
        x_labels: results.points(),
        y_name: "GiB".to_owned(),
        curves: results.methods().into_iter().enumerate().map(curve).collect(),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::test::{results, swept};

    #[test]
    fn bars_show_every_method_and_figure() {
        let charts = charts(&results()).unwrap();
        let (name, svg) = &charts[0];
        assert_eq!(name, "makespan.svg");
        for text in ["raw", "ComIO", "10.00 s", "2.50 s", "save", "restore"] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn a_sweep_gives_curves_with_its_values() {
        let charts = charts(&swept()).unwrap();
        let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["makespan-save.svg", "makespan-restore.svg", "stored.svg"]);
        for text in ["guests.count", "seconds", "raw", "ComIO", "polyline"] {
            assert!(charts[0].1.contains(text), "{text} is missing");
        }
    }
}
