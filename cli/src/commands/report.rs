//! `comio report`: results as one page.

use anyhow::Context;
use comio_simulator::report::Results;

use crate::args::Report;
use crate::exit::Exit;
use crate::output;

pub(super) fn run(args: &Report) -> anyhow::Result<Exit> {
    let read = |name: &str| {
        let path = args.directory.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let results = Results::load(&read("results.json")?, &read("timelines.jsonl")?)?;
    let path = args.output.clone().unwrap_or_else(|| args.directory.join("report.html"));
    std::fs::write(&path, results.html()?).with_context(|| format!("cannot write {}", path.display()))?;
    output::data(&results.table().to_string())?;
    output::say(&format!("the report is {}", path.display()));
    Ok(Exit::Done)
}
