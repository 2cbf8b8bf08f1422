//! Makes `lengths.txt` from the public test pages:
//!
//! ```sh
//! cargo test --release -p comio-core --lib train_the_tables -- --ignored --nocapture
//! ```
//!
//! The build set is left out, so that results on it show what the tables are worth elsewhere.

use super::code::CODE_BITS;
use super::literals::{PACKED_MAX, PACKED_MIN};
use super::tables::{CLASSES, CODED_TOKENS, ESCAPE, LINE, LITERAL_LENGTHS, TOKEN_LENGTHS};
use super::*;
use crate::ecbc::page_lz::parse::{Effort, PageParser, Sequence, Sink};
use crate::ecbc::page_lz::vectors::Plain;
use crate::ecbc::page_lz::{FIRST_DISTANCE, MATCH_MIN, PADDED};
use crate::{PAGE_SIZE, Page};

const SETS: [&[u8]; 3] = [
    include_bytes!("../../../../testdata/desktop.pages.zst"),
    include_bytes!("../../../../testdata/idle.pages.zst"),
    include_bytes!("../../../../testdata/postgres.pages.zst"),
];

type Histogram = [f64; 256];

#[derive(Default)]
struct Statistics {
    /// Of the literals of each stream.
    literals: Vec<Histogram>,
    tokens: Vec<f64>,
    of_page: Vec<u8>,
    distances: [usize; 2],
}

impl Sink<PADDED> for Statistics {
    fn take(&mut self, input: &[u8; PADDED], sequence: Sequence) {
        let Sequence { start, literals, distance, len } = sequence;
        self.of_page.extend_from_slice(&input[start..start + literals]);
        let [last, second] = self.distances;
        let class = match distance {
            _ if distance == last => 0,
            _ if distance == second => 1,
            _ => distance_class(distance),
        };
        if class != 0 {
            self.distances = [distance, last];
        }
        let (len, literals) = ((len - MATCH_MIN).min(LEN_FIELD_MAX), literals.min(LITERALS_FIELD_MAX));
        self.tokens[class << (LEN_BITS + LITERALS_BITS) | len << LITERALS_BITS | literals] += 1.0;
    }
}

/// The search that the codes were trained with; `balanced` then found a better one for its speed.
struct Search;

impl Effort for Search {
    const HASHED_BYTES: u32 = 5;
    const ALIGNED: usize = 1;
    const SKIP_LOG: u32 = 4;
    const ACCEPTED: usize = MATCH_MIN;
    const REPEATED: usize = MATCH_MIN;
}

fn statistics() -> Statistics {
    let mut statistics = Statistics { tokens: vec![0.0; TOKENS], ..Statistics::default() };
    let mut parser = PageParser::new();
    for packed in SETS {
        let mut set = Vec::with_capacity(8 << 20);
        zstd_safe::decompress(&mut set, packed).unwrap();
        let pages: &[Page] = set.as_chunks().0;
        for page in pages {
            statistics.of_page.clear();
            statistics.distances = [FIRST_DISTANCE, SECOND_DISTANCE];
            let last = parser.parse::<Plain, Search>(page, &mut statistics);
            statistics.of_page.extend_from_slice(last);
            let literals = std::mem::take(&mut statistics.of_page);
            if (PACKED_MIN..=PACKED_MAX).contains(&literals.len()) {
                let streams = literals.chunks(literals.len().div_ceil(4));
                statistics.literals.extend(streams.map(|stream| {
                    let mut histogram = [0.0; 256];
                    for &literal in stream {
                        histogram[usize::from(literal)] += 1.0;
                    }
                    histogram
                }));
            }
        }
    }
    statistics
}

/// The best code lengths of at most [`CODE_BITS`] (package-merge).
fn limited_lengths(weights: &[f64]) -> Vec<u8> {
    type Package = (f64, Vec<usize>);
    let sort = |packages: &mut Vec<Package>| packages.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut items: Vec<Package> = weights.iter().enumerate().map(|(i, &weight)| (weight, vec![i])).collect();
    sort(&mut items);
    let mut packages = items.clone();
    for _ in 1..CODE_BITS {
        let pairs = packages.chunks_exact(2);
        packages = pairs.map(|two| (two[0].0 + two[1].0, [&two[0].1[..], &two[1].1].concat())).collect();
        packages.extend(items.iter().cloned());
        sort(&mut packages);
    }
    let mut lengths = vec![0; weights.len()];
    packages.iter().take(2 * weights.len() - 2).flat_map(|(_, items)| items).for_each(|&i| lengths[i] += 1);
    lengths
}

