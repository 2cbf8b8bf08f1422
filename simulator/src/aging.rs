//! What nights do to a guest's memory.
//!
//! From one night to the next a share of the pages changes, each page by itself. Of the
//! desktops and databases that were measured over minutes, two thirds of the changed pages
//! differed in more than 1 KiB and one third in less: so two in three become another page of
//! the recording, and the third takes 256 bytes of one, in one place. New bytes are exchanged
//! for others, as in a private run, so that they occur nowhere else.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::trace::Trace;

/// Bytes that change in a page that is not rewritten.
const PATCH_BYTES: usize = 256;

/// So many nights, and what each changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aging {
    /// Determines everything, with page and night.
    pub(crate) seed: u64,
    /// How many nights have passed.
    pub(crate) nights: u32,
    /// Which share of the pages each night changes.
    pub(crate) changed: f64,
}

impl Aging {
    /// Makes of `page`, as page `pfn` was on the first night, what it is now.
    pub(crate) fn apply(&self, trace: &Trace, pfn: usize, page: &mut [u8]) {
        for night in 1..=self.nights {
            if let Some(drawn) = self.draw(pfn, night) {
                change(trace, drawn, page);
            }
        }
    }

    /// Random bits for the change of a page in a night, if there is one.
    fn draw(&self, pfn: usize, night: u32) -> Option<u64> {
        let bits = |part: u8| {
            let mut input = [0; 13];
            input[..8].copy_from_slice(&(pfn as u64).to_le_bytes());
            input[8..12].copy_from_slice(&night.to_le_bytes());
            input[12] = part;
            xxh3_64_with_seed(&input, self.seed)
        };
        #[expect(clippy::cast_precision_loss, reason = "a chance: 53 bits are plenty")]
        let chance = bits(0) as f64 / u64::MAX as f64;
        (chance < self.changed).then(|| bits(1))
    }
}

/// Puts recorded bytes, exchanged for others, in the place of all or some of the page's.
#[expect(clippy::cast_possible_truncation, reason = "parts of random bits")]
fn change(trace: &Trace, drawn: u64, page: &mut [u8]) {
    let origin = (drawn >> 32) as usize % trace.page_count();
    let rewritten = !((drawn >> 8) as u8).is_multiple_of(3);
    let patch = (drawn >> 16) as usize % (page.len() / PATCH_BYTES) * PATCH_BYTES;
    let range = if rewritten { 0..page.len() } else { patch..patch + PATCH_BYTES };
    let changed = &mut page[range.clone()];
    changed.copy_from_slice(&trace.page(origin)[range]);
    trace.exchange(drawn as u32, drawn).apply(changed);
}

#[cfg(test)]
mod test {
    use comio_core::PAGE_SIZE;

    use crate::trace::SyntheticGuest;
    use crate::trace::test::numbered_trace;

    const PAGES: usize = 2048;

    fn pages(nights: u32, changed: f64) -> Vec<Vec<u8>> {
        let guest = SyntheticGuest::new(&numbered_trace(PAGES), PAGES, 0.5, 1, 1).after(nights, changed);
        let page = |pfn| {
            let mut page = vec![0; PAGE_SIZE];
            guest.read(pfn, &mut page);
            assert!(guest.matches(pfn, &page));
            page[17] ^= 1;
            assert!(!guest.matches(pfn, &page));
            page[17] ^= 1;
            page
        };
        (0..PAGES).map(page).collect()
    }

    #[test]
    fn each_night_changes_its_share_of_the_pages_and_no_more() {
        let nights: Vec<_> = (0..4).map(|night| pages(night, 0.1)).collect();
        for pair in nights.windows(2) {
            let changed = pair[0].iter().zip(&pair[1]).filter(|(before, after)| before != after).count();
            // 205 are expected; a patch of zeros upon zeros changes nothing.
            assert!((120..=260).contains(&changed), "{changed} of {PAGES} pages changed");
        }
        assert_eq!(nights[3], pages(3, 0.1), "the same nights give the same guest");
    }

    #[test]
    fn a_third_of_the_changes_leaves_most_of_the_page() {
        let (before, after) = (pages(0, 0.5), pages(1, 0.5));
        let parts_changed = |(before, after): (&Vec<u8>, &Vec<u8>)| {
            let parts = before.chunks(super::PATCH_BYTES).zip(after.chunks(super::PATCH_BYTES));
            parts.filter(|(before, after)| before != after).count()
        };
        let counts: Vec<usize> = before.iter().zip(&after).map(parts_changed).collect();
        let patched = counts.iter().filter(|&&parts| parts == 1).count();
        let rewritten = counts.iter().filter(|&&parts| parts > 1).count();
        // Half of the patches fall upon the zero half of these pages and change nothing.
        assert!((120..220).contains(&patched) && (600..770).contains(&rewritten), "{patched} {rewritten}");
    }

    #[test]
    fn no_night_changes_nothing() {
        assert_eq!(pages(0, 0.9), pages(5, 0.0));
    }
}
