//! `comio save` and `comio checkpoint`: a guest of this Xen host becomes an image.

use std::time::{Duration, Instant};

use anyhow::bail;
use comio_backends::toolstack::journal::Operation;
use comio_backends::toolstack::{Domain, Plan, Toolstack, Xl, open_journal};
use comio_core::engine::{self, ConsumedBy, Foundation, SaveOptions, SaveReport};
use serde::Serialize;

use super::host;
use super::pack::{self, Report, Unusable};
use crate::ancestors;
use crate::args::{Checkpoint, Packing, Save, Xen};
use crate::exit::Exit;
use crate::location::{self, Location};
use crate::marks;
use crate::output;
use crate::session::{Session, save_options};

/// A guest that was saved.
#[derive(Serialize)]
pub(super) struct Saved {
    guest: String,
    guest_uuid: String,
    /// From the command's first question to xl to its end.
    seconds: f64,
    /// How long the guest stood still until it ran on, or was destroyed.
    downtime_s: f64,
    #[serde(flatten)]
    report: Report,
}

pub(super) async fn run(args: Save) -> anyhow::Result<Exit> {
    if args.all {
        return host::save_all(args).await;
    }
    let [domain, image] = args.names.as_slice() else {
        bail!("say which DOMAIN to save as which IMAGE, or --all");
    };
    let operation = match (args.checkpoint, args.pause) {
        (true, _) => Operation::Checkpoint,
        (_, true) => Operation::Hold,
        _ => Operation::Save,
    };
    one(&args.packing, &args.xen, operation, domain, image).await
}

pub(super) async fn checkpoint(args: Checkpoint) -> anyhow::Result<Exit> {
    one(&args.packing, &args.xen, Operation::Checkpoint, &args.domain, &args.image).await
}

async fn one(
    packing: &Packing,
    xen: &Xen,
    operation: Operation,
    domain: &str,
    image: &str,
) -> anyhow::Result<Exit> {
    let session = pack::session(packing)?;
    let domain = Xl::new(xen.xl.clone()).domain(domain).await?;
    let options = save_options(!packing.no_clobber);
    let saved = save(&session, packing, xen, operation, &domain, image, &options).await?;
    if packing.json {
        output::json(&saved)?;
    } else {
        let words = saved.report.words();
        output::say(&format!("{}: {words}; it stood still for {:.1} s", saved.guest, saved.downtime_s));
    }
    Ok(Exit::Done)
}

/// Saves `domain` as `image`.
pub(super) async fn save(
    session: &Session,
    packing: &Packing,
    xen: &Xen,
    operation: Operation,
    domain: &Domain,
    image: &str,
    options: &SaveOptions,
) -> anyhow::Result<Saved> {
    let preparing = prepare(session, packing, image);
    let (target, foundation, unusable) = session.unless_stopped(preparing).await?;
    let plan = Plan {
        operation,
        image: location::lasting(image)?,
        image_uuid: uuid::Uuid::from_bytes(options.uuid).to_string(),
        saved: None,
        config: None,
        start_paused: false,
    };
    let toolstack = Toolstack::new(Xl::new(xen.xl.clone()), open_journal(&xen.state_dir)?, plan);
    let goes_on = marks::mark(options.uuid, ConsumedBy::RanOn);
    let ran_on = (operation != Operation::Save).then_some(&goes_on);
    let started = now();
    let saving = Box::pin(engine::save_guest_upon(
        &session.engine,
        foundation.as_ref(),
        &toolstack,
        &domain.uuid,
        &*target.storage,
        &target.name,
        options,
        ran_on,
        &session.progress,
    ));
    let saving = async {
        match saving.await {
            Ok(report) => Ok(report),
            Err(failure) => {
                let (storage, name) = (&*target.storage, &target.name);
                let too_late = session.stop_limit();
                Err(engine::mark_in_doubt(storage, name, &goes_on, marks::unique(), failure, too_late).await)
            }
        }
    };
    let report: SaveReport = session.run_with_guest("saving", &domain.name, saving).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Saved {
        guest: domain.name.clone(),
        guest_uuid: domain.uuid.clone(),
        seconds,
        downtime_s: toolstack.still().unwrap_or(Duration::ZERO).as_secs_f64(),
        report: Report::without(report, &unusable),
    })
}

/// Where the image goes, what it rests on, and what it was to rest on and cannot.
async fn prepare(
    session: &Session,
    packing: &Packing,
    image: &str,
) -> anyhow::Result<(Location, Option<Foundation>, Unusable)> {
    let target = session.image(image).await?;
    if !packing.no_clobber {
        ancestors::refuse_to_replace_needed(&target).await?;
    }
    let (foundation, unusable) = pack::foundation(packing, &target, session).await;
    Ok((target, foundation, unusable))
}

#[expect(clippy::disallowed_methods, reason = "the user is told how long it took")]
pub(super) fn now() -> Instant {
    Instant::now()
}
