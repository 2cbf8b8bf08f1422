//! `comio recover`: guests that an interrupted save or restore has left in hand.

use std::time::Duration;

use anyhow::{Context, bail};
use comio_backends::toolstack::journal::{Entry, Operation, Step};
use comio_backends::toolstack::recovery::{Found, Recovery};
use comio_backends::toolstack::{Domain, Xl, open_journal};
use comio_core::engine::{self, ConsumedBy, EngineError, Image, Progress};
use comio_core::format::ImageUuid;
use serde::Serialize;

use super::record;
use super::save::now;
use crate::ancestors;
use crate::args::{Recover, Resources};
use crate::exit::Exit;
use crate::marks;
use crate::output;
use crate::session::Session;

/// An xl that nobody reads from ends by itself, at the latest when its guest has not answered the
/// request to suspend for a minute.
const XL_LIMIT: Duration = Duration::from_secs(70);
const XL_POLL: Duration = Duration::from_millis(200);
/// A storage that does not answer must not keep a guest from running on.
const STORAGE_LIMIT: Duration = Duration::from_secs(30);

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
    /// Its process was killed, and the xl that this had started does not come to its end.
    Ending,
    /// It is gone, or the host was started anew.
    Gone,
    /// It runs already.
    Runs,
    /// It was paused, and runs now.
    Unpaused,
    /// It was paused as the user had wished.
    LeftPaused,
    /// It ran since its image was taken, and somebody paused it: that is not ours to end.
    RanSince,
    /// It was restored, and has never run: for the user to decide.
    NotStarted,
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
        wait_for_xl(&entries).await;
        let recovery = Recovery::new(Xl::new(args.xen.xl.clone()), journal).await?;
        for entry in &entries {
            done.push(see_to(&session, &recovery, entry, &args).await);
        }
    }
    let recordings = record::free_those_of_killed();
    if let Err(error) = &recordings {
        output::say(&format!("{error:#}"));
    }
    let open = |done: &Done| matches!(done.outcome, Outcome::Failed | Outcome::Ending);
    let failed = !unreadable.is_empty() || recordings.is_err() || done.iter().any(open);
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

/// What an xl still does with its guest must not be taken for what it leaves.
#[expect(clippy::disallowed_methods, reason = "waiting for another process")]
async fn wait_for_xl(entries: &[Entry]) {
    let started = now();
    while entries.iter().any(Entry::is_ending) && started.elapsed() < XL_LIMIT {
        tokio::time::sleep(XL_POLL).await;
    }
}

/// What a storage says to `question`, if it answers.
#[expect(clippy::disallowed_methods, reason = "the program's own limit")]
async fn in_time<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(STORAGE_LIMIT, question).await;
    answer.unwrap_or_else(|_| bail!("the storage did not answer within {} s", STORAGE_LIMIT.as_secs()))
}

/// Whether the image of a save came to be; an error if that cannot be told now.
type Made = anyhow::Result<Option<Image>>;

async fn see_to(session: &Session, recovery: &Recovery, entry: &Entry, args: &Recover) -> Done {
    let image = match entry.step {
        // Nothing is published before the journal says that all of the guest was read.
        Step::Streaming => Ok(None),
        Step::Held => in_time(complete_image(session, entry, &args.ancestors.ancestors)).await,
    };
    let mut trouble = image.as_ref().err().map(|error| format!("{error:#}"));
    let outcome = decide(session, recovery, entry, args.finish, &image).await.unwrap_or_else(|error| {
        trouble = Some(format!("{error:#}"));
        Outcome::Failed
    });
    Done {
        guest: entry.name.clone(),
        guest_uuid: entry.uuid.clone(),
        image: entry.image.clone(),
        image_complete: image.is_ok_and(|image| image.is_some()),
        outcome,
        trouble,
    }
}

async fn decide(
    session: &Session,
    recovery: &Recovery,
    entry: &Entry,
    finish: bool,
    image: &Made,
) -> anyhow::Result<Outcome> {
    let (outcome, ran_on) = match recovery.find(entry) {
        Found::InWork => return Ok(Outcome::InWork),
        Found::Ending => return Ok(Outcome::Ending),
        // A restored guest may have run before it went: a mark on its image stays.
        Found::Gone => (Outcome::Gone, false),
        Found::Runs(_) => (Outcome::Runs, true),
        Found::Stopped(domain) => return let_run(session, recovery, entry, image, &domain).await,
        Found::Paused { domain, unchanged } => match (entry.operation, entry.step) {
            (Operation::Restore, Step::Streaming) if finish => {
                recovery.destroy(entry).await?;
                in_time(unmark(session, entry)).await?;
                return Ok(Outcome::RemovedHalfMade);
            }
            (Operation::Restore, Step::Streaming) => {
                // Before the user is told that it may be let run.
                in_time(mark_used(session, entry, image)).await?;
                return Ok(Outcome::NotStarted);
            }
            (Operation::Hold, Step::Held) if matches!(image, Ok(Some(_))) => (Outcome::LeftPaused, true),
            (Operation::Save | Operation::Checkpoint, Step::Held) if !unchanged => (Outcome::RanSince, true),
            (Operation::Save, Step::Held) if finish && is_sound(session, image).await? => {
                recovery.destroy(entry).await?;
                return Ok(Outcome::Destroyed);
            }
            _ => return let_run(session, recovery, entry, image, &domain).await,
        },
    };
    if ran_on {
        in_time(mark_used(session, entry, image)).await?;
    }
    recovery.forget(entry)?;
    Ok(outcome)
}

