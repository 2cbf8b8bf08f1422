//! Curves over a sweep or over time.

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, FAINT, INK, PlotError};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;
const LEGEND_WIDTH: u32 = 200;
/// Values of a sweep that are further apart than this are shown on a logarithmic axis.
const LOG_FROM: f64 = 30.0;

/// Curves with common axes; x counts the labels from 0, or is a number if there are none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CurveChart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x_name: String,
    pub(crate) x_labels: Vec<String>,
    pub(crate) y_name: String,
    pub(crate) curves: Vec<Curve>,
}

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    /// In the legend, unless empty.
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

type DrawError = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl CurveChart {
    /// The plot as an SVG document.
    pub(crate) fn svg(&self) -> Result<String, PlotError> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|problem| PlotError::new(&self.title, &*problem))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), DrawError> {
        let backend = SVGBackend::with_string(svg, (WIDTH, HEIGHT));
        let area = backend.into_drawing_area();
        let result = self.draw_on(&area);
        // An error of the backend borrows it: as text it does not.
        let presented = area.present().map_err(|error| error.to_string());
        result?;
        Ok(presented?)
    }

    fn draw_on(&self, area: &Area<'_>) -> Result<(), DrawError> {
        let failed = |error: DrawingAreaErrorKind<_>| error.to_string();
        area.fill(&WHITE).map_err(failed)?;
        let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        area.draw(&Text::new(self.title.clone(), (24, 16), text(20, INK))).map_err(failed)?;
        area.draw(&Text::new(self.subtitle.clone(), (24, 42), text(14, FAINT))).map_err(failed)?;
        let (left, legend) = area.margin(64, 8, 12, 8).split_horizontally(WIDTH - LEGEND_WIDTH - 20);
        self.draw_legend(&legend)?;
        let (low, high) = self.y_range();
        if high / low > LOG_FROM && !self.x_labels.is_empty() {
            self.draw_curves(&left, (low / 1.3..high * 1.3).log_scale())
        } else {
            self.draw_curves(&left, Linear(0.0..high * 1.06))
        }
    }

    /// The smallest value above zero, and the largest.
    fn y_range(&self) -> (f64, f64) {
        let values = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
        let high = values().fold(f64::MIN_POSITIVE, f64::max);
        (values().filter(|&value| value > 0.0).fold(high, f64::min), high)
    }

    fn x_range(&self) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "values of a sweep")]
        let labels = self.x_labels.len() as f64;
        if self.x_labels.is_empty() {
            let last = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.0);
            (0.0, last.fold(f64::MIN_POSITIVE, f64::max))
        } else {
            (-0.2, labels - 0.8)
        }
    }

    fn draw_curves<Y>(&self, area: &Area<'_>, y: Y) -> Result<(), DrawError>
    where
        Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let (first, last) = self.x_range();
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(first..last, y)
            .map_err(|error| error.to_string())?;
        let x_label = |x: &f64| self.x_label(*x);
        chart
            .configure_mesh()
            .x_labels(if self.x_labels.is_empty() { 8 } else { self.x_labels.len() * 5 })
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y: &f64| short_number(*y))
            .disable_x_mesh()
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(FAINT.mix(0.25))
            .axis_style(FAINT)
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .x_desc(&self.x_name)
            .y_desc(&self.y_name)
            .draw()
            .map_err(|error| error.to_string())?;
        for curve in &self.curves {
            let points = curve.points.iter().copied();
            let style = COLOURS[curve.colour % COLOURS.len()].stroke_width(if curve.dashed { 1 } else { 2 });
            if curve.dashed {
                let line = DashedLineSeries::new(points, 5, 4, style);
                chart.draw_series(line).map_err(|error| error.to_string())?;
            } else {
                chart.draw_series(LineSeries::new(points, style)).map_err(|error| error.to_string())?;
            }
            if !curve.dashed && !self.x_labels.is_empty() {
                let colour = COLOURS[curve.colour % COLOURS.len()];
                let marks = curve.points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(marks).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// The label at a place of the axis: a sweep has labels at whole numbers only.
    fn x_label(&self, x: f64) -> String {
        if self.x_labels.is_empty() {
            return short_number(x);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
        let index = x.round().max(0.0) as usize;
        let whole = (x - x.round()).abs() < 1e-6 && x > -0.5;
        self.x_labels.get(index).filter(|_| whole).cloned().unwrap_or_default()
    }

    fn draw_legend(&self, area: &Area<'_>) -> Result<(), DrawError> {
        let mut y = 10;
        for curve in self.curves.iter().filter(|curve| !curve.name.is_empty()) {
            let colour = COLOURS[curve.colour % COLOURS.len()];
            area.draw(&Rectangle::new([(8, y), (22, y + 14)], colour.filled()))
                .map_err(|error| error.to_string())?;
            let style = ("sans-serif", 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(curve.name.clone(), (28, y + 7), style))
                .map_err(|error| error.to_string())?;
            y += 24;
        }
        Ok(())
    }
}

/// A number as short as it can be read.
fn short_number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        size if size >= 0.1 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{value:.1e}"),
    }
}

/// A linear axis from a range: plotters' own, under a type that the logarithmic one shares.
struct Linear(std::ops::Range<f64>);

impl plotters::coord::ranged1d::AsRangedCoord for Linear {
    type CoordDescType = plotters::coord::types::RangedCoordf64;
    type Value = f64;
}

impl From<Linear> for plotters::coord::types::RangedCoordf64 {
    fn from(linear: Linear) -> Self {
        linear.0.into()
    }
}
