//! A herd: many guests moved at once, or one after the other, each timed.

use std::time::Duration;

use async_trait::async_trait;
use comio_core::engine::EngineError;
use futures::future::try_join_all;

use crate::report::{GuestTime, Phase};

/// How time passes for a herd.
#[async_trait]
pub(crate) trait Pace: Send + Sync {
    /// Time since any fixed moment.
    fn now(&self) -> Duration;

    /// Waits until then; not at all if it is past.
    async fn sleep_until(&self, moment: Duration);
}

/// What moves one guest.
#[async_trait]
pub(crate) trait Mover: Send + Sync {
    /// Saves it; gives the bytes stored.
    async fn save(&self) -> Result<u64, EngineError>;

    /// Restores it.
    async fn restore(&self) -> Result<(), EngineError>;

    /// Removes its image.
    async fn remove_image(&self) -> Result<(), EngineError>;

    /// Whether the restored guest is the same in every page; `None` if it was not compared.
    fn identical(&self) -> Option<bool>;
}

/// A guest of the herd.
pub(crate) struct Member {
    /// Its name.
    pub(crate) guest: String,
    /// When it is its turn, from the herd's start.
    pub(crate) arrival: Duration,
    /// What moves it.
    pub(crate) mover: Box<dyn Mover>,
}

/// Guests that are moved one after the other; lanes move at once.
pub(crate) type Lane = Vec<Member>;

/// What is done with every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    Save,
    Restore,
}

impl Move {
    /// What results call it.
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Save => Phase::Save,
            Self::Restore => Phase::Restore,
        }
    }
}

/// A herd that has arrived.
pub(crate) struct Arrived {
    /// From the first start to the last end.
    pub(crate) makespan: Duration,
    /// Each guest's start and end, from the herd's start.
    pub(crate) times: Vec<GuestTime>,
    /// Bytes that were stored; 0 for a restore.
    pub(crate) stored_bytes: u64,
}

/// A guest that failed.
#[derive(Debug, thiserror::Error)]
#[error("guest {guest}: {problem}")]
pub struct HerdError {
    /// Which.
    pub guest: String,
    /// Why.
    #[source]
    pub problem: EngineError,
}

/// What happened to one guest.
struct Moved {
    guest: String,
    start: Duration,
    end: Duration,
    stored_bytes: u64,
}

/// Saves or restores every member.
pub(crate) async fn run(herd: &[Lane], what: Move, pace: &dyn Pace) -> Result<Arrived, HerdError> {
    let begin = pace.now();
    let lanes = herd.iter().map(|lane| run_lane(lane, what, pace, begin));
    let moved: Vec<Moved> = try_join_all(lanes).await?.into_iter().flatten().collect();
    Ok(arrived(begin, moved))
}

async fn run_lane(
    lane: &Lane,
    what: Move,
    pace: &dyn Pace,
    begin: Duration,
) -> Result<Vec<Moved>, HerdError> {
    let mut moved = Vec::with_capacity(lane.len());
    for member in lane {
        pace.sleep_until(begin + member.arrival).await;
        let start = pace.now();
        let result = match what {
            Move::Save => member.mover.save().await,
            Move::Restore => member.mover.restore().await.map(|()| 0),
        };
        let stored_bytes = result.map_err(|problem| member.failed(problem))?;
        moved.push(Moved { guest: member.guest.clone(), start, end: pace.now(), stored_bytes });
    }
    Ok(moved)
}

/// Removes the images of every member.
pub(crate) async fn remove_images(herd: &[Lane]) -> Result<(), HerdError> {
    for member in herd.iter().flatten() {
        member.mover.remove_image().await.map_err(|problem| member.failed(problem))?;
    }
    Ok(())
}

/// Whether every member came back the same; `None` if any was not compared.
pub(crate) fn identical(herd: &[Lane]) -> Option<bool> {
    let mut verdicts = herd.iter().flatten().map(|member| member.mover.identical());
    verdicts.try_fold(true, |all, one| one.map(|one| all && one))
}

impl Member {
    fn failed(&self, problem: EngineError) -> HerdError {
        HerdError { guest: self.guest.clone(), problem }
    }
}

fn arrived(begin: Duration, moved: Vec<Moved>) -> Arrived {
    let first = moved.iter().map(|moved| moved.start).min().unwrap_or_default();
    let last = moved.iter().map(|moved| moved.end).max().unwrap_or_default();
    let stored_bytes = moved.iter().map(|moved| moved.stored_bytes).sum();
    let since = |moment: Duration| moment.saturating_sub(begin).as_secs_f64();
    let time =
        |moved: Moved| GuestTime { start_s: since(moved.start), end_s: since(moved.end), guest: moved.guest };
    let mut times: Vec<GuestTime> = moved.into_iter().map(time).collect();
    // Lanes deal the guests out in turn; people look for them by name.
    times.sort_by(|one, other| one.guest.cmp(&other.guest));
    Arrived { makespan: last.saturating_sub(first), times, stored_bytes }
}
