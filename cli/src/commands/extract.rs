//! `comio extract`: single pages.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use comio_core::engine::{self, ExtractReport, LostPage};
use comio_core::tape::TapeError;
use comio_core::{PAGE_SIZE, Page};
use serde::Serialize;

use crate::ancestors;
use crate::args::{Extract, Resources};
use crate::exit::Exit;
use crate::output::{self, Output};
use crate::session::Session;

/// What is written for a page that cannot be read, so that the others are where they are looked for.
static ZEROS: Page = [0; PAGE_SIZE];

#[derive(Serialize)]
struct Report {
    pages: u64,
    lost_pages: u64,
    storage_reads: u64,
    bytes_read: u64,
    max_read_bytes: u64,
    max_reads_a_page: u64,
    pages_decoded: u64,
    index_reads: u64,
    index_bytes: u64,
}

impl From<ExtractReport> for Report {
    fn from(report: ExtractReport) -> Self {
        Self {
            pages: report.pages,
            lost_pages: report.lost_pages,
            storage_reads: report.storage_reads,
            bytes_read: report.bytes_read,
            max_read_bytes: report.max_read_bytes,
            max_reads_a_page: report.max_reads_a_page,
            pages_decoded: report.pages_decoded,
            index_reads: report.index_reads,
            index_bytes: report.index_bytes,
        }
    }
}

pub(super) async fn run(args: Extract) -> anyhow::Result<Exit> {
    let pfns: Box<dyn Iterator<Item = u64>> = match (&args.pfn, &args.pfn_list) {
        (Some(range), _) => Box::new(range.first..=range.last),
        (None, Some(list)) => Box::new(read_list(list)?.into_iter()),
        (None, None) => bail!("which pages? give --pfn or --pfn-list"),
    };
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let from = session.image(&args.image).await?;
    let image = ancestors::open(&from, &args.ancestors.ancestors, &session).await?;
    let mut out = args.output.as_deref().map_or_else(|| Ok(Output::stdout()), Output::create)?;
    let mut lost = Lost::default();
    let extracting = engine::extract(&image, pfns, |page| {
        let page = page.unwrap_or_else(|page| {
            lost.add(&page);
            &ZEROS
        });
        out.write(page).map_err(|source| {
            TapeError::Io { action: "write", target: "the extracted pages".to_owned(), source }.into()
        })
    });
    let report = session.run("extracting", extracting).await?;
    out.finish()?;
    if args.json {
        output::json(&Report::from(report))?;
    }
    Ok(lost.exit(report.lost_pages))
}

/// Pages that could not be read: told one run of them, with one problem, after the other.
#[derive(Default)]
struct Lost {
    run: Option<(u64, u64, String)>,
    damage: bool,
}

impl Lost {
    fn add(&mut self, page: &LostPage) {
        self.damage |= page.error.is_damage();
        let problem = page.error.to_string();
        match &mut self.run {
            Some((_, last, same)) if last.checked_add(1) == Some(page.pfn) && *same == problem => {
                *last = page.pfn;
            }
            run => {
                tell(run.take());
                *run = Some((page.pfn, page.pfn, problem));
            }
        }
    }

    fn exit(mut self, pages: u64) -> Exit {
        if pages == 0 {
            return Exit::Done;
        }
        tell(self.run.take());
        output::say(&format!("comio: {pages} pages could not be read; zeros stand in their places"));
        if self.damage { Exit::Damaged } else { Exit::Failed }
    }
}

fn tell(run: Option<(u64, u64, String)>) {
    let Some((first, last, problem)) = run else { return };
    let pages = if first == last { format!("page {first}") } else { format!("pages {first} to {last}") };
    output::say(&format!("comio: {pages}: {problem}"));
}

fn read_list(path: &Path) -> anyhow::Result<Vec<u64>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let numbered = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let pfns = numbered.map(|(line, number)| {
        let problem = || format!("{}, line {number}: {line:?} is not a decimal pfn", path.display());
        line.trim().parse().with_context(problem)
    });
    pfns.collect()
}