/// Bits that each literal takes in the best code for `histogram`, fractions of bits allowed.
fn ideal_bits(histogram: &Histogram) -> Histogram {
    let sum = histogram.iter().map(|count| count + 0.5).sum::<f64>();
    histogram.map(|count| (sum / (count + 0.5)).log2().min(f64::from(CODE_BITS)))
}

fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Histogram {
    histograms.fold([0.0; 256], |sum, histogram| std::array::from_fn(|i| sum[i] + histogram[i]))
}

fn bits(histogram: &Histogram, code: &Histogram) -> f64 {
    histogram.iter().zip(code).map(|(count, bits)| count * bits).sum()
}

/// k-means with bits as distance; the first class has eight bits for every literal.
fn literal_classes(streams: &[Histogram]) -> Vec<Vec<u8>> {
    let mut random = 1u64;
    let mut pick = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        &streams[(random >> 33) as usize % streams.len()]
    };
    let mut best: (f64, Vec<Histogram>) = (f64::MAX, Vec::new());
    for _ in 0..6 {
        let mut members = vec![[0.0; 256]; CLASSES];
        for class in &mut members[1..] {
            *class = sum((0..60).map(|_| pick()));
        }
        let mut total = 0.0;
        for _ in 0..40 {
            let mut codes: Vec<Histogram> = members.iter().map(ideal_bits).collect();
            codes[0] = [8.0; 256];
            members = vec![[0.0; 256]; CLASSES];
            total = 0.0;
            for stream in streams {
                let costs = codes.iter().map(|code| bits(stream, code)).enumerate();
                let (class, cost) = costs.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
                members[class] = sum([&members[class], stream].into_iter());
                total += cost;
            }
        }
        if total < best.0 {
            best = (total, members);
        }
    }
    let trained = best.1[1..].iter().map(|class| limited_lengths(&class.map(|count| count + 0.5)));
    std::iter::once(vec![8; 256]).chain(trained).collect()
}

pub(super) fn token_lengths(counts: &[f64]) -> Vec<u8> {
    let mut order: Vec<usize> = (0..TOKENS).collect();
    order.sort_by(|&one, &other| counts[other].total_cmp(&counts[one]).then(one.cmp(&other)));
    let (coded, escaped) = order.split_at(CODED_TOKENS);
    let mut weights: Vec<f64> = coded.iter().map(|&token| counts[token] + 0.1).collect();
    weights.push(escaped.iter().map(|&token| counts[token]).sum::<f64>() + 1.0);
    let lengths = limited_lengths(&weights);
    let mut table = vec![0; TOKENS + 1];
    coded.iter().zip(&lengths).for_each(|(&token, &length)| table[token] = length);
    table[ESCAPE] = lengths[CODED_TOKENS];
    table
}

#[test]
#[ignore = "prints new tables"]
fn train_the_tables() {
    let statistics = statistics();
    let mut lengths = literal_classes(&statistics.literals).concat();
    lengths.extend(token_lengths(&statistics.tokens));
    println!();
    for line in lengths.chunks(LINE) {
        for length in line {
            print!("{length:x}");
        }
        println!();
    }
}

#[test]
fn every_string_of_bits_begins_with_a_code() {
    let filled = |lengths: &[u8]| -> u32 {
        lengths.iter().filter(|&&length| length > 0).map(|&length| 1 << (CODE_BITS - u32::from(length))).sum()
    };
    let whole: u32 = 1 << CODE_BITS;
    assert!(LITERAL_LENGTHS.iter().all(|lengths| filled(lengths) == whole));
    assert_eq!(filled(&TOKEN_LENGTHS), whole);
    assert!(LITERAL_LENGTHS.iter().flatten().all(|&length| length > 0), "no literal is without a code");
    assert_eq!(PAGE_SIZE, 4096, "the fields' bits were chosen for it");
}