/// Whether the image is there and every byte of it, and of what it rests on, is right.
async fn is_sound(session: &Session, image: &Made) -> anyhow::Result<bool> {
    let image = match image {
        Ok(Some(image)) => image,
        Ok(None) => return Ok(false),
        Err(error) => bail!("the guest stays paused, for its image cannot be checked: {error:#}"),
    };
    if image.check_complete().is_err() {
        return Ok(false);
    }
    let report = engine::verify_deep(&session.engine, image, &Progress::default()).await?;
    Ok(report.damages.is_empty())
}

/// The guest comes first: it runs on even if its image cannot be marked. It stays in the journal
/// then, so that the next time tries that again.
async fn let_run(
    session: &Session,
    recovery: &Recovery,
    entry: &Entry,
    image: &Made,
    domain: &Domain,
) -> anyhow::Result<Outcome> {
    let marked = in_time(mark_used(session, entry, image)).await;
    recovery.let_run(domain).await?;
    marked.context("the guest runs on, but its image could not be marked: do not restore that, and run comio recover again")?;
    recovery.forget(entry)?;
    Ok(Outcome::Unpaused)
}

/// The guest goes on or may do so, and its image must not be restored beside it. One that cannot be
/// opened may be whole all the same, and is marked; a mark that it has already says as much.
async fn mark_used(session: &Session, entry: &Entry, image: &Made) -> anyhow::Result<()> {
    let why = match (entry.operation, image) {
        (Operation::Restore, _) => ConsumedBy::Restored,
        (_, Ok(None)) => return Ok(()),
        _ => ConsumedBy::RanOn,
    };
    let location = session.image(&entry.image).await?;
    match marks::put(&location, &marks::mark(image_uuid(entry)?, why), false).await {
        Err(EngineError::AlreadyConsumed(..)) => Ok(()),
        marked => Ok(marked?),
    }
}

/// The guest was never restored here, so its image can be. A mark that another host has made
/// meanwhile, when it restored the image by force, stays.
async fn unmark(session: &Session, entry: &Entry) -> anyhow::Result<()> {
    let location = session.image(&entry.image).await?;
    let uuid = image_uuid(entry)?;
    let ours = marks::mark(uuid, ConsumedBy::Restored);
    match engine::consumed(&*location.storage, &uuid).await? {
        Some(there) if (there.why, &there.host) == (ours.why, &ours.host) => {
            Ok(engine::unconsume(&*location.storage, &uuid).await?)
        }
        _ => Ok(()),
    }
}

fn image_uuid(entry: &Entry) -> anyhow::Result<ImageUuid> {
    let uuid = uuid::Uuid::parse_str(&entry.image_uuid).context("the journal names no valid image")?;
    Ok(uuid.into_bytes())
}

/// The image of `entry`'s save, if it came to be.
async fn complete_image(
    session: &Session,
    entry: &Entry,
    directories: &[String],
) -> anyhow::Result<Option<Image>> {
    let location = session.image(&entry.image).await?;
    let listed = location.storage.list().await?;
    if !listed.iter().any(|object| object.name == location.name) {
        return Ok(None);
    }
    let image = ancestors::open(&location, directories, session).await?;
    let ours = uuid::Uuid::from_bytes(image.superblock().uuid).to_string() == entry.image_uuid;
    Ok(ours.then_some(image))
}

fn tell(done: &Done) {
    let outcome = match done.outcome {
        Outcome::InWork => "is in the hands of a process that still runs",
        Outcome::Ending => {
            "was in the hands of a process that was killed, whose xl is still at work on it: run comio recover again"
        }
        Outcome::Gone => "is gone, or the host was started since: nothing to do",
        Outcome::Runs => "runs",
        Outcome::Unpaused => "was paused, and runs on now",
        Outcome::LeftPaused => "is paused, as its save was told to leave it",
        Outcome::RanSince => "ran since its image was taken, and is paused by somebody else: left as it is",
        Outcome::NotStarted => {
            "was restored but never started, and its image is marked as used: xl unpause lets it run, comio recover --finish removes it and the mark"
        }
        Outcome::Destroyed => "was destroyed: its image is complete and checked",
        Outcome::RemovedHalfMade => "was only half restored and was removed; its image is as it was",
        Outcome::Failed => "could not be seen to",
    };
    let image = match (done.image_complete, done.outcome) {
        (true, Outcome::Unpaused | Outcome::Runs | Outcome::RanSince) => {
            format!("; {} is whole, but the guest went on: do not restore it beside the guest", done.image)
        }
        _ => String::new(),
    };
    let trouble = done.trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    output::say(&format!("{} {outcome}{image}{trouble}", done.guest));
}
