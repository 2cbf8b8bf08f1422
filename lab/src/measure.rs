//! Times coders on the same units in turn, in CPU time of one pinned thread: other load on the
//! machine is not charged. Turns are short, a stretch of [`STRETCH`] bytes: what slows the core
//! down for a while hits every coder alike, and is an outlier to each stretch's median.

use std::hint::black_box;
use std::time::Duration;

use comio_core::PAGE_SIZE;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::coder::{CoderName, UnitCoder};
use crate::set::Set;
use crate::{LabError, ours, peers};

/// A coder on a set, or the mean over sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The set's name.
    pub set: String,
    /// The coder.
    pub coder: CoderName,
    /// Pages coded together.
    pub unit_pages: usize,
    /// Input / output, units that do not shrink counted as they are.
    pub ratio: f64,
    /// Speeds in 10⁶ bytes of input a second of CPU time.
    pub compress_mb_s: f64,
    /// The same for decoding, in bytes of its output.
    pub decompress_mb_s: f64,
}

/// What the calling thread runs on from now on: the core where it happens to be.
pub(crate) fn pin() {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    // Without the right to pin, times of one thread are still comparable.
    let _ = sched_setaffinity(None, &one);
}

/// Bytes that a coder is given in one turn: a few milliseconds, so long that what the turn before
/// left in the caches does not count.
const STRETCH: usize = 1 << 20;

struct Bench {
    name: CoderName,
    coder: Box<dyn UnitCoder>,
    stretches: Vec<Stretch>,
    ratio: f64,
}

/// A coder's codes and times of a stretch of the memory.
#[derive(Default)]
struct Stretch {
    codes: Vec<u8>,
    /// Where each unit's code ends in `codes`, and whether it is the unit itself.
    ends: Vec<(usize, bool)>,
    compress: Vec<Duration>,
    decompress: Vec<Duration>,
}

/// Measures every coder on `set`, `rounds` times each, in turn. The first peer after copying is
/// measured a second time at the end of all turns: the last row.
pub(crate) fn measure(set: &Set, unit_pages: usize, rounds: usize) -> Result<Vec<Row>, LabError> {
    let unit_bytes = unit_pages * PAGE_SIZE;
    // What does not fill a unit is left out.
    let memory = &set.memory[..set.memory.len() / unit_bytes * unit_bytes];
    if memory.is_empty() {
        return Ok(Vec::new());
    }
    let coders = peers::all(unit_pages).into_iter().chain(ours::all(unit_pages)).chain([peers::again()]);
    let mut benches = Vec::new();
    for (name, coder) in coders {
        benches.push(Bench::new(name, coder, memory, unit_bytes, &set.name)?);
    }
    let mut room = vec![0; 2 * unit_bytes];
    for _ in 0..rounds {
        for (index, stretch) in stretches(memory, unit_bytes).enumerate() {
            for bench in &mut benches {
                bench.turn(index, stretch, unit_bytes, &mut room);
            }
        }
    }
    Ok(benches.into_iter().map(|bench| bench.row(&set.name, unit_pages, memory.len())).collect())
}

fn stretches(memory: &[u8], unit_bytes: usize) -> impl Iterator<Item = &[u8]> {
    memory.chunks(STRETCH.next_multiple_of(unit_bytes))
}

impl Bench {
    /// Codes everything once and makes sure that it comes back.
    fn new(
        name: CoderName,
        mut coder: Box<dyn UnitCoder>,
        memory: &[u8],
        unit_bytes: usize,
        set: &str,
    ) -> Result<Self, LabError> {
        let mut room = vec![0; 2 * unit_bytes];
        let mut back = vec![0; unit_bytes];
        let (mut coded_stretches, mut counted) = (Vec::new(), 0);
        for memory in stretches(memory, unit_bytes) {
            let mut stretch = Stretch::default();
            for unit in memory.chunks_exact(unit_bytes) {
                let coded =
                    coder.compress(unit, &mut room).filter(|len| len - coder.indexed_bytes() < unit_bytes);
                let code = coded.map_or(unit, |len| &room[..len]);
                counted += coded.map_or(unit_bytes, |len| len - coder.indexed_bytes());
                stretch.codes.extend_from_slice(code);
                stretch.ends.push((stretch.codes.len(), coded.is_none()));
                if coded.is_some() && !(coder.decompress(code, &mut back) && back == unit) {
                    return Err(LabError::Changed { coder: name.to_string(), set: set.to_owned() });
                }
            }
            coded_stretches.push(stretch);
        }
        Ok(Self { name, coder, stretches: coded_stretches, ratio: quotient(memory.len(), counted) })
    }

    /// Codes and decodes the stretch of this number once.
    fn turn(&mut self, index: usize, memory: &[u8], unit_bytes: usize, room: &mut [u8]) {
        let Self { coder, stretches, .. } = self;
        let stretch = &mut stretches[index];
        let start = cpu_time();
        for unit in memory.chunks_exact(unit_bytes) {
            if black_box(coder.compress(unit, room)).is_none() {
                room[..unit_bytes].copy_from_slice(unit);
            }
            black_box(&*room);
        }
        let middle = cpu_time();
        let unit = &mut room[..unit_bytes];
        let mut begin = 0;
        for &(end, stored) in &stretch.ends {
            let code = &stretch.codes[begin..end];
            if stored {
                unit.copy_from_slice(code);
            } else {
                black_box(coder.decompress(code, unit));
            }
            black_box(&*unit);
            begin = end;
        }
        stretch.compress.push(middle.saturating_sub(start));
        stretch.decompress.push(cpu_time().saturating_sub(middle));
    }

    fn row(mut self, set: &str, unit_pages: usize, input_bytes: usize) -> Row {
        let mut time = |of: fn(&mut Stretch) -> &mut Vec<Duration>| {
            self.stretches.iter_mut().map(|stretch| median(of(stretch))).sum()
        };
        Row {
            set: set.to_owned(),
            compress_mb_s: mb_per_s(input_bytes, time(|stretch| &mut stretch.compress)),
            decompress_mb_s: mb_per_s(input_bytes, time(|stretch| &mut stretch.decompress)),
            coder: self.name,
            unit_pages,
            ratio: self.ratio,
        }
    }
}

pub(crate) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a thread's time is positive")
}

pub(crate) fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
pub(crate) fn mb_per_s(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn quotient(input: usize, output: usize) -> f64 {
    input as f64 / output.max(1) as f64
}
