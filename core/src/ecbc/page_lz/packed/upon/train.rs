//! Makes `lengths.txt` from pairs of dumps, old and new:
//!
//! ```sh
//! DIFFERENCES=old,new:old,new cargo test --release -p comio-core --lib train_the_differences -- --ignored --nocapture
//! ```

use std::cell::RefCell;

use super::super::tables::LINE;
use super::super::train::token_lengths;
use super::super::*;
use super::*;
use crate::ecbc::cpu::Cpu;
use crate::ecbc::uniform;
use crate::segment::words_alike;

thread_local! {
    static COUNTS: RefCell<Vec<f64>> = RefCell::new(vec![0.0; TOKENS]);
}

/// Counts a token that the encoder writes.
pub(super) fn note(token: usize) {
    COUNTS.with_borrow_mut(|counts| counts[token] += 1.0);
}

#[test]
#[ignore = "prints new tables"]
fn train_the_differences() {
    let mut encoder = UponEncoder::new(Cpu::detect(), Looks { few_words: 8, patience_log: 4 });
    for pair in std::env::var("DIFFERENCES").unwrap().split(':') {
        let (old, new) = pair.split_once(',').unwrap();
        let (old, new) = (std::fs::read(old).unwrap(), std::fs::read(new).unwrap());
        for (old, new) in old.as_chunks().0.iter().zip(new.as_chunks().0) {
            let (same, telling) = words_alike(new, old);
            if old != new && uniform(new).is_none() && 8 * same >= telling {
                encoder.encode(new, old, PAGE_SIZE, &mut Vec::new());
            }
        }
    }
    let lengths = COUNTS.with_borrow(|counts| token_lengths(counts));
    println!();
    for line in lengths.chunks(LINE) {
        for length in line {
            print!("{length:x}");
        }
        println!();
    }
}
