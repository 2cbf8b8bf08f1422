//! The report: one page that needs nothing else.

use std::fmt::Write as _;

use super::plot::{self, Curve, CurveChart, LaneChart, PlotError};
use super::{Results, Run};

/// Runs of a point whose timelines are drawn, at most.
const TIMELINES_MAX: usize = 24;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:1240px;margin:2rem auto;\
    padding:0 1rem}h1{margin-bottom:.2rem}p.q{font-size:1.15rem;color:#4b5563;margin-top:0}\
    table{border-collapse:collapse;margin:1rem 0;font-size:.87rem;font-variant-numeric:tabular-nums}\
    th,td{padding:.25rem .45rem;border-bottom:1px solid #e5e7eb;text-align:right;white-space:nowrap}th{white-space:normal;vertical-align:bottom}\
    th:first-child,td:first-child,td.t,th.t{text-align:left}tr:hover{background:#f3f4f6}\
    figure{margin:1.5rem 0}svg{width:100%;max-width:1100px;height:auto}.no{color:#b91c1c;font-weight:bold}\
    summary{font-size:1.1rem;cursor:pointer;margin:.6rem 0}footer{color:#6b7280;margin-top:3rem;border-top:1px solid #e5e7eb}";

/// The page of `results`.
pub(super) fn page(results: &Results) -> Result<String, PlotError> {
    let mut page = String::new();
    let title = escaped(&results.scenario);
    // Writing into a string cannot fail, here and below.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"q\">{}</p>\n",
        escaped(&results.question)
    );
    for (_, svg) in plot::charts(results)? {
        figure(&mut page, &svg);
    }
    table(&mut page, results);
    page.push_str("<h2>Over time</h2>\n");
    let points = results.points();
    for (number, point) in (1..).zip(&points) {
        over_time(&mut page, results, point, number == points.len())?;
    }
    let _ = write!(
        page,
        "<footer><p>Scenario {title}, hash {}, seed {}, format {}. Made by comio.</p></footer>\n</body></html>\n",
        escaped(&results.scenario_hash),
        results.seed,
        results.format
    );
    Ok(page)
}

fn figure(page: &mut String, svg: &str) {
    // An SVG inside HTML has no use for an XML declaration.
    let svg = svg.find("<svg").map_or(svg, |start| &svg[start..]);
    let _ = writeln!(page, "<figure>{}</figure>", svg.trim());
}

fn table(page: &mut String, results: &Results) {
    let swept = results.parameter.as_deref();
    page.push_str("<h2>Figures</h2>\n<table><thead><tr>");
    if let Some(parameter) = swept {
        let _ = write!(page, "<th>{}</th>", escaped(parameter));
    }
    page.push_str(
        "<th class=\"t\">method</th><th class=\"t\">operation</th><th>guests</th><th>makespan</th>\
         <th>goodput</th><th>stored</th><th>ratio</th><th>one guest: min / median / max</th>",
    );
    if results.has_pages() {
        page.push_str("<th>one page: min / median / max</th>");
    }
    page.push_str(
        "<th class=\"t\">limited by</th><th>of its limit</th><th>late</th><th class=\"t\">identical</th>\
         </tr></thead><tbody>\n",
    );
    for run in &results.runs {
        page.push_str("<tr>");
        if swept.is_some() {
            let _ = write!(page, "<td>{}</td>", escaped(run.point.as_deref().unwrap_or_default()));
        }
        row(page, run, results.has_pages());
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table>\n");
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn row(page: &mut String, run: &Run, with_pages: bool) {
    let (limited_by, of_limit) = run.limit().map_or(("", String::new()), |(resource, seconds)| {
        (resource.name(), format!("{:.1} %", run.makespan_s / seconds * 100.0))
    });
    let pages = if with_pages { page_times(run) } else { String::new() };
    let identical = match run.identical {
        Some(true) => "yes",
        Some(false) => "<span class=\"no\">NO</span>",
        None => "",
    };
    let _ = write!(
        page,
        "<td class=\"t\">{}</td><td class=\"t\">{}</td><td>{}</td><td>{:.2} s</td><td>{:.0} MiB/s</td>\
         <td>{:.1} MiB</td><td>{:.2}</td><td>{:.1} / {:.1} / {:.1} s</td>{pages}<td class=\"t\">{limited_by}</td>\
         <td>{of_limit}</td><td>{}</td><td class=\"t\">{identical}</td>",
        escaped(run.method.title()),
        run.operation.name(),
        run.guests,
        run.makespan_s,
        run.goodput_bytes_per_s / f64::from(1 << 20),
        run.stored_bytes as f64 / f64::from(1 << 20),
        run.ratio(),
        run.guest_s.min,
        run.guest_s.median,
        run.guest_s.max,
        run.late.map(|late| late.to_string()).unwrap_or_default(),
    );
}

/// How long single pages took, in a cell.
fn page_times(run: &Run) -> String {
    let Some(pages) = run.page_s else { return "<td></td>".to_owned() };
    let [min, median, max] = [pages.min, pages.median, pages.max].map(|seconds| seconds * 1e3);
    format!("<td>{min:.3} / {median:.3} / {max:.3} ms</td>")
}

/// How busy everything was, and when each guest was under way, in the runs of one point. Those
/// of a sweep can be folded; `open` are not.
fn over_time(page: &mut String, results: &Results, point: &str, open: bool) -> Result<(), PlotError> {
    if let Some(parameter) = &results.parameter {
        let open = if open { " open" } else { "" };
        let at = format!("{parameter}: {point}");
        let _ = writeln!(page, "<details{open}><summary>{}</summary>", escaped(&at));
    }
    timelines(page, &results.at_point(point))?;
    if results.parameter.is_some() {
        page.push_str("</details>\n");
    }
    Ok(())
}

fn timelines(page: &mut String, runs: &[Run]) -> Result<(), PlotError> {
    for run in runs.iter().take(TIMELINES_MAX) {
        let title = format!("{}: {}", run.method.title(), run.operation.name());
        if !run.timeline.usage.is_empty() {
            figure(page, &usage_chart(run, &title).svg()?);
        }
        if !run.timeline.guests.is_empty() {
            let lanes = LaneChart {
                title,
                subtitle: "when each guest was under way".to_owned(),
                guests: run.timeline.guests.clone(),
            };
            figure(page, &lanes.svg()?);
        }
    }
    Ok(())
}

fn usage_chart(run: &Run, title: &str) -> CurveChart {
    let curve = |(colour, series): (usize, &super::UsageSeries)| {
        #[expect(clippy::cast_precision_loss, reason = "spans of a plot")]
        let middle = |index: usize| (index as f64 + 0.5) * series.span_s;
        let share = |(index, &busy): (usize, &f32)| (middle(index), f64::from(busy) * 100.0);
        Curve {
            name: series.resource.clone(),
            colour,
            dashed: false,
            points: series.busy.iter().enumerate().map(share).collect(),
        }
    };
    CurveChart {
        title: title.to_owned(),
        subtitle: "how busy each resource was".to_owned(),
        x_name: "seconds".to_owned(),
        x_labels: Vec::new(),
        y_name: "%".to_owned(),
        curves: run.timeline.usage.iter().enumerate().map(curve).collect(),
    }
}

/// Text without markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::report::test::{results, swept};
    use crate::report::{GuestTime, UsageSeries};

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        for results in [results(), swept()] {
            let page = page(&results).unwrap();
            for word in ["src=", "<script", "url(", "@import", "<?xml"] {
                assert!(!page.contains(word), "{word} in the page");
            }
            // The only addresses are names of namespaces.
            let links = page.matches("http").count();
            assert_eq!(links, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
        }
    }

    #[test]
    fn texts_of_the_scenario_are_no_markup() {
        let mut results = results();
        results.question = "is 1 < 2 & \"3\"?".to_owned();
        assert!(page(&results).unwrap().contains("is 1 &lt; 2 &amp; &quot;3&quot;?"));
    }

    #[test]
    fn every_point_of_a_sweep_is_drawn_over_time() {
        let mut results = swept();
        for (number, run) in (0..).zip(&mut results.runs) {
            let guest = "g".to_owned();
            run.timeline.guests = vec![GuestTime { guest, start_s: 0.0, end_s: f64::from(100 + number) }];
        }
        let page = page(&results).unwrap();
        for number in 0..results.runs.len() {
            assert!(page.contains(&format!("{}.00 s", 100 + number)), "run {number}");
        }
        for point in ["<details><summary>guests.count: 1<", "<details open><summary>guests.count: 4<"] {
            assert!(page.contains(point), "{point}");
        }
    }

    #[test]
    fn timelines_are_drawn() {
        let mut results = results();
        let guest = |number: u32| GuestTime {
            guest: format!("guest-{number}"),
            start_s: 0.0,
            end_s: f64::from(number + 1),
        };
        results.runs[0].timeline.guests = (0..40).map(guest).collect();
        results.runs[0].timeline.usage =
            vec![UsageSeries { resource: "a link".to_owned(), span_s: 1.0, busy: vec![0.5, 1.0] }];
        let page = page(&results).unwrap();
        assert!(page.contains("a link") && page.contains("40.00 s"));
    }
}
