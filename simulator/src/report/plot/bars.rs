//! Horizontal bars.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, FAINT, INK, PlotError};

const WIDTH: u32 = 900;
const MARGIN: i32 = 24;
const TITLE_HEIGHT: i32 = 58;
const BAR_HEIGHT: i32 = 24;
const BAR_GAP: i32 = 6;
const GROUP_GAP: i32 = 18;
const LABEL_WIDTH: i32 = 170;
const VALUE_WIDTH: i32 = 190;

/// Horizontal bars in labelled groups: one group a method, one bar a series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BarChart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// What the bars of a group are.
    pub(crate) series: Vec<String>,
    pub(crate) groups: Vec<Group>,
}

/// Bars with one label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) label: String,
    /// One for each series.
    pub(crate) bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Bar {
    /// Its length.
    pub(crate) value: f64,
    /// What is written beside it.
    pub(crate) label: String,
    /// A mark across it.
    pub(crate) mark: Option<f64>,
}

impl BarChart {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// [`PlotError`] when drawing fails.
    pub(crate) fn svg(&self) -> Result<String, PlotError> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|problem| PlotError::new(&self.title, &*problem))?;
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
        let longest = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value);
        let longest = longest.fold(f64::MIN_POSITIVE, f64::max);
        let room = i32::try_from(WIDTH)? - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;
        let mut top = MARGIN + TITLE_HEIGHT;
        for group in &self.groups {
            let middle = top + (self.group_height() - GROUP_GAP - BAR_GAP) / 2;
            let style = text(15, INK).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(group.label.clone(), (MARGIN + LABEL_WIDTH - 12, middle), style))?;
            let mut y = top;
            for (bar, colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
                let left = MARGIN + LABEL_WIDTH;
                let right = left + scaled(bar.value / longest, room);
                area.draw(&Rectangle::new([(left, y), (right, y + BAR_HEIGHT)], colour.filled()))?;
                let style = text(14, INK).pos(Pos::new(HPos::Left, VPos::Center));
                if let Some(mark) = bar.mark {
                    let x = left + scaled(mark / longest, room);
                    area.draw(&Rectangle::new([(x - 1, y - 2), (x + 1, y + BAR_HEIGHT + 2)], INK.filled()))?;
                }
                area.draw(&Text::new(bar.label.clone(), (right + 8, y + BAR_HEIGHT / 2), style))?;
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

    #[test]
    fn the_longest_bar_fills_the_room() {
        assert_eq!((scaled(1.0, 500), scaled(0.25, 500), scaled(f64::NAN, 500)), (500, 125, 0));
    }
}
