//! `comio recover`: guests that an interrupted save or restore has left in hand.

use anyhow::Context;
use comio_backends::toolstack::journal::{Entry, Operation, Step};
use comio_backends::toolstack::recovery::{Found, Recovery};
use comio_backends::toolstack::{Domain, Xl, open_journal};
use comio_core::engine::{self, ConsumedBy, Image, Progress};
use serde::Serialize;

use crate::args::{Recover, Resources};
use crate::exit::Exit;
use crate::marks;
use crate::output;
use crate::session::Session;

/// What was done about one guest.
#[derive(Serialize)]
struct Done {
    guest: String,
    guest_uuid: String,
    image: String,
    /// Whether the image is there, by this save.
    image_complete: bool,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// A process is still at work on it.
    InWork,
    /// It is gone, or the host was started anew.
    Gone,
    /// It runs already.
    Runs,
    /// It was paused, and runs now.
    Unpaused,
    /// It was paused as the user had wished.
    LeftPaused,
    /// Its image is complete, and it was destroyed.
    Destroyed,
    /// A restore had not come to its end; what there was of the guest was removed.
    RemovedHalfMade,
    /// It could not be seen to.
    Failed,
}

pub(super) async fn run(args: Recover) -> anyhow::Result<Exit> {
    let session = Session::new(&Resources { workers: None, memory: None })?;
    let journal = open_journal(&args.xen.state_dir)?;
    let (entries, unreadable) = journal.entries().context("cannot read the journal")?;
    for path in &unreadable {
        output::say(&format!("{} cannot be read: see xl list for paused guests", path.display()));
    }
    let mut done = Vec::new();
    if !entries.is_empty() {
        let recovery = Recovery::new(Xl::new(args.xen.xl.clone()), journal).await?;
        for entry in &entries {
            done.push(see_to(&session, &recovery, entry, args.finish).await);
        }
    }
    let failed = !unreadable.is_empty() || done.iter().any(|done| done.outcome == Outcome::Failed);
    if args.json {
        output::json(&done)?;
    } else {
        done.iter().for_each(tell);
        if done.is_empty() && unreadable.is_empty() {
            output::say("no guest was left in hand");
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

async fn see_to(session: &Session, recovery: &Recovery, entry: &Entry, finish: bool) -> Done {
    let image = complete_image(session, entry).await;
    let mut trouble = image.as_ref().err().map(|error| format!("{error:#}"));
    let image = image.unwrap_or(None);
    let image = image.as_ref();
    let outcome = decide(session, recovery, entry, finish, image).await.unwrap_or_else(|error| {
        trouble = Some(format!("{error:#}"));
        Outcome::Failed
    });
    Done {
        guest: entry.name.clone(),
        guest_uuid: entry.uuid.clone(),
        image: entry.image.clone(),
        image_complete: image.is_some(),
        outcome,
        trouble,
    }
}

async fn decide(
    session: &Session,
    recovery: &Recovery,
    entry: &Entry,
    finish: bool,
    image: Option<&Image>,
) -> anyhow::Result<Outcome> {
    match recovery.find(entry) {
        Found::InWork => Ok(Outcome::InWork),
        Found::Gone => {
            if (entry.operation, entry.step) == (Operation::Restore, Step::Streaming) {
                unmark(session, entry).await?;
            }
            recovery.forget(entry)?;
            Ok(Outcome::Gone)
        }
        Found::Runs(_) => {
            mark_ran_on(session, entry, image).await?;
            recovery.forget(entry)?;
            Ok(Outcome::Runs)
        }
        Found::Paused { domain, unchanged } => {
            paused(session, recovery, entry, finish && unchanged, image, &domain).await
        }
    }
}

async fn paused(
    session: &Session,
    recovery: &Recovery,
    entry: &Entry,
    may_destroy: bool,
    image: Option<&Image>,
    domain: &Domain,
) -> anyhow::Result<Outcome> {
    match (entry.operation, entry.step) {
        (Operation::Restore, Step::Streaming) => {
            recovery.destroy(entry).await?;
            unmark(session, entry).await?;
            return Ok(Outcome::RemovedHalfMade);
        }
        (Operation::Hold, Step::Held) if image.is_some() => {
            recovery.forget(entry)?;
            return Ok(Outcome::LeftPaused);
        }
        _ => {}
    }
    if let (Operation::Save, true, Some(image)) = (entry.operation, may_destroy, image) {
        let progress = Progress::default();
        let report = engine::verify_deep(&session.engine, image, &progress).await?;
        if report.damages.is_empty() {
            recovery.destroy(entry).await?;
            return Ok(Outcome::Destroyed);
        }
    }
    // The guest comes first: it runs on even if its image cannot be marked.
    let marked = mark_ran_on(session, entry, image).await;
    recovery.unpause(entry, domain).await?;
    marked.context("the guest runs on, but its image could not be marked: do not restore that")?;
    Ok(Outcome::Unpaused)
}

/// The guest goes on, so its image must not be restored beside it.
async fn mark_ran_on(session: &Session, entry: &Entry, image: Option<&Image>) -> anyhow::Result<()> {
    let Some(image) = image.filter(|_| entry.operation != Operation::Restore) else { return Ok(()) };
    let location = session.image(&entry.image).await?;
    let mark = marks::mark(image.superblock().uuid, ConsumedBy::RanOn);
    Ok(marks::put(&location, &mark, true).await?)
}

/// The guest was never restored, so its image can be.
async fn unmark(session: &Session, entry: &Entry) -> anyhow::Result<()> {
    let location = session.image(&entry.image).await?;
    let uuid = uuid::Uuid::parse_str(&entry.image_uuid).context("the journal names no valid image")?;
    Ok(engine::unconsume(&*location.storage, &uuid.into_bytes()).await?)
}

/// The image of `entry`'s save, if it came to be.
async fn complete_image(session: &Session, entry: &Entry) -> anyhow::Result<Option<Image>> {
    let location = session.image(&entry.image).await?;
    let listed = location.storage.list().await?;
    if !listed.iter().any(|object| object.name == location.name) {
        return Ok(None);
    }
    let image = Image::open_with_ancestors(&*location.storage, &location.name, &[]).await?;
    let ours = uuid::Uuid::from_bytes(image.superblock().uuid).to_string() == entry.image_uuid;
    Ok(ours.then_some(image))
}

fn tell(done: &Done) {
    let outcome = match done.outcome {
        Outcome::InWork => "is in the hands of a process that still runs",
        Outcome::Gone => "is gone, or the host was started since: nothing to do",
        Outcome::Runs => "runs",
        Outcome::Unpaused => "was paused, and runs on now",
        Outcome::LeftPaused => "is paused, as its save was told to leave it",
        Outcome::Destroyed => "was destroyed: its image is complete and checked",
        Outcome::RemovedHalfMade => "was only half restored and was removed; its image is as it was",
        Outcome::Failed => "could not be seen to",
    };
    let image = match (done.image_complete, done.outcome) {
        (true, Outcome::Unpaused | Outcome::Runs) => {
            format!("; {} is whole, but the guest went on: do not restore it beside the guest", done.image)
        }
        _ => String::new(),
    };
    let trouble = done.trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    output::say(&format!("{} {outcome}{image}{trouble}", done.guest));
}
