//! `comio ls`: the images of a directory, each under the one that it was saved upon.

use std::collections::BTreeMap;

use comio_core::engine::{self, Image};
use comio_core::format::ancestor::Role;
use comio_core::storage::{ObjectInfo, Storage};
use serde::Serialize;

use super::{Used, share};
use crate::args::{Ls, Resources};
use crate::exit::Exit;
use crate::output;
use crate::session::Session;

#[derive(Serialize)]
struct Listed {
    name: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Summary>,
}

#[derive(Serialize)]
struct Summary {
    uuid: String,
    created_unix_s: u64,
    guest_bytes: u64,
    ratio: f64,
    incomplete: bool,
    /// Why it must not be restored (again).
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed: Option<Used>,
    /// The images that pages of it are kept in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rests_on: Vec<RestsOn>,
}

#[derive(Serialize)]
struct RestsOn {
    role: &'static str,
    name: String,
    uuid: String,
    pages: u64,
    /// Whether it is in this directory.
    here: bool,
}

pub(super) async fn run(args: Ls) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = session.directory(&args.directory).await?;
    let mut objects = storage.list().await?;
    objects.retain(|object| !engine::is_mark(&object.name));
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    let mut listed = Vec::new();
    for object in objects {
        listed.push(look_into(&*storage, object).await?);
    }
    note_who_is_here(&mut listed);
    if args.json {
        output::json(&listed)?;
    } else {
        output::data(&table(&listed))?;
    }
    Ok(Exit::Done)
}

/// Files that are no images are listed as such: somebody keeps them there.
async fn look_into(storage: &dyn Storage, object: ObjectInfo) -> anyhow::Result<Listed> {
    let image = match storage.open(&object.name).await {
        Ok(reader) => Image::open(reader).await.ok(),
        Err(_) => None,
    };
    let consumed = match &image {
        Some(image) => engine::consumed(storage, &image.superblock().uuid).await?,
        None => None,
    };
    let summary = image.map(|image| {
        let guest_bytes = image.footer().totals.pages * comio_core::PAGE_SIZE as u64;
        Summary {
            uuid: uuid::Uuid::from_bytes(image.superblock().uuid).to_string(),
            created_unix_s: image.superblock().created_unix_s,
            guest_bytes,
            ratio: share(guest_bytes, image.len()),
            incomplete: image.footer().incomplete,
            consumed: consumed.map(Used::from),
            rests_on: rests_on(&image),
        }
    });
    Ok(Listed { name: object.name, bytes: object.len, image: summary })
}

fn rests_on(image: &Image) -> Vec<RestsOn> {
    let ancestors = image.superblock().ancestors.iter().zip(image.footer().totals.rests_on);
    let used = ancestors.filter(|(_, pages)| *pages > 0);
    used.map(|(ancestor, pages)| RestsOn {
        role: ancestor.role.name(),
        name: ancestor.name.clone(),
        uuid: uuid::Uuid::from_bytes(ancestor.uuid).to_string(),
        pages,
        here: false,
    })
    .collect()
}

fn note_who_is_here(listed: &mut [Listed]) {
    let names: BTreeMap<String, String> =
        listed.iter().filter_map(|row| Some((row.image.as_ref()?.uuid.clone(), row.name.clone()))).collect();
    for ancestor in
        listed.iter_mut().filter_map(|row| row.image.as_mut()).flat_map(|image| &mut image.rests_on)
    {
        if let Some(name) = names.get(&ancestor.uuid) {
            ancestor.here = true;
            ancestor.name.clone_from(name);
        }
    }
}

/// The image that `row` is listed under: its parent, or its template.
fn stem(row: &Listed) -> Option<&RestsOn> {
    let rests_on = &row.image.as_ref()?.rests_on;
    let by_role = |role: Role| rests_on.iter().find(|ancestor| ancestor.role == role.name() && ancestor.here);
    by_role(Role::Parent).or_else(|| by_role(Role::Template))
}

/// Rows in the order of the tree, with their depth.
fn tree(listed: &[Listed]) -> Vec<(usize, &Listed)> {
    let mut under: BTreeMap<Option<&str>, Vec<&Listed>> = BTreeMap::new();
    for row in listed {
        under.entry(stem(row).map(|stem| stem.name.as_str())).or_default().push(row);
    }
    let mut ordered = Vec::with_capacity(listed.len());
    let mut waiting: Vec<(usize, &Listed)> =
        under.remove(&None).unwrap_or_default().into_iter().rev().map(|row| (0, row)).collect();
    while let Some((depth, row)) = waiting.pop() {
        ordered.push((depth, row));
        let children = under.remove(&Some(row.name.as_str())).unwrap_or_default();
        waiting.extend(children.into_iter().rev().map(|child| (depth + 1, child)));
    }
    // Images that name each other can only be forged; they are listed all the same.
    ordered.extend(under.into_values().flatten().map(|row| (0, row)));
    ordered
}

fn table(listed: &[Listed]) -> String {
    use std::fmt::Write as _;
    let rows = tree(listed);
    let width = rows.iter().map(|(depth, row)| 2 * depth + row.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$} {:>14} {:>14} {:>7} RESTS ON\n", "NAME", "STORED", "GUEST", "RATIO");
    for (depth, row) in rows {
        let (guest, ratio) = match &row.image {
            Some(image) => (image.guest_bytes.to_string(), format!("{:.2}", image.ratio)),
            None => ("no image".to_owned(), String::new()),
        };
        let name = format!("{:indent$}{}", "", row.name, indent = 2 * depth);
        let line = format!("{name:width$} {:>14} {guest:>14} {ratio:>7} {}", row.bytes, stems(row));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// What an image rests on and whether it was used, for people; what is not here is said to be elsewhere.
fn stems(row: &Listed) -> String {
    let rests_on = row.image.iter().flat_map(|image| &image.rests_on);
    let words = rests_on.map(|ancestor| {
        let elsewhere = if ancestor.here { "" } else { " (not here)" };
        format!("{} {}{elsewhere}", ancestor.role, ancestor.name)
    });
    let used = row.image.iter().filter_map(|image| image.consumed.as_ref());
    let used = used.map(|used| format!("[{}]", used.why));
    words.chain(used).collect::<Vec<_>>().join(", ")
}
