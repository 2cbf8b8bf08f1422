//! `comio restore`: an image becomes a guest of this Xen host again.

use anyhow::{Context, bail};
use comio_backends::toolstack::journal::Operation;
use comio_backends::toolstack::{Plan, Toolstack, Xl, open_journal};
use comio_backends::xen::SavedConfig;
use comio_core::engine::{self, ConsumedBy, Image, Restoring};
use comio_core::format::frame::{FrameItem, items};
use comio_core::tape::TapeFormat;
use serde::Serialize;

use super::host;
use super::save::now;
use crate::ancestors;
use crate::args::Restore;
use crate::exit::Exit;
use crate::guest_config;
use crate::location::{self, Location};
use crate::marks;
use crate::output;
use crate::session::Session;

/// A guest that was restored.
#[derive(Serialize)]
pub(super) struct Restored {
    pub(super) guest: String,
    pub(super) guest_uuid: String,
    pub(super) guest_bytes: u64,
    pub(super) seconds: f64,
}

pub(super) async fn run(mut args: Restore) -> anyhow::Result<Exit> {
    if args.all {
        return host::restore_all(args).await;
    }
    let session = Session::new(&args.resources)?;
    let image = args.names.pop().context("say which IMAGE to restore")?;
    if let Some(config) = args.names.pop() {
        if args.config.is_some() || args.name.is_some() {
            bail!("{config} before the image is a configuration for xl: say that once, and a name in it");
        }
        args.config = Some(config.into());
    }
    let restored = restore(&session, &args, &image).await?;
    if args.json {
        output::json(&restored)?;
    } else {
        let (guest, seconds) = (&restored.guest, restored.seconds);
        let state = if args.paused { "is there, paused" } else { "runs" };
        output::say(&format!("{guest} {state}: {} bytes in {seconds:.1} s", restored.guest_bytes));
    }
    Ok(Exit::Done)
}

/// Restores the guest of the image at `text`.
pub(super) async fn restore(session: &Session, args: &Restore, text: &str) -> anyhow::Result<Restored> {
    let started = now();
    let looking = look_into(session, text, &args.ancestors.ancestors);
    let (location, image, mut saved) = session.unless_stopped(looking).await?;
    if let Some(name) = &args.name {
        saved.name.clone_from(name);
    }
    let config = match &args.config {
        Some(file) => Some(guest_config::for_restore(file, &mut saved)?),
        None => None,
    };
    let plan = Plan {
        operation: Operation::Restore,
        image: location::lasting(text)?,
        image_uuid: uuid::Uuid::from_bytes(image.superblock().uuid).to_string(),
        saved: Some(saved.clone()),
        config: config.as_ref().map(|file| file.path().to_owned()),
        start_paused: args.paused,
    };
    let toolstack = Toolstack::new(Xl::new(args.xen.xl.clone()), open_journal(&args.xen.state_dir)?, plan);
    let mark = marks::mark(image.superblock().uuid, ConsumedBy::Restored);
    let once = Restoring { name: &location.name, mark: &mark, force: args.force, unique: marks::unique() };
    let restoring = Box::pin(engine::restore_guest_once(
        &session.engine,
        &*location.storage,
        &image,
        &toolstack,
        &saved.name,
        Some(once),
        &session.progress,
    ));
    let report = session.run_with_guest("restoring", &saved.name, restoring).await?;
    Ok(Restored {
        guest: saved.name,
        guest_uuid: saved.uuid,
        guest_bytes: report.guest_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The image at `text` with what it rests on, also in `directories`, and who is in it.
async fn look_into(
    session: &Session,
    text: &str,
    directories: &[String],
) -> anyhow::Result<(Location, Image, SavedConfig)> {
    let location = session.image(text).await?;
    let image = ancestors::open(&location, directories, session).await?;
    image.check_complete()?;
    let saved = saved_guest(&image).await?;
    Ok((location, image, saved))
}

/// Who is in `image`, whose ancestors need not be at hand.
pub(super) async fn saved_guest(image: &Image) -> anyhow::Result<SavedConfig> {
    if image.superblock().tape_format != TapeFormat::XEN_XL {
        bail!(
            "the image was not made from a Xen guest or a file of xl save: it can be unpacked, not restored"
        );
    }
    let mut frame = Vec::new();
    for entry in image.frames() {
        for item in items(&image.frame_chunk(entry).await?) {
            let FrameItem::Bytes(bytes) = item? else { continue };
            frame.extend_from_slice(bytes);
            if let Some(saved) = SavedConfig::read(&frame)? {
                return Ok(saved);
            }
        }
    }
    bail!("the image holds no configuration of a guest")
}
