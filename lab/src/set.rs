//! Pages to measure.

use comio_core::PAGE_SIZE;

use crate::coder::UNIT_PAGES;

/// Non-uniform pages of a guest.
#[derive(Debug, Clone)]
pub struct Set {
    /// What the results call it.
    pub name: String,
    /// The pages, one after the other.
    pub(crate) memory: Vec<u8>,
}

/// Gathers the telling pages of a guest, however large: those that are not one 32-bit word all
/// over.
///
/// When there are more than twice as many as wanted, every second run of neighbours is dropped,
/// so that what is kept is spread evenly over the guest, and units of many pages still hold what
/// lies together.
#[derive(Debug)]
pub struct Sampler {
    name: String,
    runs_max: usize,
    /// Every so many runs one is kept.
    step: usize,
    /// Runs begun so far.
    seen: usize,
    kept: Vec<Vec<u8>>,
    run: Vec<u8>,
}

/// Bytes in a run: the largest unit.
const RUN: usize = UNIT_PAGES[UNIT_PAGES.len() - 1] * PAGE_SIZE;

impl Sampler {
    /// A sampler of about `pages` pages, at most twice as many.
    pub fn new(name: &str, pages: usize) -> Self {
        let runs_max = (2 * pages * PAGE_SIZE / RUN).max(2);
        Self { name: name.to_owned(), runs_max, step: 1, seen: 0, kept: Vec::new(), run: Vec::new() }
    }

    /// Takes further memory of the guest; what is no whole page is left out.
    pub fn take(&mut self, memory: &[u8]) {
        for page in memory.as_chunks::<PAGE_SIZE>().0 {
            if page.as_chunks::<4>().0.windows(2).all(|two| two[0] == two[1]) {
                continue;
            }
            self.run.extend_from_slice(page);
            if self.run.len() == RUN {
                self.end_run();
            }
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if self.seen.is_multiple_of(self.step) {
            self.kept.push(run);
        }
        self.seen += 1;
        if self.kept.len() > self.runs_max {
            self.step *= 2;
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// What was gathered.
    pub fn finish(mut self) -> Set {
        if !self.run.is_empty() {
            self.end_run();
        }
        Set { name: self.name, memory: self.kept.concat() }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn numbered(number: u32) -> [u8; PAGE_SIZE] {
        let mut page = [7; PAGE_SIZE];
        page[..4].copy_from_slice(&number.to_le_bytes());
        page
    }

    #[test]
    fn uniform_pages_are_left_out() {
        let mut sampler = Sampler::new("guest", 100);
        sampler.take(&[[0; PAGE_SIZE], numbered(1), [9; PAGE_SIZE], numbered(2)].concat());
        assert_eq!(sampler.finish().memory, [numbered(1), numbered(2)].concat());
    }

    #[test]
    fn of_a_large_guest_runs_from_all_over_are_kept() {
        let mut sampler = Sampler::new("guest", 128);
        (0..64 * 100).for_each(|number| sampler.take(&numbered(number)));
        let memory = sampler.finish().memory;
        let first_of_run = |run: &[u8]| u32::from_le_bytes([run[0], run[1], run[2], run[3]]);
        let runs: Vec<u32> = memory.chunks(RUN).map(first_of_run).collect();
        assert!((2..=5).contains(&runs.len()), "{runs:?}");
        let step = runs[1] - runs[0];
        assert!(runs.windows(2).all(|two| two[1] - two[0] == step), "evenly spread: {runs:?}");
        assert!(runs.last() >= Some(&(64 * 60)), "to the end: {runs:?}");
    }
}
