//! Plots as SVG, drawn with plotters.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Phase, Results, Run};

/// A plot that could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw the plot {title:?}: {problem}")]
pub struct PlotError {
    title: String,
    problem: String,
}

const WIDTH: u32 = 860;
const MARGIN: i32 = 24;
const TITLE_HEIGHT: i32 = 58;
const BAR_HEIGHT: i32 = 24;
const BAR_GAP: i32 = 6;
const GROUP_GAP: i32 = 18;
const LABEL_WIDTH: i32 = 130;
const VALUE_WIDTH: i32 = 190;
const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
/// Distinguishable for the colour-blind, and in grey.
const COLOURS: [RGBColor; 2] = [RGBColor(0x00, 0x5f, 0x9e), RGBColor(0xe0, 0x8e, 0x1b)];

/// Horizontal bars in labelled groups: one group a method, one bar a series.
#[derive(Debug, Clone, PartialEq)]
pub struct BarChart {
    title: String,
    subtitle: String,
    series: Vec<String>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq)]
struct Group {
    label: String,
    /// One for each series: the length, and what is written beside it.
    bars: Vec<(f64, String)>,
}

/// The plots of `results`, with their file names.
pub(super) fn charts(results: &Results) -> Vec<(String, BarChart)> {
    let mut points: Vec<Option<&str>> = results.runs.iter().map(|run| run.point.as_deref()).collect();
    points.dedup();
    if points.len() != 1 {
        return Vec::new();
    }
    vec![
        ("makespan.svg".to_owned(), makespan(&results.runs)),
        ("stored.svg".to_owned(), stored(&results.runs)),
    ]
}

fn herd(runs: &[Run]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let mib = run.guest_bytes / run.guests.max(1) as u64 / (1 << 20);
    format!("{} guests of {mib} MiB at once", run.guests)
}

fn makespan(runs: &[Run]) -> BarChart {
    let mut phases = Vec::new();
    for run in runs {
        if !phases.contains(&run.operation) {
            phases.push(run.operation);
        }
    }
    let bar = |method, phase: &Phase| {
        let run = runs.iter().find(|run| run.method == method && run.operation == *phase);
        run.map_or((0.0, "not measured".to_owned()), |run| {
            let goodput = run.goodput_bytes_per_s / f64::from(1 << 20);
            (run.makespan_s, format!("{:.2} s  ({goodput:.0} MiB/s)", run.makespan_s))
        })
    };
    let groups = methods(runs).map(|method| Group {
        label: method.title().to_owned(),
        bars: phases.iter().map(|phase| bar(method, phase)).collect(),
    });
    BarChart {
        title: "Time until the last guest is done".to_owned(),
        subtitle: format!("{}; shorter is better", herd(runs)),
        groups: groups.collect(),
        series: phases.iter().map(|phase| phase.name().to_owned()).collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of bars")]
fn stored(runs: &[Run]) -> BarChart {
    let size = |method| {
        let run = runs.iter().find(|run| run.method == method);
        run.map_or((0.0, String::new()), |run| {
            let mib = run.stored_bytes as f64 / f64::from(1 << 20);
            (mib, format!("{mib:.0} MiB  ({:.2} times smaller)", run.ratio()))
        })
    };
    let groups =
        methods(runs).map(|method| Group { label: method.title().to_owned(), bars: vec![size(method)] });
    BarChart {
        title: "Storage taken".to_owned(),
        subtitle: format!("{}; shorter is better", herd(runs)),
        groups: groups.collect(),
        series: vec!["stored".to_owned()],
    }
}

fn methods(runs: &[Run]) -> impl Iterator<Item = crate::scenario::Method> {
    let mut methods = Vec::new();
    for run in runs {
        if !methods.contains(&run.method) {
            methods.push(run.method);
        }
    }
    methods.into_iter()
}

impl BarChart {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// [`PlotError`] when drawing fails.
    pub fn svg(&self) -> Result<String, PlotError> {
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|problem| PlotError { title: self.title.clone(), problem: problem.to_string() })?;
        Ok(svg)
    }

    fn group_height(&self) -> i32 {
        let bars = i32::try_from(self.series.len()).unwrap_or(i32::MAX);
        bars.saturating_mul(BAR_HEIGHT + BAR_GAP).saturating_add(GROUP_GAP)
    }

    fn height(&self) -> u32 {
        let groups = i32::try_from(self.groups.len()).unwrap_or(i32::MAX);
        let bars = groups.saturating_mul(self.group_height());
        bars.saturating_add(TITLE_HEIGHT + 2 * MARGIN).unsigned_abs()
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(svg, (WIDTH, self.height())).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        area.draw(&Text::new(self.title.clone(), (MARGIN, MARGIN), text(20, INK)))?;
        area.draw(&Text::new(self.subtitle.clone(), (MARGIN, MARGIN + 26), text(14, FAINT)))?;
        self.draw_legend(&area)?;
        let longest = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.0);
        let longest = longest.fold(f64::MIN_POSITIVE, f64::max);
        let room = i32::try_from(WIDTH)? - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;
        let mut top = MARGIN + TITLE_HEIGHT;
        for group in &self.groups {
            let middle = top + (self.group_height() - GROUP_GAP - BAR_GAP) / 2;
            let style = text(15, INK).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(group.label.clone(), (MARGIN + LABEL_WIDTH - 12, middle), style))?;
            let mut y = top;
            for ((value, label), colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
                let left = MARGIN + LABEL_WIDTH;
                let right = left + scaled(*value / longest, room);
                area.draw(&Rectangle::new([(left, y), (right, y + BAR_HEIGHT)], colour.filled()))?;
                let style = text(14, INK).pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(label.clone(), (right + 8, y + BAR_HEIGHT / 2), style))?;
                y += BAR_HEIGHT + BAR_GAP;
            }
            top += self.group_height();
        }
        area.present()?;
        drop(area);
        Ok(())
    }

    /// One square and word a series, at the top right; none for a single series.
    fn draw_legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>>
    where
        B::ErrorType: 'static,
    {
        if self.series.len() < 2 {
            return Ok(());
        }
        let mut x = i32::try_from(WIDTH)? - MARGIN - 100 * i32::try_from(self.series.len())?;
        for (name, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            area.draw(&Rectangle::new([(x, MARGIN + 4), (x + 14, MARGIN + 18)], colour.filled()))?;
            let style = ("sans-serif", 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(name.clone(), (x + 20, MARGIN + 11), style))?;
            x += 100;
        }
        Ok(())
    }
}

/// `share` of `room` pixels.
fn scaled(share: f64, room: i32) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and a picture's width")]
    let pixels = (share.clamp(0.0, 1.0) * f64::from(room)).round() as i32;
    pixels
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::test::runs;

    #[test]
    fn a_chart_has_a_bar_and_a_figure_for_each_run() {
        let svg = makespan(&runs()).svg().unwrap();
        assert!(svg.starts_with("<svg"));
        for text in ["raw", "ComIO", "10.00 s", "2.50 s", "save", "restore"] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn the_longest_bar_fills_the_room() {
        assert_eq!((scaled(1.0, 500), scaled(0.25, 500), scaled(f64::NAN, 500)), (500, 125, 0));
    }
}
