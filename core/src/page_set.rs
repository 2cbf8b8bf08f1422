//! Sets of pages.

/// A set of pfns below a bound, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    page_count: u64,
}

impl PageSet {
    /// None of the pages below `page_count`.
    pub fn none(page_count: u64) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], page_count }
    }

    /// All pages below `page_count`.
    pub fn all(page_count: u64) -> Self {
        let mut set = Self::none(page_count);
        set.words.fill(u64::MAX);
        set.cut();
        set
    }

    /// The pages whose bits are set in `words`, of those below `page_count`; bits that `words`
    /// is too short for are not.
    pub fn from_words(words: impl IntoIterator<Item = u64>, page_count: u64) -> Self {
        let mut set = Self::none(page_count);
        for (own, given) in set.words.iter_mut().zip(words) {
            *own = given;
        }
        set.cut();
        set
    }

    /// Forgets bits at and beyond the bound.
    fn cut(&mut self) {
        let used = self.page_count % 64;
        if let (Some(last), true) = (self.words.last_mut(), used > 0) {
            *last &= (1 << used) - 1;
        }
    }

    /// The bound of its pfns.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Adds a page; one beyond the bound is left out.
    pub fn insert(&mut self, pfn: u64) {
        if pfn < self.page_count
            && let Some(word) = self.word_of(pfn)
        {
            self.words[word] |= 1 << (pfn % 64);
        }
    }

    /// Whether it has the page.
    pub fn contains(&self, pfn: u64) -> bool {
        self.word_of(pfn).is_some_and(|word| self.words[word] & 1 << (pfn % 64) != 0)
    }

    fn word_of(&self, pfn: u64) -> Option<usize> {
        usize::try_from(pfn / 64).ok().filter(|word| *word < self.words.len())
    }

    /// How many pages it has.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The pages below the bound that it does not have.
    #[must_use]
    pub fn others(&self) -> Self {
        Self::from_words(self.words.iter().map(|word| !word), self.page_count)
    }

    /// Its pfns, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0u64..).zip(&self.words).filter(|(_, word)| **word != 0).flat_map(|(number, word)| {
            (0..64u64).filter(move |bit| word & 1 << bit != 0).map(move |bit| number * 64 + bit)
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn pages_are_in_or_out() {
        let mut set = PageSet::none(130);
        for pfn in [0, 64, 129, 130, u64::MAX] {
            set.insert(pfn);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!((set.len(), set.others().len()), (3, 127));
        assert!(set.contains(129) && !set.contains(128) && !set.contains(130) && !set.contains(u64::MAX));
        assert_eq!(PageSet::all(130).others(), PageSet::none(130));
        assert!(PageSet::none(0).is_empty() && PageSet::all(0).is_empty());
    }

    #[test]
    fn bits_beyond_the_bound_are_not_taken() {
        assert_eq!(PageSet::from_words([u64::MAX, u64::MAX], 70).len(), 70);
        assert_eq!(PageSet::from_words([1], 70).iter().collect::<Vec<_>>(), [0]);
    }
}
