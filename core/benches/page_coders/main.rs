//! Page coders against C LZ4: speed and ratio on pages that are not one word all over.
//!
//! Every measured pass over a set of pages is preceded by a pass of C LZ4 over the same pages, so
//! that what else the machine does hits both, and timed in CPU time of the thread; the table gives medians of the paired quotients.
//! Coding is single-threaded, contexts are reused, checksums are nobody's business here.
//!
//! - `COMIO_BENCH_DUMP`: a flat dump to take pages from, instead of the shipped traces.
//! - `COMIO_BENCH_TABLE`: where to write the table; standard output if not given.
#![expect(clippy::print_stdout, reason = "the table is the bench's output")]

mod peer;
mod traces;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use comio_core::ecbc::{BLOB_ROOM, Method, PageCode, PageDecoder, PageEncoder};
use comio_core::{PAGE_SIZE, Page};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use peer::Lz4;
use rustix::time::{ClockId, clock_gettime};

/// Pages taken from each set, evenly strided: enough to be mixed, few enough to alternate often.
const PAGES_MAX: usize = 2048;

struct Set {
    name: &'static str,
    pages: Vec<Page>,
}

/// What was measured: (set, coder).
#[derive(Default)]
struct Table {
    rows: BTreeMap<(&'static str, usize), Row>,
}

#[derive(Default)]
struct Row {
    name: &'static str,
    ratio: f64,
    encode_speedups: Vec<f64>,
    decode_speedups: Vec<f64>,
}

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let mut table = Table::default();
    for set in sets() {
        bench_set(&mut criterion, &set, &mut table);
    }
    criterion.final_summary();
    let text = table.render();
    match std::env::var_os("COMIO_BENCH_TABLE") {
        Some(path) => std::fs::write(path, text).expect("the table's path must be writable"),
        None => println!("{text}"),
    }
}

fn sets() -> Vec<Set> {
    if let Some(path) = std::env::var_os("COMIO_BENCH_DUMP") {
        let dump = std::fs::read(path).expect("COMIO_BENCH_DUMP must be a readable file");
        return vec![Set { name: "dump", pages: strided(dump.as_chunks().0) }];
    }
    let traces = traces::all().into_iter();
    traces.map(|(name, memory)| Set { name: name.leak(), pages: strided(memory.as_chunks().0) }).collect()
}

fn strided(pages: &[Page]) -> Vec<Page> {
    let is_uniform = |page: &Page| page.as_chunks::<4>().0.windows(2).all(|two| two[0] == two[1]);
    let telling: Vec<&Page> = pages.iter().filter(|page| !is_uniform(page)).collect();
    let step = telling.len().div_ceil(PAGES_MAX).max(1);
    telling.into_iter().step_by(step).copied().collect()
}

fn bench_set(criterion: &mut Criterion, set: &Set, table: &mut Table) {
    let mut group = criterion.benchmark_group(set.name);
    group.throughput(Throughput::Bytes((set.pages.len() * PAGE_SIZE) as u64));
    let accelerated = [("C LZ4", 1), ("C LZ4 acceleration 8", 8)];
    for (order, (name, acceleration)) in accelerated.into_iter().enumerate() {
        let mut lz4 = Lz4::new(acceleration);
        let row = bench_coder(&mut group, name, &set.pages, |page, blob| lz4.encode(page, blob));
        table.rows.insert((set.name, order), row);
    }
    let methods = [Method::Zstd1, Method::Fast, Method::Balanced, Method::Dense];
    for (order, method) in methods.into_iter().enumerate() {
        let mut encoder = PageEncoder::new(method);
        let row = bench_coder(&mut group, method.name(), &set.pages, |page, blob| encoder.encode(page, blob));
        table.rows.insert((set.name, order + accelerated.len()), row);
    }
    group.finish();
}

