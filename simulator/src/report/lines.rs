//! Results for other tools: comma-separated values and JSON lines.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Run, Spread, Timeline};

/// One row a run, under a heading.
pub(super) fn csv(runs: &[Run]) -> String {
    let mut text = String::from(
        "point,method,operation,guests,makespan_s,guest_bytes,stored_bytes,goodput_bytes_per_s,identical,\
         guest_min_s,guest_median_s,guest_max_s,page_min_s,page_median_s,page_max_s,late,limit,limit_s\n",
    );
    for run in runs {
        let limit = run.limit();
        let or_nothing = |value: Option<String>| value.unwrap_or_default();
        let page = |pick: fn(Spread) -> f64| or_nothing(run.page_s.map(|pages| pick(pages).to_string()));
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            quoted(run.point.as_deref().unwrap_or_default()),
            run.method,
            run.operation.name(),
            run.guests,
            run.makespan_s,
            run.guest_bytes,
            run.stored_bytes,
            run.goodput_bytes_per_s,
            or_nothing(run.identical.map(|identical| identical.to_string())),
            run.guest_s.min,
            run.guest_s.median,
            run.guest_s.max,
            page(|pages| pages.min),
            page(|pages| pages.median),
            page(|pages| pages.max),
            or_nothing(run.late.map(|late| late.to_string())),
            or_nothing(limit.map(|(resource, _)| resource.name().to_owned())),
            or_nothing(limit.map(|(_, seconds)| seconds.to_string())),
        );
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    point: Option<&'a str>,
    method: &'a str,
    operation: &'a str,
    #[serde(flatten)]
    timeline: &'a Timeline,
}

/// One JSON object a run, one a line.
pub(super) fn timelines(runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in runs {
        let line = Line {
            point: run.point.as_deref(),
            method: run.method.name(),
            operation: run.operation.name(),
            timeline: &run.timeline,
        };
        // Plain structs into memory: this cannot fail.
        let _ = serde_json::to_writer(&mut bytes, &line);
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::test::runs;

    #[test]
    fn rows_have_as_many_values_as_headings() {
        let text = csv(&runs());
        let counts: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(counts, [counts[0]; 5]);
    }

    #[test]
    fn texts_with_commas_are_quoted() {
        assert_eq!(quoted("1 Gbit/s"), "1 Gbit/s");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn every_timeline_is_one_object_on_one_line() {
        let bytes = timelines(&runs());
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 4);
        for line in lines {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert!(value["guests"].is_array() && value["usage"].is_array());
        }
    }
}
