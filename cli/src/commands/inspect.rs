//! `comio inspect`: what is in an image.

use comio_backends::xen;
use comio_core::ecbc::Tag;
use comio_core::engine::{self, Consumed, EngineError, Image};
use comio_core::format::BLOCK;
use comio_core::format::entry::tag;
use comio_core::format::frame::{FrameItem, items};
use comio_core::format::segment::HEADER_LEN;
use comio_core::moment;
use comio_core::tape::TapeFormat;
use serde::Serialize;

use super::{Used, share};
use crate::args::{Inspect, Resources};
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

#[derive(Serialize)]
struct Report {
    uuid: String,
    created_unix_s: u64,
    generator: String,
    format_version: u32,
    tape: &'static str,
    incomplete: bool,
    /// Why it must not be restored (again).
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed: Option<Used>,
    pages: u64,
    guest_bytes: u64,
    image_bytes: u64,
    ratio: f64,
    segments: usize,
    frame_chunks: usize,
    /// Pages by class and coder.
    classes: Vec<Class>,
    blob_bytes: u64,
    padding_bytes: u64,
    /// Of the encoded bytes.
    padding_share: f64,
    /// Page tables, headers, directory, superblock and footer.
    index_bytes: u64,
    /// Of guest memory.
    index_share: f64,
    header_bytes: u64,
    table_bytes: u64,
    directory_bytes: u64,
    frame_bytes: u64,
    frame_stored_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    frame_records: Vec<Record>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ancestors: Vec<AncestorReport>,
    checks: Checks,
}

#[derive(Serialize)]
struct AncestorReport {
    name: String,
    uuid: String,
    role: &'static str,
    /// How often a page rests on one of its.
    pages: u64,
}

#[derive(Serialize)]
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) pages: u64,
    pub(super) bytes: u64,
}

#[derive(Serialize)]
struct Record {
    name: String,
    count: u64,
    bytes: u64,
    pages: u64,
}

/// What was checked to tell all this; `comio verify` checks the rest.
#[derive(Serialize)]
struct Checks {
    superblock: &'static str,
    directory: &'static str,
    footer: &'static str,
    frame: String,
}

