//! Tables for people.

use std::fmt;

use super::Run;

/// Rows of text under headings; numbers stand at the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The table of all runs.
pub(super) fn of_runs(runs: &[Run]) -> Table {
    let row = |run: &Run| {
        vec![
            run.point.clone().unwrap_or_default(),
            run.method.title().to_owned(),
            run.operation.name().to_owned(),
            run.guests.to_string(),
            format!("{:.2} s", run.makespan_s),
            format!("{:.0} MiB/s", run.goodput_bytes_per_s / f64::from(1 << 20)),
            format!("{:.1} MiB", mib(run.stored_bytes)),
            format!("{:.2}", run.ratio()),
            run.page_s.map_or("-".to_owned(), |pages| format!("{:.3} ms", pages.median * 1e3)),
            match run.identical {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            }
            .to_owned(),
        ]
    };
    let headings = [
        "point",
        "method",
        "operation",
        "guests",
        "makespan",
        "goodput",
        "stored",
        "ratio",
        "median page",
        "identical",
    ];
    let mut table = Table { headings: headings.to_vec(), rows: runs.iter().map(row).collect() };
    if runs.iter().all(|run| run.page_s.is_none()) {
        table.remove("median page");
    }
    if runs.iter().all(|run| run.point.is_none()) {
        table.remove("point");
    }
    table
}

impl Table {
    fn remove(&mut self, heading: &str) {
        if let Some(column) = self.headings.iter().position(|name| *name == heading) {
            self.headings.remove(column);
            self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.chain([self.headings[column].len()]).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.headings.len()).map(|column| self.width(column)).collect();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells
                .zip(&widths)
                .map(|(cell, &width)| {
                    let number = cell.starts_with(|c: char| c.is_ascii_digit());
                    if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                })
                .collect();
            writeln!(f, "{}", padded.join("  ").trim_end())
        };
        line(&mut self.headings.iter().copied())?;
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str))?;
        }
        Ok(())
    }
}
