//! Measures the coders of this machine: makes the coding part of a cost table.
//!
//! Pages of one tag and of like encoded size are gathered from the traces into whole segments,
//! which are encoded and decoded as the engine does it, several times; the shortest time
//! counts, since a disturbance only ever adds. A line through the sizes' times gives the cost
//! of a page and of a byte. At last both are scaled so that the mix of the traces themselves
//! takes the time that was measured for it.
//!
//! What the testbed itself takes to make guests' pages and to compare them is measured too: in
//! real mode that is on the same cores.

use std::collections::BTreeMap;
use std::time::Duration;

use comio_core::buffer::{Buffer, Payload};
use comio_core::ecbc::Method;
use comio_core::segment::{EcbcCoder, EncodedSegment, SegmentCoder, SlotBytes};
use comio_core::tape::{Batch, Pfns};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};

use super::coder::CodeTable;
use super::cost::{CodingCosts, CostTable, HypervisorCosts, PageCost, tag_name};
use crate::cast::segment_coder;
use crate::trace::{SyntheticGuest, Trace};

/// Each measurement is repeated so often.
const ROUNDS: usize = 5;
/// Sizes of pages that are told apart, for each tag.
const SIZES: usize = 4;
/// Segments measured for the traces' own mix.
const MIX_SEGMENTS: usize = 16;
/// Pages of a guest that is made and compared: more than caches hold.
const REPLAY_PAGES: usize = 16 << 10;
/// The share of its runs that are its own, as scenarios have it.
const REPLAY_PRIVATE: f64 = 0.6;

/// Time since any fixed moment, on a clock that never runs backwards.
pub type Watch<'a> = &'a dyn Fn() -> Duration;

/// A cost table of this machine, called `machine`: coding measured on `traces` by `watch`, the
/// rest as in `base`.
pub fn cost_table(base: CostTable, machine: &str, traces: &[Trace], watch: Watch<'_>) -> CostTable {
    let measure = |method: Method| (method.name().to_owned(), calibrate(method, traces, watch));
    CostTable {
        machine: machine.to_owned(),
        coding: Method::ALL.into_iter().map(measure).collect(),
        replay: replay_costs(traces, watch),
        ..base
    }
}

/// Measures the making and the comparing of guests' pages, over all traces.
fn replay_costs(traces: &[Trace], watch: Watch<'_>) -> HypervisorCosts {
    let (mut read_ns, mut write_ns) = (f64::INFINITY, f64::INFINITY);
    let guests: Vec<SyntheticGuest> = (0..)
        .zip(traces)
        .map(|(number, trace)| SyntheticGuest::new(trace, REPLAY_PAGES, REPLAY_PRIVATE, 1, number))
        .collect();
    let pages = as_f64(guests.len() * REPLAY_PAGES);
    let mut memory = vec![0; SEGMENT_PAGES * PAGE_SIZE];
    for _ in 0..ROUNDS {
        let (mut read, mut write) = (Duration::ZERO, Duration::ZERO);
        for guest in &guests {
            for first in (0..REPLAY_PAGES).step_by(SEGMENT_PAGES) {
                let start = watch();
                for (pfn, page) in (first..).zip(memory.chunks_exact_mut(PAGE_SIZE)) {
                    guest.read(pfn, page);
                }
                let middle = watch();
                let mut all = (first..).zip(memory.chunks_exact(PAGE_SIZE));
                let same = all.all(|(pfn, page)| guest.matches(pfn, page));
                read += middle.saturating_sub(start);
                assert!(same, "a guest is what it was made");
                write += watch().saturating_sub(middle);
            }
        }
        read_ns = read_ns.min(nanos(read) / pages);
        write_ns = write_ns.min(nanos(write) / pages);
    }
    HypervisorCosts { read_ns: rounded(read_ns), write_ns: rounded(write_ns) }
}

