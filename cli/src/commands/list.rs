//! `comio list`: Xen's domains.

use std::fmt::Write as _;

use comio_backends::toolstack::Xl;
use serde::Serialize;

use super::listing;
use crate::args::{List, Ls};
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Listed {
    id: u32,
    name: String,
    uuid: String,
    /// As xl shows it.
    state: String,
    memory_bytes: u64,
    vcpus: u32,
}

pub(super) async fn run(args: List) -> anyhow::Result<Exit> {
    if let Some(directory) = args.location {
        return listing::run(Ls { directory, json: args.json }).await;
    }
    let domains = Xl::new(args.xen.xl).domains().await?.into_iter();
    let listed: Vec<Listed> = domains
        .map(|domain| Listed {
            id: domain.id,
            name: domain.name,
            uuid: domain.uuid,
            state: domain.state,
            memory_bytes: domain.memory_mib << 20,
            vcpus: domain.vcpus,
        })
        .collect();
    if args.json {
        output::json(&listed)?;
    } else {
        output::data(&table(&listed))?;
    }
    Ok(Exit::Done)
}

fn table(listed: &[Listed]) -> String {
    let width = listed.iter().map(|domain| domain.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:>5}  {:width$}  state   {:>8}  uuid\n", "id", "name", "MiB");
    for Listed { id, name, uuid, state, memory_bytes, .. } in listed {
        let _ = writeln!(text, "{id:>5}  {name:width$}  {state}  {:>8}  {uuid}", memory_bytes >> 20);
    }
    text
}
