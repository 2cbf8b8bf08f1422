//! What was measured, as tables.

use std::fmt::Write as _;

use crate::coder::{CoderName, UNIT_PAGES};
use crate::envelope::{BANDWIDTHS, best};
use crate::front::{Front, Point};
use crate::measure::Row;
use crate::{LabError, plot};

/// The name of the row of means over sets.
const MEAN: &str = "mean";

/// All rows of a run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    /// Second measurements of a peer.
    again: Vec<Row>,
    /// What does not depend on the sets.
    pub(crate) limits: String,
}

impl Report {
    /// Takes what one set and size of units gave; the last row is a peer's second measurement.
    pub(crate) fn add(&mut self, mut rows: Vec<Row>) {
        self.again.extend(rows.pop());
        self.rows.extend(rows);
    }

    /// The rows of every set, then those of the geometric means over them (called `mean`).
    pub fn rows(&self) -> Vec<Row> {
        let means = UNIT_PAGES.into_iter().flat_map(|unit| self.means(unit));
        self.rows.iter().cloned().chain(means).collect()
    }

    fn of_unit(&self, unit_pages: usize) -> impl Iterator<Item = &Row> + Clone {
        self.rows.iter().filter(move |row| row.unit_pages == unit_pages)
    }

    pub(crate) fn means(&self, unit_pages: usize) -> Vec<Row> {
        let mut coders: Vec<&CoderName> = Vec::new();
        for row in self.of_unit(unit_pages) {
            if !coders.contains(&&row.coder) {
                coders.push(&row.coder);
            }
        }
        let mean = |coder: &CoderName| {
            let of = |pick: fn(&Row) -> f64| {
                geometric_mean(self.of_unit(unit_pages).filter(|row| row.coder == *coder).map(pick))
            };
            Row {
                set: MEAN.to_owned(),
                coder: coder.clone(),
                unit_pages,
                ratio: of(|row| row.ratio),
                compress_mb_s: of(|row| row.compress_mb_s),
                decompress_mb_s: of(|row| row.decompress_mb_s),
            }
        };
        coders.into_iter().map(mean).collect()
    }

    /// How far two measurements of one peer are apart at units of so many pages, on the mean over
    /// the sets: a part of the speed.
    fn spread(&self, unit_pages: usize) -> f64 {
        let pairs = self.again.iter().filter(|row| row.unit_pages == unit_pages).filter_map(|again| {
            let first =
                self.of_unit(unit_pages).find(|row| row.set == again.set && row.coder == again.coder)?;
            Some(again.compress_mb_s / first.compress_mb_s)
        });
        (geometric_mean(pairs) - 1.0).abs()
    }

    /// As comma-separated values.
    pub fn csv(&self) -> String {
        let mut text = "set,coder,level,unit_pages,ratio,compress_mb_s,decompress_mb_s\n".to_owned();
        for row in self.rows() {
            let CoderName { coder, level } = &row.coder;
            let figures =
                format_args!("{:.4},{:.1},{:.1}", row.ratio, row.compress_mb_s, row.decompress_mb_s);
            let _ = writeln!(text, "{},{coder},{level},{},{figures}", row.set, row.unit_pages);
        }
        text
    }