/// Measures `method` on the pages of `traces`, on the calling thread.
pub fn calibrate(method: Method, traces: &[Trace], watch: Watch<'_>) -> CodingCosts {
    let coder = segment_coder(method, [0; 16]);
    let mut costs = CodingCosts::default();
    for (tag, pages) in groups(method, traces) {
        let Some(points) = measure_sizes(&coder, pages, watch) else { continue };
        costs.encode.insert(
            tag_name(tag).to_owned(),
            line(&points.iter().map(|point| (point.len, point.encode_ns)).collect::<Vec<_>>()),
        );
        costs.decode.insert(
            tag_name(tag).to_owned(),
            line(&points.iter().map(|point| (point.len, point.decode_ns)).collect::<Vec<_>>()),
        );
    }
    scale_to_mix(&coder, &mut costs, traces, watch);
    costs
}

/// A page to measure, and what it becomes.
struct Sample<'a> {
    page: &'a [u8],
    len: u16,
}

/// The traces' pages by tag.
fn groups(method: Method, traces: &[Trace]) -> BTreeMap<u8, Vec<Sample<'_>>> {
    let mut groups: BTreeMap<_, Vec<Sample<'_>>> = BTreeMap::new();
    for trace in traces {
        let table = CodeTable::new(trace, method);
        for (code, page) in table.codes().iter().zip(trace.memory().chunks_exact(PAGE_SIZE)) {
            groups.entry(code.tag).or_default().push(Sample { page, len: code.len });
        }
    }
    groups
}

/// Times of a page of a size, in nanoseconds.
struct Point {
    len: f64,
    encode_ns: f64,
    decode_ns: f64,
}

fn measure_sizes(coder: &EcbcCoder, mut pages: Vec<Sample<'_>>, watch: Watch<'_>) -> Option<Vec<Point>> {
    pages.sort_by_key(|sample| sample.len);
    let per_size = pages.len().div_ceil(SIZES);
    let points = pages.chunks(per_size.max(1)).map(|pages| {
        // Spread over the group, so that no run of alike pages stands for it.
        let step = (pages.len() / SEGMENT_PAGES).max(1);
        let chosen: Vec<&Sample<'_>> = pages.iter().step_by(step).take(SEGMENT_PAGES).collect();
        let memory = chosen.iter().flat_map(|sample| sample.page).copied().collect();
        let len = chosen.iter().map(|sample| f64::from(sample.len)).sum::<f64>();
        let (encode, decode) = time_segment(coder, memory, watch)?;
        let count = as_f64(chosen.len());
        Some(Point { len: len / count, encode_ns: encode / count, decode_ns: decode / count })
    });
    points.collect()
}

/// Nanoseconds to encode and to decode these pages as one segment.
fn time_segment(coder: &EcbcCoder, memory: Vec<u8>, watch: Watch<'_>) -> Option<(f64, f64)> {
    let count = memory.len() / PAGE_SIZE;
    let pfns = Pfns::Run { first: 0, count };
    let batch = Batch { pfns, pages: Payload::Bytes(Buffer::unpooled(memory)) };
    let (mut encode, mut decode) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let out = Buffer::unpooled(vec![0; SlotBytes::REAL.segment]);
        let start = watch();
        let mut segment = coder.encode(&[0; 16], 0, &batch, out).ok()?;
        coder.seal(&mut segment, 0);
        let middle = watch();
        let EncodedSegment { payload, entry, .. } = segment;
        let pages = Buffer::unpooled(vec![0; SlotBytes::REAL.pages]);
        let before = watch();
        coder.decode(&[0; 16], &entry, &payload, pages).ok()?;
        encode = encode.min(nanos(middle.saturating_sub(start)));
        decode = decode.min(nanos(watch().saturating_sub(before)));
    }
    Some((encode, decode))
}

/// The line through points of (size, nanoseconds), never falling and never negative.
fn line(points: &[(f64, f64)]) -> PageCost {
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / as_f64(points.len());
    let (mean_len, mean_ns) = (mean(|point| point.0), mean(|point| point.1));
    let (mut above, mut below) = (0.0, 0.0);
    for &(len, ns) in points {
        above += (len - mean_len) * (ns - mean_ns);
        below += (len - mean_len) * (len - mean_len);
    }
    let slope = if below > 1.0 { (above / below).max(0.0) } else { 0.0 };
    let byte_ns = slope.min(if mean_len > 0.0 { mean_ns / mean_len } else { 0.0 });
    PageCost { page_ns: mean_ns - byte_ns * mean_len, byte_ns }
}

