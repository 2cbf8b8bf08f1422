//! Ratio over speed, as SVG.

use plotters::prelude::*;

use crate::front::{Front, Point};
use crate::measure::Row;

const SIZE: (u32, u32) = (1000, 640);
const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const PEERS: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const OURS: RGBColor = RGBColor(0x00, 0x5f, 0x9e);

/// The plot of one size of units; copying, which is far off, is left out.
pub(crate) fn speed_and_ratio(unit_pages: usize, means: &[Row]) -> Result<String, String> {
    let rows: Vec<&Row> = means.iter().filter(|row| !row.coder.is_copy()).collect();
    let mut svg = String::new();
    draw(unit_pages, &rows, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(unit_pages: usize, rows: &[&Row], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let range = |pick: fn(&Row) -> f64, margin: f64| {
        let values = rows.iter().map(|row| pick(row));
        let (low, high) = values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        low / margin..high * margin
    };
    let pages = if unit_pages == 1 { "one page".to_owned() } else { format!("{unit_pages} pages") };
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("Ratio and compression speed, units of {pages}"),
            ("sans-serif", 20).into_font().color(&INK),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(range(|row| row.compress_mb_s, 1.15).log_scale(), range(|row| row.ratio, 1.08))?;
    chart
        .configure_mesh()
        .x_desc("compression speed, MB/s of a core")
        .y_desc("ratio")
        .light_line_style(TRANSPARENT)
        .draw()?;
    let peers = rows.iter().filter(|row| !row.coder.is_ours());
    let front = Front::new(peers.map(|row| Point { speed: row.compress_mb_s, ratio: row.ratio }));
    chart
        .draw_series(LineSeries::new(front.points().iter().map(|point| (point.speed, point.ratio)), PEERS))?;
    for row in rows {
        let colour = if row.coder.is_ours() { OURS } else { PEERS };
        let at = (row.compress_mb_s, row.ratio);
        chart.draw_series([EmptyElement::at(at)
            + Circle::new((0, 0), 4, colour.filled())
            + Text::new(row.coder.to_string(), (7, -14), ("sans-serif", 13).into_font().color(&colour))])?;
    }
    root.present()?;
    Ok(())
}
