//! `comio ls`: the images of a directory.

use comio_core::engine::Image;
use comio_core::storage::{ObjectInfo, Storage};
use serde::Serialize;

use super::share;
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
}

pub(super) async fn run(args: Ls) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let storage = crate::location::directory(&args.directory, &session.pool).await?;
    let mut objects = storage.list().await?;
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    let mut listed = Vec::new();
    for object in objects {
        listed.push(look_into(&*storage, object).await);
    }
    if args.json {
        output::json(&listed)?;
    } else {
        output::data(&table(&listed))?;
    }
    Ok(Exit::Done)
}

/// Files that are no images are listed as such: somebody keeps them there.
async fn look_into(storage: &dyn Storage, object: ObjectInfo) -> Listed {
    let image = match storage.open(&object.name).await {
        Ok(reader) => Image::open(reader).await.ok(),
        Err(_) => None,
    };
    let summary = image.map(|image| {
        let guest_bytes = image.footer().totals.pages * comio_core::PAGE_SIZE as u64;
        Summary {
            uuid: uuid::Uuid::from_bytes(image.superblock().uuid).to_string(),
            created_unix_s: image.superblock().created_unix_s,
            guest_bytes,
            ratio: share(guest_bytes, image.len()),
            incomplete: image.footer().incomplete,
        }
    });
    Listed { name: object.name, bytes: object.len, image: summary }
}

fn table(listed: &[Listed]) -> String {
    use std::fmt::Write as _;
    let width = listed.iter().map(|row| row.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$} {:>14} {:>14} {:>7}\n", "NAME", "STORED", "GUEST", "RATIO");
    for row in listed {
        let (guest, ratio) = match &row.image {
            Some(image) => (image.guest_bytes.to_string(), format!("{:.2}", image.ratio)),
            None => ("no image".to_owned(), String::new()),
        };
        let _ = writeln!(text, "{:width$} {:>14} {guest:>14} {ratio:>7}", row.name, row.bytes);
    }
    text
}