    /// For people, as Markdown.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        for unit in UNIT_PAGES.into_iter().filter(|unit| self.of_unit(*unit).next().is_some()) {
            let _ = writeln!(text, "## Units of {unit} page{}\n", if unit == 1 { "" } else { "s" });
            self.means_table(unit, &mut text);
            self.front_table(unit, &mut text);
            self.envelope_table(unit, &mut text);
        }
        text + &self.limits
    }

    fn means_table(&self, unit: usize, text: &mut String) {
        let spread = self.spread(unit) * 100.0;
        let _ = writeln!(
            text,
            "Geometric means over the sets; two measurements of C LZ4 are {spread:.1} % apart.\n\n\
             | coder | ratio | compress MB/s | decompress MB/s |\n|---|---|---|---|"
        );
        for row in self.means(unit) {
            let Row { coder, ratio, compress_mb_s, decompress_mb_s, .. } = row;
            let _ = writeln!(text, "| {coder} | {ratio:.3} | {compress_mb_s:.0} | {decompress_mb_s:.0} |");
        }
    }

    /// How far ECBC's levels are above the peers' front, on the mean and on each set.
    fn front_table(&self, unit: usize, text: &mut String) {
        let means = self.means(unit);
        let ours: Vec<_> = means.iter().filter(|row| row.coder.is_ours() && !row.coder.is_copy()).collect();
        if ours.is_empty() {
            return;
        }
        let sets = self.sets();
        let _ = writeln!(
            text,
            "\nRatio against the peers' front at equal speed, percent:\n\n| level | mean | {} |\n|---|---|{}",
            sets.join(" | "),
            "---|".repeat(sets.len())
        );
        for mean in ours {
            let _ = write!(text, "| {} | {:+.1} |", mean.coder.level, above_front(mean, means.iter()));
            for set in &sets {
                let rows = self.of_unit(unit).filter(|row| row.set == *set);
                let above =
                    rows.clone().find(|row| row.coder == mean.coder).map(|row| above_front(row, rows));
                let _ = write!(text, " {} |", above.map_or(String::new(), |above| format!("{above:+.1}")));
            }
            text.push('\n');
        }
    }

    fn envelope_table(&self, unit: usize, text: &mut String) {
        let rows = self.of_unit(unit);
        if !rows.clone().any(|row| row.coder.is_ours()) {
            return;
        }
        let _ = writeln!(
            text,
            "\nSave rate by output bandwidth (MB/s a core), input / max(CPU time, output / bandwidth):\n\n\
             | bandwidth | best peer | MB/s | best ECBC level | MB/s | quotient |\n|---|---|---|---|---|---|"
        );
        for bandwidth in BANDWIDTHS {
            let peer = best(&rows.clone().filter(|row| !row.coder.is_ours()), bandwidth);
            let own = best(&rows.clone().filter(|row| row.coder.is_ours()), bandwidth);
            let (Some(peer), Some(own)) = (peer, own) else { continue };
            let _ = writeln!(
                text,
                "| {bandwidth} | {} | {:.0} | {} | {:.0} | {:.3} |",
                peer.coder,
                peer.rate,
                own.coder.level,
                own.rate,
                own.rate / peer.rate
            );
        }
        text.push('\n');
    }

    fn sets(&self) -> Vec<&str> {
        let mut sets: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !sets.contains(&row.set.as_str()) {
                sets.push(&row.set);
            }
        }
        sets
    }

    /// Ratio over compression speed, one SVG for each size of units, with their file names.
    ///
    /// # Errors
    /// plotters could not draw.
    pub fn plots(&self) -> Result<Vec<(String, String)>, LabError> {
        let measured = UNIT_PAGES.into_iter().filter(|unit| self.of_unit(*unit).next().is_some());
        measured
            .map(|unit| {
                let svg = plot::speed_and_ratio(unit, &self.means(unit))
                    .map_err(|problem| LabError::Plot { unit_pages: unit, problem })?;
                Ok((format!("codec-{unit}.svg"), svg))
            })
            .collect()
    }
}

/// Percent by which `row` is denser than the front of the peers in `rows` at its speed.
fn above_front<'a>(row: &Row, rows: impl Iterator<Item = &'a Row>) -> f64 {
    let point = |row: &Row| Point { speed: row.compress_mb_s, ratio: row.ratio };
    let front = Front::new(rows.filter(|row| !row.coder.is_ours()).map(point));
    (row.ratio / front.ratio_at(row.compress_mb_s) - 1.0) * 100.0
}

#[expect(clippy::cast_precision_loss, reason = "a few sets")]
pub(crate) fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value.ln(), count + 1));
    (sum / count as f64).exp()
}
