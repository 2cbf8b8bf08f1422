//! WKdm, the word coder of Wilson and Kaplan's "The Case for Compressed Caching in Virtual
//! Memory Systems" (1999), written after the paper: 32-bit words against a direct-mapped
//! dictionary of 16 words seen last.
//!
//! A code is the tags (two bits a word), then packed nibbles with dictionary places, then the
//! words that nothing resembled, then packed pairs of ten low bits (three in a word of 32).

use comio_core::PAGE_SIZE;

use crate::coder::UnitCoder;

const WORDS: usize = PAGE_SIZE / 4;
const TAG_BYTES: usize = WORDS / 4;
/// Behind the tags and the most places that there can be; moved once their number is known.
const MISSES_AT: usize = TAG_BYTES + WORDS / 2;
const LOW_BITS: u32 = 10;
const LOW_MASK: u32 = (1 << LOW_BITS) - 1;

const ZERO: u8 = 0;
const PARTIAL: u8 = 1;
const MISS: u8 = 2;
const EXACT: u8 = 3;

/// Codes single pages.
pub(crate) struct WkDm {
    tags: Box<[u8; WORDS]>,
    places: Box<[u8; WORDS]>,
    lows: Box<[u16; WORDS + 2]>,
}

/// The dictionary's place for a word: its upper bits decide, so that near values meet.
fn place(word: u32) -> usize {
    ((word >> LOW_BITS).wrapping_mul(0x9e37_79b1) >> 28) as usize
}

impl WkDm {
    pub(crate) fn new() -> Self {
        Self { tags: Box::new([0; WORDS]), places: Box::new([0; WORDS]), lows: Box::new([0; WORDS + 2]) }
    }
}

impl UnitCoder for WkDm {
    #[expect(clippy::cast_possible_truncation, reason = "places are below 16, low bits ten")]
    fn compress(&mut self, unit: &[u8], code: &mut [u8]) -> Option<usize> {
        let mut dictionary = [1u32; 16];
        let (mut places, mut lows, mut misses) = (0, 0, 0);
        for (bytes, tag) in unit.as_chunks::<4>().0.iter().zip(self.tags.iter_mut()) {
            let word = u32::from_le_bytes(*bytes);
            if word == 0 {
                *tag = ZERO;
                continue;
            }
            let at = place(word);
            let known = dictionary[at];
            if known == word {
                *tag = EXACT;
                self.places[places] = at as u8;
                places += 1;
            } else if known >> LOW_BITS == word >> LOW_BITS {
                *tag = PARTIAL;
                self.places[places] = at as u8;
                places += 1;
                self.lows[lows] = (word & LOW_MASK) as u16;
                lows += 1;
                dictionary[at] = word;
            } else {
                *tag = MISS;
                code[MISSES_AT + misses * 4..][..4].copy_from_slice(bytes);
                misses += 1;
                dictionary[at] = word;
            }
        }
        for (packed, tags) in code.iter_mut().zip(self.tags.as_chunks::<4>().0) {
            *packed = tags[0] | tags[1] << 2 | tags[2] << 4 | tags[3] << 6;
        }
        let mut len = TAG_BYTES;
        self.places[places..(places + 1).min(WORDS)].fill(0);
        for pair in self.places[..places.next_multiple_of(2)].as_chunks::<2>().0 {
            code[len] = pair[0] | pair[1] << 4;
            len += 1;
        }
        code.copy_within(MISSES_AT..MISSES_AT + misses * 4, len);
        len += misses * 4;
        self.lows[lows..lows + 2].fill(0);
        for three in self.lows[..lows.next_multiple_of(3)].as_chunks::<3>().0 {
            let packed = u32::from(three[0]) | u32::from(three[1]) << 10 | u32::from(three[2]) << 20;
            code[len..len + 4].copy_from_slice(&packed.to_le_bytes());
            len += 4;
        }
        (len < unit.len()).then_some(len)
    }

    fn decompress(&mut self, code: &[u8], unit: &mut [u8]) -> bool {
        self.decoded(code, unit).is_some()
    }
}

impl WkDm {
    fn decoded(&mut self, code: &[u8], unit: &mut [u8]) -> Option<()> {
        let (packed, rest) = code.split_at_checked(TAG_BYTES)?;
        let mut counts = [0usize; 4];
        for (tags, packed) in self.tags.as_chunks_mut::<4>().0.iter_mut().zip(packed) {
            for (tag, shift) in tags.iter_mut().zip([0, 2, 4, 6]) {
                *tag = packed >> shift & 3;
                counts[usize::from(*tag)] += 1;
            }
        }
        let [_, partial, miss, exact] = counts;
        let (places, rest) = rest.split_at_checked((partial + exact).div_ceil(2))?;
        let (misses, lows) = rest.split_at_checked(miss * 4)?;
        let mut places = places.iter().flat_map(|pair| [pair & 15, pair >> 4]);
        let mut misses = misses.as_chunks::<4>().0.iter();
        let mut lows = lows.as_chunks::<4>().0.iter().flat_map(|three| {
            let three = u32::from_le_bytes(*three);
            [three & LOW_MASK, three >> 10 & LOW_MASK, three >> 20 & LOW_MASK]
        });
        let mut dictionary = [1u32; 16];
        for (bytes, tag) in unit.as_chunks_mut::<4>().0.iter_mut().zip(self.tags.iter()) {
            let word = match *tag {
                ZERO => 0,
                EXACT => dictionary[usize::from(places.next()?)],
                PARTIAL => {
                    let known = &mut dictionary[usize::from(places.next()?)];
                    *known = *known & !LOW_MASK | lows.next()?;
                    *known
                }
                _ => {
                    let word = u32::from_le_bytes(*misses.next()?);
                    dictionary[place(word)] = word;
                    word
                }
            };
            *bytes = word.to_le_bytes();
        }
        Some(())
    }
}