pub(super) async fn run(args: Inspect) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let from = session.image(&args.image).await?;
    let image = Image::open(from.storage.open(&from.name).await.map_err(EngineError::from)?).await?;
    let (frame_check, frame_records) = match frame_records(&image).await {
        Ok(records) => ("ok".to_owned(), records),
        Err(error) if error.is_damage() => (error.to_string(), Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let consumed = engine::consumed(&*from.storage, &image.superblock().uuid).await?;
    let report = report(&image, consumed, frame_check, frame_records);
    if args.json {
        output::json(&report)?;
    } else {
        output::data(&text(&report))?;
    }
    Ok(if report.checks.frame == "ok" { Exit::Done } else { Exit::Damaged })
}

/// The records of a Xen stream's frame; for other tapes their frame is only checked.
async fn frame_records(image: &Image) -> Result<Vec<Record>, EngineError> {
    let is_xen = image.superblock().tape_format == TapeFormat::XEN_XL && !image.footer().incomplete;
    let mut tally = xen::Tally::new();
    for entry in image.frames().iter().filter(|entry| !entry.is_lost()) {
        for item in items(&image.frame_chunk(entry).await?) {
            if let FrameItem::Bytes(bytes) = item?
                && is_xen
            {
                tally.add(bytes)?;
            }
        }
    }
    if !is_xen {
        return Ok(Vec::new());
    }
    let records = tally.finish()?.into_iter();
    Ok(records
        .map(|record| Record {
            name: record.name.into_owned(),
            count: record.count,
            bytes: record.bytes,
            pages: record.pages,
        })
        .collect())
}

fn report(
    image: &Image,
    consumed: Option<Consumed>,
    frame_check: String,
    frame_records: Vec<Record>,
) -> Report {
    let (superblock, footer) = (image.superblock(), image.footer());
    let totals = &footer.totals;
    let guest_bytes = totals.pages * comio_core::PAGE_SIZE as u64;
    let whole = image.segments().iter().filter(|entry| !entry.is_lost()).count();
    let header_bytes = (whole * HEADER_LEN) as u64;
    let directory_bytes = image.directory_bytes();
    let index_bytes = totals.table_bytes + directory_bytes + 2 * BLOCK as u64;
    Report {
        uuid: uuid::Uuid::from_bytes(superblock.uuid).to_string(),
        created_unix_s: superblock.created_unix_s,
        generator: superblock.generator.clone(),
        format_version: comio_core::format::superblock::VERSION,
        tape: tape_name(superblock.tape_format),
        incomplete: footer.incomplete,
        consumed: consumed.map(Used::from),
        pages: totals.pages,
        guest_bytes,
        image_bytes: image.len(),
        ratio: share(guest_bytes, image.len()),
        segments: whole,
        frame_chunks: image.frames().len(),
        classes: classes(image),
        blob_bytes: totals.blob_bytes,
        padding_bytes: totals.padding_bytes,
        padding_share: share(totals.padding_bytes, totals.blob_bytes),
        index_bytes,
        index_share: share(index_bytes, guest_bytes),
        header_bytes,
        table_bytes: totals.table_bytes - header_bytes.min(totals.table_bytes),
        directory_bytes,
        frame_bytes: totals.frame_bytes,
        frame_stored_bytes: totals.frame_stored_bytes,
        frame_records,
        ancestors: ancestors(image),
        checks: Checks { superblock: "ok", directory: "ok", footer: "ok", frame: frame_check },
    }
}

fn ancestors(image: &Image) -> Vec<AncestorReport> {
    let rows = image.superblock().ancestors.iter().zip(image.footer().totals.rests_on);
    rows.map(|(ancestor, pages)| AncestorReport {
        name: ancestor.name.clone(),
        uuid: uuid::Uuid::from_bytes(ancestor.uuid).to_string(),
        role: ancestor.role.name(),
        pages,
    })
    .collect()
}

/// How many pages of `image` are of which class.
pub(super) fn classes(image: &Image) -> Vec<Class> {
    let tally = &image.footer().totals.tally;
    let rows = (0u8..).zip(tally.pages.iter().zip(tally.bytes)).filter(|(_, (pages, _))| **pages > 0);
    rows.map(|(tag, (&pages, bytes))| Class { name: class_name(tag), pages, bytes }).collect()
}

fn class_name(number: u8) -> &'static str {
    match number {
        tag::ZERO => "zero",
        tag::FILL => "fill",
        tag::STORED => "stored",
        tag::SAME => "same",
        tag::ELSEWHERE => "elsewhere",
        tag::DIFFERENCE => "difference",
        tag::UNIT => "unit",
        tag::ABSENT => "absent",
        _ => Tag::from_number(number).map_or("unknown", Tag::name),
    }
}

pub(super) fn tape_name(format: TapeFormat) -> &'static str {
    match format {
        TapeFormat::RAW => "raw",
        TapeFormat::XEN_XL => "xl",
        TapeFormat::TEMPLATE => "template",
        _ => "unknown",
    }
}

fn text(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let percent = |share: f64| format!("{:.3} %", 100.0 * share);
    line("uuid", report.uuid.clone());
    line("made by", format!("{}, {}", report.generator, moment::utc(report.created_unix_s)));
    line("tape", report.tape.to_owned());
    line("guest", format!("{} bytes in {} pages", report.guest_bytes, report.pages));
    line("image", format!("{} bytes, ratio {:.3}", report.image_bytes, report.ratio));
    line("index", format!("{} bytes, {} of the guest", report.index_bytes, percent(report.index_share)));
    line(
        "padding",
        format!("{} bytes, {} of the pages' bytes", report.padding_bytes, percent(report.padding_share)),
    );
    line("frame", format!("{} bytes, {} in the image", report.frame_bytes, report.frame_stored_bytes));
    if report.incomplete {
        line("incomplete", "recovered from a damaged image".to_owned());
    }
    if let Some(used) = &report.consumed {
        line("consumed", used.text.clone());
    }
    for class in &report.classes {
        line(class.name, format!("{:>10} pages {:>12} bytes", class.pages, class.bytes));
    }
    for ancestor in &report.ancestors {
        line(
            ancestor.role,
            format!("{} (uuid {}), {} pages rest on it", ancestor.name, ancestor.uuid, ancestor.pages),
        );
    }
    for record in &report.frame_records {
        line("record", format!("{:<36} {:>6} × {:>10} bytes", record.name, record.count, record.bytes));
    }
    line("frame check", report.checks.frame.clone());
    text
}