/// Scales `costs` to what the traces' own segments take.
fn scale_to_mix(coder: &EcbcCoder, costs: &mut CodingCosts, traces: &[Trace], watch: Watch<'_>) {
    let segments: Vec<&[u8]> =
        traces.iter().flat_map(|trace| trace.memory().chunks(SEGMENT_PAGES * PAGE_SIZE)).collect();
    let step = (segments.len() / MIX_SEGMENTS).max(1);
    let (mut encode, mut decode) = (Ratio::default(), Ratio::default());
    for memory in segments.into_iter().step_by(step) {
        let Some((encode_ns, decode_ns)) = time_segment(coder, memory.to_vec(), watch) else { return };
        let Some(tally) = tally_of(coder, memory) else { return };
        encode.add(encode_ns, costs.seconds(&comio_core::compute::Work::Encode(tally)) * 1e9);
        decode.add(decode_ns, costs.seconds(&comio_core::compute::Work::Decode(tally)) * 1e9);
    }
    for (costs, ratio) in [(&mut costs.encode, encode), (&mut costs.decode, decode)] {
        for cost in costs.values_mut() {
            cost.page_ns = rounded(cost.page_ns * ratio.value());
            cost.byte_ns = rounded(cost.byte_ns * ratio.value());
        }
    }
}

fn tally_of(coder: &EcbcCoder, memory: &[u8]) -> Option<comio_core::ecbc::Tally> {
    let pfns = Pfns::Run { first: 0, count: memory.len() / PAGE_SIZE };
    let batch = Batch { pfns, pages: Payload::Bytes(Buffer::unpooled(memory.to_vec())) };
    let out = Buffer::unpooled(vec![0; SlotBytes::REAL.segment]);
    coder.encode(&[0; 16], 0, &batch, out).ok().map(|segment| segment.tally)
}

/// Measured against predicted.
#[derive(Default)]
struct Ratio {
    measured: f64,
    predicted: f64,
}

impl Ratio {
    fn add(&mut self, measured: f64, predicted: f64) {
        self.measured += measured;
        self.predicted += predicted;
    }

    fn value(&self) -> f64 {
        if self.predicted > 0.0 { self.measured / self.predicted } else { 1.0 }
    }
}

/// Four digits behind the point: what is measured is not better than that.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[expect(clippy::cast_precision_loss, reason = "counts of pages")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod test {
    use std::cell::Cell;

    use super::*;
    use crate::trace::test::numbered_trace;

    #[test]
    fn a_line_is_found_and_never_falls() {
        let rising = line(&[(10.0, 120.0), (20.0, 140.0), (30.0, 160.0)]);
        assert!((rising.page_ns - 100.0).abs() < 1e-9 && (rising.byte_ns - 2.0).abs() < 1e-9);
        let falling = line(&[(10.0, 140.0), (20.0, 120.0)]);
        assert_eq!(falling, PageCost { page_ns: 130.0, byte_ns: 0.0 });
        assert_eq!(line(&[(0.0, 7.0)]), PageCost { page_ns: 7.0, byte_ns: 0.0 });
    }

    #[test]
    fn every_tag_of_the_traces_gets_its_costs() {
        // A clock on which every look takes a millisecond: times are what they are.
        let ticks = Cell::new(0);
        let watch = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        let traces = [numbered_trace(300)];
        for method in Method::ALL {
            let costs = calibrate(method, &traces, &watch);
            assert_eq!(costs.missing(&CodeTable::new(&traces[0], method).tally()), None, "{method}");
            assert!(costs.encode.values().all(|cost| cost.page_ns > 0.0 || cost.byte_ns > 0.0));
        }
    }
}
