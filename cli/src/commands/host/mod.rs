//! `comio save --all` and `comio restore --all`: every guest of the host, several at once.

mod outcome;
mod unsaved;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use comio_backends::toolstack::journal::Operation;
use comio_backends::toolstack::{DOMAIN_0, Domain, Xl, find_domain};
use comio_core::engine::EngineError;
use futures::future::{Either, select};
use futures::{StreamExt, stream};

use super::pack;
use super::restore::{self, Restored};
use super::save::{self, Saved, now};
use crate::args::{Restore, Save};
use crate::exit::Exit;
use crate::host_config::{HostConfig, OnDeadline};
use crate::output;
use crate::session::{Session, save_options};
use crate::signals::Signals;
use crate::total::Total;
use outcome::{Outcome, finish, tell};

/// Guests at once where nobody says: one reads its guest while the other writes its image.
const JOBS_DEFAULT: usize = 2;
const SUFFIX: &str = ".comio";

/// Saves all guests but those left out.
pub(super) async fn save_all(args: Save) -> anyhow::Result<Exit> {
    let config = HostConfig::read(args.config.as_deref())?;
    let directory = directory(&args.names, &config)?;
    let session = pack::session(&args.packing)?;
    let xl = Xl::new(args.xen.xl.clone());
    let mut domains = xl.domains().await?;
    let named = args.exclude.iter().map(|name| find_domain(&domains, name).map(|domain| domain.id));
    let named: BTreeSet<u32> = named.collect::<Result<_, _>>().context("--exclude")?;
    domains.retain(|domain| domain.id != DOMAIN_0);
    config.sort(&mut domains, |domain| &domain.name);
    let (excluded, chosen): (Vec<_>, Vec<_>) = domains
        .into_iter()
        .partition(|domain| named.contains(&domain.id) || config.excludes(&domain.name, &domain.uuid));

    let started = now();
    let jobs = args.jobs.or(config.jobs).unwrap_or(JOBS_DEFAULT).clamp(1, chosen.len().max(1));
    let sessions: Vec<Session> = chosen.iter().map(|_| session.share(jobs)).collect();
    let (over, signalled) = (AtomicBool::new(false), AtomicBool::new(false));
    let weights = chosen.iter().map(|domain| domain.memory_mib);
    let total = Total::of(weights.zip(&sessions));
    let saving = chosen
        .iter()
        .zip(&sessions)
        .map(|(domain, session)| save_one(&args, &directory, session, domain, &over));
    let saving = at_once(jobs, &session, &total, saving);
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
    unsaved::mark_older_images(&session, &directory, &chosen, &guests).await;
    // A directory that was mistyped must not end every guest; that of the configuration is the host's.
    let is_final = over.into_inner() || args.names.is_empty();
    if is_final && !signalled && config.on_deadline == OnDeadline::Shutdown {
        unsaved::shut_down(&xl, &chosen, &mut guests).await;
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
    let options = save_options(!args.packing.no_clobber);
    let saved = async {
        let image = within(directory, &format!("{}{SUFFIX}", domain.name))?;
        save::save(session, &args.packing, &args.xen, Operation::Save, domain, &image, &options).await
    };
    let mut outcome = Outcome::of(&domain.name, "saved", saved.await);
    outcome.begun = Some(options.uuid);
    if over.load(Ordering::Acquire) && outcome.report.is_none() {
        outcome.fate = "deadline";
    }
    tell(&outcome);
    outcome
}

/// Sees to `jobs` guests at once, and tells how far they all are; what became of each, in the order
/// of `guests`. A guest that takes long keeps no other from being begun.
async fn at_once<T>(
    jobs: usize,
    session: &Session,
    total: &Arc<Total>,
    guests: impl Iterator<Item = impl Future<Output = Outcome<T>>>,
) -> Vec<Outcome<T>> {
    let _line = session.show(total);
    let numbered = guests.enumerate().map(|(number, guest)| async move {
        let outcome = guest.await;
        total.is_over(number);
        (number, outcome)
    });
    let mut outcomes: Vec<_> = stream::iter(numbered).buffer_unordered(jobs).collect().await;
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
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

/// Restores all images of a directory whose guests were not restored yet.
pub(super) async fn restore_all(args: Restore) -> anyhow::Result<Exit> {
    let config = HostConfig::read(args.config.as_deref())?;
    let directory = directory(&args.names, &config)?;
    let session = Session::new(&args.resources)?;
    let storage = session.directory(&directory).await?;
    let mut images = storage.list().await?;
    images.retain(|image| image.name.ends_with(SUFFIX));
    config.sort(&mut images, |image| image.name.trim_end_matches(SUFFIX));

    let started = now();
    let jobs = args.jobs.or(config.jobs).unwrap_or(JOBS_DEFAULT).clamp(1, images.len().max(1));
    let one = Restore { config: None, ..args };
    let sessions: Vec<Session> = images.iter().map(|_| session.share(jobs)).collect();
    let signalled = AtomicBool::new(false);
    let total = Total::of(images.iter().map(|image| image.len).zip(&sessions));
    let restoring = images
        .iter()
        .zip(&sessions)
        .map(|(image, session)| restore_one(&one, &directory, session, &image.name, &signalled));
    let restoring = at_once(jobs, &session, &total, restoring);
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
