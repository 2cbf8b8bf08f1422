//! `comio save --all` and `comio restore --all`: every guest of the host, several at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use comio_backends::toolstack::journal::Operation;
use comio_backends::toolstack::{DOMAIN_0, Domain, Xl};
use comio_core::engine::EngineError;
use futures::future::{Either, select};
use futures::{StreamExt, stream};
use serde::Serialize;

use super::pack;
use super::restore::{self, Restored};
use super::save::{self, Saved, now};
use crate::args::{Restore, Save};
use crate::exit::Exit;
use crate::host_config::{HostConfig, OnDeadline};
use crate::output;
use crate::session::Session;
use crate::signals::Signals;

/// Guests at once where nobody says: one reads its guest while the other writes its image.
const JOBS_DEFAULT: usize = 2;
/// A guest that is shut down because time is over has this long.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
const SHUTDOWN_POLL: Duration = Duration::from_secs(1);
const SUFFIX: &str = ".comio";

/// What became of one guest.
#[derive(Serialize)]
struct Outcome<T> {
    name: String,
    #[serde(rename = "outcome")]
    fate: &'static str,
    #[serde(flatten)]
    report: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// What became of all.
#[derive(Serialize)]
struct Summary<T> {
    done: usize,
    failed: usize,
    left_out: usize,
    seconds: f64,
    guests: Vec<Outcome<T>>,
}

impl<T> Outcome<T> {
    fn of(name: &str, done: &'static str, result: anyhow::Result<T>) -> Self {
        let name = name.to_owned();
        match result {
            Ok(report) => Self { name, fate: done, report: Some(report), trouble: None },
            Err(error) => Self { name, fate: "failed", report: None, trouble: Some(format!("{error:#}")) },
        }
    }