fn bench_coder(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &'static str,
    pages: &[Page],
    mut encode: impl FnMut(&Page, &mut [u8]) -> PageCode,
) -> Row {
    let mut peer = Lz4::new(1);
    let mut room = vec![0; BLOB_ROOM];
    let mut row = Row { name, ..Row::default() };
    let bytes: usize = pages.iter().map(|page| code_len(encode(page, &mut room))).sum();
    row.ratio = quotient(pages.len() * PAGE_SIZE, bytes);

    group.bench_function(format!("{name}/encode"), |bencher| {
        bencher.iter_custom(|iterations| {
            paired(iterations, &mut row.encode_speedups, |is_peer| {
                for page in pages {
                    let target = room.as_mut_slice();
                    black_box(if is_peer { peer.encode(page, target) } else { encode(page, target) });
                }
            })
        });
    });

    let peer_codes = coded(pages, |page, blob| peer.encode(page, blob));
    let own_codes = coded(pages, &mut encode);
    let mut decoder = PageDecoder::new();
    let mut page = [0; PAGE_SIZE];
    group.bench_function(format!("{name}/decode"), |bencher| {
        bencher.iter_custom(|iterations| {
            paired(iterations, &mut row.decode_speedups, |is_peer| {
                for (source, (code, blob)) in pages.iter().zip(if is_peer { &peer_codes } else { &own_codes })
                {
                    match code {
                        PageCode::Blob { tag, .. } => {
                            decoder.decode(tag.number(), blob, &mut page).expect("own blobs decode");
                        }
                        _ => page.copy_from_slice(source),
                    }
                    black_box(&page);
                }
            })
        });
    });
    row
}

/// Runs the peer and the measured coder in turn; gives the time of the latter.
fn paired(iterations: u64, speedups: &mut Vec<f64>, mut pass: impl FnMut(bool)) -> Duration {
    let mut timed = |is_peer| {
        let start = cpu_time();
        pass(is_peer);
        cpu_time().saturating_sub(start)
    };
    let mut total = Duration::ZERO;
    for _ in 0..iterations {
        let (peer, own) = (timed(true), timed(false));
        speedups.push(peer.as_secs_f64() / own.as_secs_f64());
        total += own;
    }
    total
}

/// What this thread has used of a core: other load on the machine does not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time is positive")
}

fn coded(pages: &[Page], mut encode: impl FnMut(&Page, &mut [u8]) -> PageCode) -> Vec<(PageCode, Vec<u8>)> {
    let mut room = vec![0; BLOB_ROOM];
    let mut code = |page| {
        let code = encode(page, &mut room);
        let len = if let PageCode::Blob { len, .. } = code { len } else { 0 };
        (code, room[..len].to_vec())
    };
    pages.iter().map(&mut code).collect()
}

fn code_len(code: PageCode) -> usize {
    match code {
        PageCode::Zero | PageCode::Fill(_) => 0,
        PageCode::Stored => PAGE_SIZE,
        PageCode::Blob { len, .. } => len,
    }
}

#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
fn quotient(input: usize, output: usize) -> f64 {
    input as f64 / output.max(1) as f64
}

impl Table {
    fn render(&mut self) -> String {
        let mut text = String::from(
            "| set | coder | ratio | ratio / C LZ4 | encoding speed / C LZ4 | decoding speed / C LZ4 |\n\
             |---|---|---|---|---|---|\n",
        );
        let mut means: BTreeMap<usize, (&str, [f64; 4], u32)> = BTreeMap::new();
        let mut peer_ratio = 1.0;
        for (&(set, order), row) in &mut self.rows {
            if order == 0 {
                peer_ratio = row.ratio;
            }
            let figures = [
                row.ratio,
                row.ratio / peer_ratio,
                median(&mut row.encode_speedups),
                median(&mut row.decode_speedups),
            ];
            line(&mut text, set, row.name, figures);
            let (_, logs, sets) = means.entry(order).or_insert((row.name, [0.0; 4], 0));
            *logs = std::array::from_fn(|i| logs[i] + figures[i].ln());
            *sets += 1;
        }
        for (name, logs, sets) in means.into_values() {
            line(&mut text, "**geometric mean**", name, logs.map(|log| (log / f64::from(sets)).exp()));
        }
        text
    }
}

fn line(text: &mut String, set: &str, name: &str, [ratio, relative, encode, decode]: [f64; 4]) {
    let row = format_args!("| {set} | {name} | {ratio:.3} | {relative:.3} | {encode:.2} | {decode:.2} |");
    writeln!(text, "{row}").expect("a string takes everything");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
