//! Single pages out of a herd's images, timed one by one.

use comio_core::PAGE_SIZE;
use comio_core::engine::{self, EngineError, Image};
use comio_core::storage::Storage;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::cast::guest_name;
use crate::herd::{Arrived, HerdError};
use crate::report::GuestTime;
use crate::trace::SyntheticGuest;
use crate::world::World;

/// Pages that are taken out of each image.
pub(super) const PAGES: usize = 1000;
/// Distinguishes these draws from those of the guests and of arrivals.
const STREAM: u64 = u64::MAX - 1;

/// A guest, and where its image is.
pub(super) struct Source<'a> {
    pub(super) memory: SyntheticGuest,
    pub(super) storage: &'a dyn Storage,
    pub(super) image: String,
}

/// What was taken out.
pub(super) struct Extracted {
    pub(super) arrived: Arrived,
    /// How long each page took that had to be read: pages of one repeated word stand in the tables.
    pub(super) page_s: Vec<f64>,
    /// All of them were the guests'.
    pub(super) identical: bool,
}

/// Takes random pages out of each guest's image. One page goes after the other: what is asked is
/// how long one takes, not how many go at once.
pub(super) async fn run(
    sources: &[Source<'_>],
    seed: u64,
    world: &dyn World,
) -> Result<Extracted, HerdError> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    random.set_stream(STREAM);
    let begin = world.now();
    let since = |moment| world.now().saturating_sub(moment);
    let mut times = Vec::with_capacity(sources.len());
    let (mut page_s, mut identical) = (Vec::new(), true);
    for (number, source) in sources.iter().enumerate() {
        let guest = guest_name(number);
        let start_s = since(begin).as_secs_f64();
        let failed = |problem| HerdError { guest: guest.clone(), problem };
        let pages = source.memory.page_count();
        let pfns: Vec<usize> = (0..PAGES).map(|_| random.random_range(0..pages)).collect();
        identical &= source.pages(&pfns, world, &mut page_s).await.map_err(failed)?;
        times.push(GuestTime { guest, start_s, end_s: since(begin).as_secs_f64() });
    }
    let arrived = Arrived { makespan: since(begin), times, stored_bytes: 0 };
    Ok(Extracted { arrived, page_s, identical })
}

impl Source<'_> {
    /// Takes out these pages, adds how long each took, and tells whether they are the guest's.
    async fn pages(
        &self,
        pfns: &[usize],
        world: &dyn World,
        page_s: &mut Vec<f64>,
    ) -> Result<bool, EngineError> {
        let image = Image::open_with_ancestors(self.storage, &self.image, &[]).await?;
        let mut identical = true;
        for &pfn in pfns {
            let mut contents = Vec::with_capacity(PAGE_SIZE);
            let start = world.now();
            let report = engine::extract(&image, [pfn as u64], |page| {
                contents.extend_from_slice(page?);
                Ok(())
            })
            .await?;
            let took = world.now().saturating_sub(start);
            identical &= self.memory.matches(pfn, &contents);
            if report.storage_reads > 0 {
                page_s.push(took.as_secs_f64());
            }
        }
        Ok(identical)
    }
}
