//! `comio pack`: a save file or dump becomes an image.

use anyhow::bail;
use comio_backends::tape::{SourceFormat, open_source};
use comio_core::engine::{self, Foundation, Relative, SaveReport};
use comio_core::format::entry::tag;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;
use comio_core::template::KnownPages;
use serde::Serialize;

use super::share;
use crate::ancestors;
use crate::args::{Format, Pack, Packing, PlacementArg};
use crate::exit::Exit;
use crate::location::Location;
use crate::output;
use crate::session::{Session, save_options};

/// What was saved.
#[derive(Serialize)]
pub(super) struct Report {
    uuid: String,
    pages: u64,
    guest_bytes: u64,
    stored_bytes: u64,
    ratio: f64,
    /// Pages that an ancestor has.
    referenced_pages: u64,
    /// Pages stored as differences to an ancestor's.
    difference_pages: u64,
    /// Why pages were saved in full although there was something to rest on.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// As much of it as the user was not told yet.
    #[serde(skip)]
    untold: Option<String>,
}

impl Report {
    /// For people.
    pub(super) fn words(&self) -> String {
        use std::fmt::Write as _;
        let mut words = format!(
            "{} pages, {} bytes packed into {} (ratio {:.2})",
            self.pages, self.guest_bytes, self.stored_bytes, self.ratio
        );
        if self.referenced_pages + self.difference_pages > 0 {
            let (referenced, differences) = (self.referenced_pages, self.difference_pages);
            let _ =
                write!(words, "; {referenced} pages are an ancestor's, {differences} are differences to one");
        }
        if let Some(untold) = &self.untold {
            let _ = write!(words, "\nsome pages were saved in full: an ancestor could not be read: {untold}");
        }
        words
    }

    /// Of a save that could not rest on all that it was to.
    pub(super) fn without(report: SaveReport, unusable: &Unusable) -> Self {
        let report = Self::from(report);
        let trouble = unusable.0.iter().cloned().chain(report.untold.clone()).collect::<Vec<_>>();
        Self { trouble: (!trouble.is_empty()).then(|| trouble.join("; ")), ..report }
    }
}

impl From<SaveReport> for Report {
    fn from(report: SaveReport) -> Self {
        let pages = |tag: u8| report.totals.tally.pages[usize::from(tag)];
        Self {
            uuid: uuid::Uuid::from_bytes(report.uuid).to_string(),
            pages: report.totals.pages,
            guest_bytes: report.guest_bytes(),
            stored_bytes: report.stored_bytes,
            ratio: share(report.guest_bytes(), report.stored_bytes),
            referenced_pages: pages(tag::SAME) + pages(tag::ELSEWHERE),
            difference_pages: pages(tag::DIFFERENCE),
            trouble: report.trouble.clone(),
            untold: report.trouble,
        }
    }
}

/// The means for making the image that `args` describe.
pub(super) fn session(args: &Packing) -> anyhow::Result<Session> {
    let placement = match args.placement {
        PlacementArg::Hybrid => Placement::Hybrid,
        PlacementArg::Strict if args.unit > 1 => {
            bail!("--placement strict is for single pages: leave out --unit, which may be longer than 4 KiB")
        }
        PlacementArg::Strict => Placement::Strict,
    };
    let coder = EcbcCoder::new(args.level, placement).in_units(args.unit.into());
    Session::with_coder(&args.resources, coder)
}

pub(super) async fn run(args: Pack) -> anyhow::Result<Exit> {
    let packing = &args.packing;
    let format = match args.format {
        Format::Auto => SourceFormat::Auto,
        Format::Xl => SourceFormat::Xl,
        Format::Raw => SourceFormat::Raw,
    };
    let session = session(packing)?;
    let image = session.image(&args.image).await?;
    if !packing.no_clobber {
        ancestors::refuse_to_replace_needed(&image).await?;
    }
    let (foundation, unusable) = foundation(packing, &image, &session).await;
    let mut reader = open_source(&args.src, format, &session.pool).await?;
    let options = save_options(!packing.no_clobber);
    let saving = engine::save_upon(
        &session.engine,
        foundation.as_ref(),
        &mut *reader,
        &*image.storage,
        &image.name,
        &options,
        &session.progress,
    );
    let report = Report::without(session.run("packing", saving).await?, &unusable);
    if packing.json {
        output::json(&report)?;
    } else {
        output::say(&report.words());
    }
    Ok(Exit::Done)
}

/// Why a parent or template is not used; the user was told.
#[derive(Default)]
pub(super) struct Unusable(Vec<String>);

impl Unusable {
    fn told<T>(&mut self, what: &str, opened: anyhow::Result<T>) -> Option<T> {
        opened
            .inspect_err(|error| {
                let words = format!("the {what} cannot be used, so the guest is saved without it: {error:#}");
                output::say(&words);
                self.0.push(words);
            })
            .ok()
    }
}

/// What the image is to rest on. A parent or template that cannot be used is no reason not to
/// save the guest: it is saved in full then, and the user told.
pub(super) async fn foundation(
    args: &Packing,
    image: &Location,
    session: &Session,
) -> (Option<Foundation>, Unusable) {
    let mut unusable = Unusable::default();
    let parent = match &args.parent {
        None => None,
        Some(parent) => {
            let opened = ancestors::relative(parent, image, &args.ancestors.ancestors, session).await;
            let opened = opened.and_then(usable).inspect(|relative| warn_of_units(parent, relative));
            unusable.told(&format!("parent {parent}"), opened)
        }
    };
    let template = match &args.template {
        None => None,
        Some(template) => {
            let opened = open_template(args, template, image, session).await;
            unusable.told(&format!("template {template}"), opened)
        }
    };
    if parent.is_none() && template.is_none() {
        return (None, unusable);
    }
    let both = Foundation::new(parent, template).map_err(anyhow::Error::from);
    (unusable.told("parent or template", both), unusable)
}

/// Differences are not made to pages of units: to read one takes all its neighbours.
fn warn_of_units(name: &str, parent: &Relative) {
    if parent.image.footer().totals.tally.pages[usize::from(tag::UNIT)] > 0 {
        output::say(&format!(
            "{name} was made with --unit: pages that changed since are saved in full, not as differences"
        ));
    }
}

fn usable(relative: Relative) -> anyhow::Result<Relative> {
    relative.image.check_complete()?;
    Ok(relative)
}

async fn open_template(
    args: &Packing,
    template: &str,
    image: &Location,
    session: &Session,
) -> anyhow::Result<(Relative, KnownPages)> {
    let relative = ancestors::relative(template, image, &args.ancestors.ancestors, session).await?;
    let relative = usable(relative)?;
    let known = engine::open_template(&relative.image, args.template_memory.0).await?;
    Ok((relative, known))
}