    fn without(name: &str, fate: &'static str) -> Self {
        Self { name: name.to_owned(), fate, report: None, trouble: None }
    }
}

/// Saves all guests but those left out.
pub(super) async fn save_all(args: Save) -> anyhow::Result<Exit> {
    let config = HostConfig::read(args.config.as_deref())?;
    let directory = directory(&args.names, &config)?;
    let session = pack::session(&args.packing)?;
    let xl = Xl::new(args.xen.xl.clone());
    let mut domains = xl.domains().await?;
    domains.retain(|domain| domain.id != DOMAIN_0);
    config.sort(&mut domains, |domain| &domain.name);
    let left_out: BTreeSet<&String> = args.exclude.iter().chain(&config.exclude).collect();
    let (excluded, chosen): (Vec<_>, Vec<_>) =
        domains.into_iter().partition(|domain| left_out.contains(&domain.name));

    let started = now();
    let jobs = args.jobs.or(config.jobs).unwrap_or(JOBS_DEFAULT).clamp(1, chosen.len().max(1));
    let sessions: Vec<Session> = chosen.iter().map(|_| session.share(jobs)).collect();
    let (over, signalled) = (AtomicBool::new(false), AtomicBool::new(false));
    let saving = stream::iter(chosen.iter().zip(&sessions))
        .map(|(domain, session)| save_one(&args, &directory, session, domain, &over));
    let saving = saving.buffered(jobs).collect::<Vec<_>>();
    let deadline = args.deadline.or(config.deadline()?);
    let stop = || {
        over.store(true, Ordering::Release);
        for session in &*sessions {
            session.progress.stop();
        }
    };
    let saving = until(deadline, saving, stop);
    let mut guests = unless_signalled(&signalled, saving, stop).await?;
    let signalled = signalled.into_inner();
    if signalled {
        guests.iter_mut().filter(|guest| guest.fate == "deadline").for_each(|guest| guest.fate = "stopped");
    }
    if over.into_inner() && !signalled && config.on_deadline == OnDeadline::Shutdown {
        shut_down_the_rest(&xl, &chosen, &mut guests).await;
    }
    guests.extend(excluded.iter().map(|domain| Outcome::without(&domain.name, "excluded")));
    finish(guests, started.elapsed(), args.packing.json, signalled)
}

async fn save_one(
    args: &Save,
    directory: &str,
    session: &Session,
    domain: &Domain,
    over: &AtomicBool,
) -> Outcome<Saved> {
    if over.load(Ordering::Acquire) {
        return Outcome::without(&domain.name, "deadline");
    }
    let saved = async {
        let image = within(directory, &format!("{}{SUFFIX}", domain.name))?;
        save::save(session, &args.packing, &args.xen, Operation::Save, domain, &image).await
    };
    let mut outcome = Outcome::of(&domain.name, "saved", saved.await);
    if over.load(Ordering::Acquire) && outcome.report.is_none() {
        outcome.fate = "deadline";
    }
    tell(&outcome);
    outcome
}

/// Runs `all` to its end; a signal is noted, calls `stop`, and the end is awaited: SIGTERM means
/// every guest, those that were not begun too.
async fn unless_signalled<T>(
    signalled: &AtomicBool,
    all: impl Future<Output = T>,
    stop: impl FnOnce(),
) -> anyhow::Result<T> {
    let mut signals = Signals::listen()?;
    let mut all = std::pin::pin!(all);
    tokio::select! {
        done = &mut all => return Ok(done),
        () = signals.any() => {}
    }
    signalled.store(true, Ordering::Release);
    stop();
    Ok(all.await)
}

/// Runs `all` to its end; when `deadline` comes first, `stop` is called and the end awaited.
#[expect(clippy::disallowed_methods, reason = "the user's own deadline")]
async fn until<T>(deadline: Option<Duration>, all: impl Future<Output = T>, stop: impl FnOnce()) -> T {
    let Some(deadline) = deadline else { return all.await };
    match select(std::pin::pin!(all), std::pin::pin!(tokio::time::sleep(deadline))).await {
        Either::Left((done, _)) => done,
        Either::Right(((), all)) => {
            output::say("comio: the deadline is over: guests that are not saved yet run on");
            stop();
            all.await
        }
    }
}

/// Asks guests that the deadline has left running to shut down, and waits a while.
#[expect(clippy::disallowed_methods, reason = "waiting for guests")]
async fn shut_down_the_rest(xl: &Xl, domains: &[Domain], guests: &mut [Outcome<Saved>]) {
    let late = |guests: &[Outcome<Saved>], domain: &Domain| {
        guests.iter().any(|guest| guest.fate == "deadline" && guest.name == domain.name)
    };
    let mut waiting: Vec<&Domain> = domains.iter().filter(|domain| late(guests, domain)).collect();
    for domain in &waiting {
        if let Err(error) = xl.shut_down(domain).await {
            output::say(&format!("comio: {error}"));
        }
    }
    let started = now();
    while !waiting.is_empty() && started.elapsed() < SHUTDOWN_LIMIT {
        tokio::time::sleep(SHUTDOWN_POLL).await;
        let Ok(there) = xl.domains().await else { break };
        waiting.retain(|domain| there.iter().any(|other| other.uuid == domain.uuid));
    }
    let still: BTreeSet<&str> = waiting.iter().map(|domain| domain.name.as_str()).collect();
    for guest in guests.iter_mut().filter(|guest| guest.fate == "deadline") {
        if !still.contains(guest.name.as_str()) {
            guest.fate = "shut-down";
        }
    }
}

/// Restores all images of a directory whose guests were not restored yet.
pub(super) async fn restore_all(args: Restore) -> anyhow::Result<Exit> {
    let config = HostConfig::read(args.config.as_deref())?;
    let directory = directory(args.image.as_slice(), &config)?;
    let session = Session::new(&args.resources)?;
    let storage = session.directory(&directory).await?;
    let objects = storage.list().await?.into_iter().map(|object| object.name);
    let mut images: Vec<String> = objects.filter(|name| name.ends_with(SUFFIX)).collect();
    config.sort(&mut images, |name| name.trim_end_matches(SUFFIX));

    let started = now();
    let jobs = args.jobs.or(config.jobs).unwrap_or(JOBS_DEFAULT).clamp(1, images.len().max(1));
    let one = Restore { config: None, ..args };
    let sessions: Vec<Session> = images.iter().map(|_| session.share(jobs)).collect();
    let signalled = AtomicBool::new(false);
    let restoring = stream::iter(images.iter().zip(&sessions))
        .map(|(name, session)| restore_one(&one, &directory, session, name, &signalled));
    let restoring = restoring.buffered(jobs).collect::<Vec<_>>();
    let stop = || sessions.iter().for_each(|session| session.progress.stop());
    let guests = unless_signalled(&signalled, restoring, stop).await?;
    finish(guests, started.elapsed(), one.json, signalled.into_inner())
}

async fn restore_one(
    args: &Restore,
    directory: &str,
    session: &Session,
    name: &str,
    signalled: &AtomicBool,
) -> Outcome<Restored> {
    if signalled.load(Ordering::Acquire) {
        return Outcome::without(name, "stopped");
    }
    let restored = async { restore::restore(session, args, &within(directory, name)?).await };
    let restored = restored.await;
    let used = restored.as_ref().err().and_then(|error| error.downcast_ref::<EngineError>());
    let used = matches!(used, Some(EngineError::AlreadyConsumed(..)));
    let mut outcome = Outcome::of(name, "restored", restored);
    if used {
        outcome.fate = "consumed";
    }
    tell(&outcome);
    outcome
}

fn tell<T>(outcome: &Outcome<T>) {
    let trouble = outcome.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
    output::say(&format!("{} {}{trouble}", outcome.name, outcome.fate));
}

fn finish<T: Serialize>(
    guests: Vec<Outcome<T>>,
    took: Duration,
    json: bool,
    signalled: bool,
) -> anyhow::Result<Exit> {
    let count = |test: &dyn Fn(&Outcome<T>) -> bool| guests.iter().filter(|guest| test(guest)).count();
    let done = count(&|guest| guest.report.is_some());
    let left_out = count(&|guest| matches!(guest.fate, "excluded" | "consumed"));
    let failed = guests.len() - done - left_out;
    let summary = Summary { done, failed, left_out, seconds: took.as_secs_f64(), guests };
    if json {
        output::json(&summary)?;
    } else {
        output::say(&format!(
            "{done} done, {failed} failed, {left_out} left out, in {:.1} s",
            summary.seconds
        ));
    }
    Ok(match failed {
        0 => Exit::Done,
        _ if signalled => Exit::Stopped,
        _ => Exit::Failed,
    })
}

/// The directory that the user named, or else the host's configuration.
fn directory(names: &[String], config: &HostConfig) -> anyhow::Result<String> {
    match names {
        [] => config
            .storage
            .clone()
            .context("say in which directory, or name it in the host's configuration (storage)"),
        [directory] => Ok(directory.clone()),
        _ => bail!("with --all, name one directory"),
    }
}

/// The path or URL of `name` in `directory`.
fn within(directory: &str, name: &str) -> anyhow::Result<String> {
    if name.contains('/') {
        bail!("no image can be called {name:?}");
    }
    if !directory.starts_with("nfs://") {
        return Ok(format!("{}/{name}", directory.trim_end_matches('/')));
    }
    let (path, options) =
        directory.split_once('?').map_or((directory, None), |(path, options)| (path, Some(options)));
    let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23").replace(' ', "%20");
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Ok(format!("{}/{name}{options}", path.trim_end_matches('/')))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_are_put_into_paths_and_urls() {
        assert_eq!(within("/images/", "a.comio").expect("fits"), "/images/a.comio");
        let url = within("nfs://host/images?uid=0", "a b.comio").expect("fits");
        assert_eq!(url, "nfs://host/images/a%20b.comio?uid=0");
        assert!(within("/images", "../a").is_err());
    }
}
