//! Guests that a save of the whole host has left running.

use std::collections::BTreeSet;
use std::time::Duration;

use comio_backends::toolstack::{Domain, Xl};
use comio_core::engine::{ConsumedBy, EngineError, Image};
use comio_core::storage::StorageErrorKind;
use futures::{StreamExt, stream};

use super::super::restore::saved_guest;
use super::super::save::{Saved, now};
use super::outcome::Outcome;
use super::{SUFFIX, within};
use crate::marks;
use crate::output;
use crate::session::Session;

/// A guest that is asked to shut down has this long.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
const SHUTDOWN_POLL: Duration = Duration::from_secs(1);
/// The host is to go off, and its storage may be what failed: no longer than this for marks.
const MARK_LIMIT: Duration = Duration::from_secs(5);
const MARKS_AT_ONCE: usize = 4;

/// Marks images from an earlier time of guests that ran and were not saved now: their disks are
/// newer, and the next start of the host would restore them.
#[expect(clippy::disallowed_methods, reason = "the program's own limit")]
pub(super) async fn mark_older_images(
    session: &Session,
    directory: &str,
    domains: &[Domain],
    guests: &[Outcome<Saved>],
) {
    let unsaved = domains.iter().zip(guests);
    let unsaved = unsaved.filter(|(domain, guest)| guest.report.is_none() && domain.is_running());
    let marking = stream::iter(unsaved).for_each_concurrent(MARKS_AT_ONCE, |(domain, guest)| async move {
        match mark_older_image(session, directory, domain, guest).await {
            Ok(false) => {}
            Ok(true) => output::say(&format!("{}: its older image is marked as used", domain.name)),
            Err(error) => output::say(&format!(
                "comio: if there is an older image of {}, do not restore it: it could not be marked as used ({error:#})",
                domain.name
            )),
        }
    });
    if tokio::time::timeout(MARK_LIMIT, marking).await.is_err() {
        output::say(
            "comio: the storage does not answer: do not restore older images of guests that were not saved, they could not be marked as used",
        );
    }
}

/// Whether there is such an image, and it was marked.
async fn mark_older_image(
    session: &Session,
    directory: &str,
    domain: &Domain,
    guest: &Outcome<Saved>,
) -> anyhow::Result<bool> {
    let location = session.image(&within(directory, &format!("{}{SUFFIX}", domain.name))?).await?;
    let image = match location.storage.open(&location.name).await {
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(false),
        opened => Image::open(opened?).await?,
    };
    let uuid = image.superblock().uuid;
    // Its own image came to be, only the guest could not be destroyed: comio recover sees to both.
    if guest.begun == Some(uuid) {
        return Ok(false);
    }
    let saved = saved_guest(&image).await?;
    if saved.uuid != domain.uuid && saved.name != domain.name {
        return Ok(false);
    }
    match marks::put(&location, &marks::mark(uuid, ConsumedBy::RanOn), false).await {
        Ok(()) => Ok(true),
        Err(EngineError::AlreadyConsumed(..)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks guests that were not saved and still run to shut down, and waits a while.
#[expect(clippy::disallowed_methods, reason = "waiting for guests")]
pub(super) async fn shut_down(xl: &Xl, domains: &[Domain], guests: &mut [Outcome<Saved>]) {
    let there = match xl.domains().await {
        Ok(there) => there,
        Err(error) => return output::say(&format!("comio: {error}")),
    };
    let runs = |domain: &Domain| there.iter().any(|now| now.uuid == domain.uuid && now.is_running());
    let unsaved =
        domains.iter().zip(&*guests).filter(|(domain, guest)| guest.report.is_none() && runs(domain));
    let mut waiting: Vec<&Domain> = unsaved.map(|(domain, _)| domain).collect();
    let asked: BTreeSet<u32> = waiting.iter().map(|domain| domain.id).collect();
    for domain in &waiting {
        output::say(&format!("comio: {} was not saved, and is asked to shut down", domain.name));
        if let Err(error) = xl.shut_down(domain).await {
            output::say(&format!("comio: {error}"));
        }
    }
    let started = now();
    while !waiting.is_empty() && started.elapsed() < SHUTDOWN_LIMIT {
        tokio::time::sleep(SHUTDOWN_POLL).await;
        let Ok(there) = xl.domains().await else { break };
        for ended in there.iter().filter(|other| waiting.iter().any(|domain| domain.uuid == other.uuid)) {
            if let Err(error) = xl.clear_away(ended).await {
                output::say(&format!("comio: {error}"));
            }
        }
        waiting
            .retain(|domain| there.iter().any(|other| other.uuid == domain.uuid && !other.has_powered_off()));
    }
    let still: BTreeSet<u32> = waiting.iter().map(|domain| domain.id).collect();
    for (domain, guest) in domains.iter().zip(guests) {
        if asked.contains(&domain.id) && !still.contains(&domain.id) {
            guest.fate = "shut-down";
        }
    }
}
