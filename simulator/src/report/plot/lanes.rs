//! One lane a guest: when it was under way.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, FAINT, INK, PlotError};
use crate::report::GuestTime;

const WIDTH: i32 = 900;
const LEFT: i32 = 24;
const RIGHT: i32 = 24;
const TOP: i32 = 64;
const BOTTOM: i32 = 34;
/// The most pixels for all lanes; a lane has from 1 to 10.
const LANES_HEIGHT: usize = 360;

/// When each guest was under way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LaneChart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) guests: Vec<GuestTime>,
}

impl LaneChart {
    /// The plot as an SVG document.
    pub(crate) fn svg(&self) -> Result<String, PlotError> {
        let mut svg = String::new();
        let drawn = self.draw(&mut svg);
        drawn.map_err(|problem| PlotError::new(&self.title, &*problem))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let lane = i32::try_from((LANES_HEIGHT / self.guests.len().max(1)).clamp(1, 10))?;
        let lanes_height = lane * i32::try_from(self.guests.len())?;
        let height = TOP + lanes_height + BOTTOM;
        let area =
            SVGBackend::with_string(svg, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        let title = Text::new(self.title.clone(), (LEFT, 16), text(20, INK));
        area.draw(&title).map_err(|error| error.to_string())?;
        let subtitle = Text::new(self.subtitle.clone(), (LEFT, 42), text(14, FAINT));
        area.draw(&subtitle).map_err(|error| error.to_string())?;
        let last = self.guests.iter().map(|guest| guest.end_s).fold(f64::MIN_POSITIVE, f64::max);
        let mut y = TOP;
        for guest in &self.guests {
            let (start, end) = (x_of(guest.start_s / last), x_of(guest.end_s / last));
            let gap = i32::from(lane > 3);
            let bar = Rectangle::new([(start, y), (end.max(start + 1), y + lane - gap)], COLOURS[0].filled());
            area.draw(&bar).map_err(|error| error.to_string())?;
            y += lane;
        }
        for (place, position) in [(0.0, HPos::Left), (0.5, HPos::Center), (1.0, HPos::Right)] {
            let style = text(13, INK).pos(Pos::new(position, VPos::Top));
            let mark = Text::new(format!("{:.2} s", place * last), (x_of(place), y + 8), style);
            area.draw(&mark).map_err(|error| error.to_string())?;
        }
        area.present().map_err(|error| error.to_string())?;
        drop(area);
        Ok(())
    }
}

/// The pixel at a share of the time.
fn x_of(share: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and a picture's width")]
    let pixels = (share.clamp(0.0, 1.0) * f64::from(WIDTH - LEFT - RIGHT)).round() as i32;
    LEFT + pixels
}
