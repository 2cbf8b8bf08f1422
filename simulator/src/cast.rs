//! Who and what takes part in a scenario, in either mode.

use comio_core::PAGE_SIZE;
use comio_core::ecbc::Method;
use comio_core::engine::Engine;
use comio_core::format::placement::Placement;
use comio_core::segment::EcbcCoder;

use crate::scenario::Scenario;
use crate::trace::{SyntheticGuest, Trace};

/// The name of a guest.
pub(crate) fn guest_name(number: usize) -> String {
    format!("guest-{number:04}")
}

/// The memory of each guest: the traces in turn.
pub(crate) fn guest_memories<'a>(
    scenario: &'a Scenario,
    traces: &'a [Trace],
) -> impl Iterator<Item = SyntheticGuest> + 'a {
    let guests = &scenario.guests;
    // The parser bounds a guest's memory.
    let page_count = usize::try_from(guests.memory.0).unwrap_or(usize::MAX) / PAGE_SIZE;
    traces.iter().cycle().take(guests.count).zip(0u64..).map(move |(trace, number)| {
        SyntheticGuest::new(trace, page_count, guests.private.0, scenario.seed, number)
    })
}

/// A guest from which all guests of `trace` could have been cloned: it has every run of it as
/// it was recorded.
pub(crate) fn clone_source(trace: &Trace, seed: u64) -> SyntheticGuest {
    SyntheticGuest::new(trace, trace.page_count(), 0.0, seed, u64::MAX)
}

/// The coder that codes guests' pages by `method`, as the program does for real guests. `key` is
/// the secret of its digests.
pub(crate) fn segment_coder(method: Method, key: [u8; 16]) -> EcbcCoder {
    EcbcCoder::new(method, Placement::Hybrid).with_digests(key)
}

/// Each guest's part of its host's memory, in bytes.
pub(crate) fn engine_memory(scenario: &Scenario) -> usize {
    let guests_per_host = scenario.guests.count.div_ceil(scenario.hosts.count);
    let memory = usize::try_from(scenario.hosts.memory.0).unwrap_or(usize::MAX) / guests_per_host;
    memory.max(Engine::MEMORY_MIN)
}
