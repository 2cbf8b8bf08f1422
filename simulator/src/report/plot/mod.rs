//! Plots as SVG, drawn with plotters.

mod bars;
mod curves;
mod lanes;

use plotters::style::RGBColor;

use super::{Phase, Results, Run};
use crate::scenario::Method;

pub(super) use bars::{Bar, BarChart, Group};
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
        for phase in moves(results) {
            charts.push((format!("makespan-{}.svg", phase.name()), makespan_curves(results, phase).svg()?));
        }
        if results.has_pages() {
            charts.push(("page.svg".to_owned(), page_curves(results).svg()?));
        }
        charts.push(("stored.svg".to_owned(), stored_curves(results).svg()?));
    } else {
        charts.push(("makespan.svg".to_owned(), makespan_bars(results).svg()?));
        if results.has_pages() {
            charts.push(("page.svg".to_owned(), page_bars(&results.runs).svg()?));
        }
        charts.push(("stored.svg".to_owned(), stored_bars(&results.runs).svg()?));
    }
    Ok(charts)
}

/// The operations that move whole guests: single pages are another matter.
fn moves(results: &Results) -> Vec<Phase> {
    results.phases().into_iter().filter(|phase| *phase != Phase::Extract).collect()
}

/// How many guests of which size took part in `runs`.
pub(super) fn herd(runs: &[Run]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let mib = run.guest_bytes / run.guests.max(1) as u64 / (1 << 20);
    format!("{} guests of {mib} MiB", run.guests)
}

fn makespan_bars(results: &Results) -> BarChart {
    let runs = &results.runs;
    let phases = moves(results);
    let bar = |method, phase: &Phase| {
        let run = runs.iter().find(|run| run.method == method && run.operation == *phase);
        let Some(run) = run else { return Bar { label: "not measured".to_owned(), ..Bar::default() } };
        let goodput = run.goodput_bytes_per_s / f64::from(1 << 20);
        let label = format!("{:.2} s  ({goodput:.0} MiB/s)", run.makespan_s);
        Bar { value: run.makespan_s, label, mark: run.limit().map(|limit| limit.1) }
    };
    let group = |method: Method| Group {
        label: method.title().to_owned(),
        bars: phases.iter().map(|phase| bar(method, phase)).collect(),
    };
    BarChart {
        title: "Time until the last guest is done".to_owned(),
        subtitle: format!("{}; shorter is better  {}", herd(runs), limits_are("mark", runs))
            .trim()
            .to_owned(),
        groups: results.methods().into_iter().map(group).collect(),
        series: phases.iter().map(|phase| phase.name().to_owned()).collect(),
    }
}

/// What stands for limits in a plot, if any is known.
fn limits_are(drawn: &str, runs: &[Run]) -> String {
    if runs.iter().any(|run| run.limit().is_some()) {
        format!("{drawn}: what the busiest resource alone would take")
    } else {
        String::new()
    }
}

/// The storage that each method took, in `runs` of one point.
#[expect(clippy::cast_precision_loss, reason = "lengths of bars")]
pub(super) fn stored_bars(runs: &[Run]) -> BarChart {
    let size = |method| {
        let run = runs.iter().find(|run| run.method == method);
        run.map_or_else(Bar::default, |run| {
            let mib = run.stored_bytes as f64 / f64::from(1 << 20);
            Bar { value: mib, label: format!("{mib:.0} MiB  (ratio {:.2})", run.ratio()), mark: None }
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
        curves.push(curve(String::new(), true, |run| run.limit().map(|limit| limit.1)));
    }
    CurveChart {
        title: format!("Time until the last guest is {}d", phase.name()),
        subtitle: limits_are("dashed", &results.runs),
        x_name: results.parameter.clone().unwrap_or_default(),
        x_labels: results.points(),
        y_name: "seconds".to_owned(),
        curves,
    }
}

const PAGE_TITLE: &str = "Time until one page is out of its image";

/// How long one page took, in the middle of all that had to be read.
fn median_page_us(run: &Run) -> Option<f64> {
    run.page_s.map(|pages| pages.median * 1e6)
}

fn page_bars(runs: &[Run]) -> BarChart {
    let measured = runs.iter().filter_map(|run| Some((run.method, median_page_us(run)?)));
    let group = |(method, us): (Method, f64)| Group {
        label: method.title().to_owned(),
        bars: vec![Bar { value: us, label: format!("{us:.0} us"), mark: None }],
    };
    BarChart {
        title: PAGE_TITLE.to_owned(),
        subtitle: "median; shorter is better".to_owned(),
        groups: measured.map(group).collect(),
        series: vec!["one page".to_owned()],
    }
}

fn page_curves(results: &Results) -> CurveChart {
    let curve = |(colour, method): (usize, Method)| Curve {
        name: method.title().to_owned(),
        colour,
        dashed: false,
        points: results.along_the_sweep(method, Phase::Extract, median_page_us),
    };
    CurveChart {
        title: PAGE_TITLE.to_owned(),
        subtitle: "median".to_owned(),
        x_name: results.parameter.clone().unwrap_or_default(),
        x_labels: results.points(),
        y_name: "us".to_owned(),
        curves: results.methods().into_iter().enumerate().map(curve).collect(),
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
    use crate::report::{Limits, Spread};

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
    fn bars_are_marked_where_the_limit_is_known() {
        let mut results = results();
        assert!(!charts(&results).unwrap()[0].1.contains("mark:"));
        let plain = charts(&results).unwrap()[0].1.matches("<rect").count();
        for run in &mut results.runs {
            run.limits = Some(Limits { link_s: run.makespan_s * 0.8, ..Limits::default() });
        }
        let (_, svg) = &charts(&results).unwrap()[0];
        assert!(svg.contains("mark: what the busiest resource alone would take"));
        assert_eq!(svg.matches("<rect").count(), plain + results.runs.len(), "one mark a bar");
    }

    #[test]
    fn single_pages_have_a_plot_of_their_own() {
        for (mut results, bars) in [(results(), true), (swept(), false)] {
            for run in results.runs.iter_mut().filter(|run| run.operation == Phase::Restore) {
                run.operation = Phase::Extract;
                run.page_s = Some(Spread { min: 0.001, median: 0.0025, max: 0.1 });
            }
            let charts = charts(&results).unwrap();
            let (_, svg) = charts.iter().find(|(name, _)| name == "page.svg").unwrap();
            assert!(svg.contains(if bars { "2500 us" } else { "guests.count" }) && svg.contains(PAGE_TITLE));
            assert!(charts.iter().all(|(name, svg)| name == "page.svg" || !svg.contains("extract")));
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
