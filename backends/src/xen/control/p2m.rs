//! A PV guest's own table of its machine frames, as Linux has published it since 3.19: a
//! virtually contiguous array at `p2m_vaddr` in the address space of `p2m_cr3`.

use std::io;
use std::mem::offset_of;

use comio_core::PAGE_SIZE;
use xenctrl_sys::shared_info;

// Offsets in a 64-bit guest's shared info page.
const MAX_PFN: usize = offset_of!(shared_info, arch.max_pfn);
const P2M_CR3: usize = offset_of!(shared_info, arch.p2m_cr3);
const P2M_VADDR: usize = offset_of!(shared_info, arch.p2m_vaddr);

const ENTRIES: u64 = 512;
const LEVELS: u32 = 4;
const PRESENT: u64 = 1;
/// Bits 12 to 51: the frame in a page table's entry.
const FRAME_MASK: u64 = (1 << 40) - 1;
/// Entries at or above this are no frame of the guest: invalid, foreign or identity.
const FRAMES_END: u64 = 1 << 40;
/// The most frames a guest may have: 16 TiB.
const PAGES_MAX: u64 = 1 << 32;
/// Frames read at once.
const CHUNK: usize = 256;

/// Reads machine frames: their contents, and an error where one is not there.
pub(super) trait ReadFrames {
    fn read(&mut self, frames: &[u64], pages: &mut [u8]) -> io::Result<()>;
}

/// Where a guest's table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// How many entries it has: pfns 0 to below it.
    pub(super) page_count: u64,
    cr3: u64,
    address: u64,
}

fn word(page: &[u8], at: usize) -> u64 {
    page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Place {
    /// As the shared info page says.
    pub(super) fn of(info: &[u8]) -> io::Result<Self> {
        let (page_count, cr3) = (word(info, MAX_PFN), word(info, P2M_CR3));
        let place = Self { page_count, cr3, address: word(info, P2M_VADDR) };
        if cr3 == 0 {
            return Err(io::Error::other(
                "its kernel does not say where its table of frames is (Linux does from 3.19 on)",
            ));
        }
        if page_count == 0 || page_count > PAGES_MAX {
            return Err(io::Error::other(format!("it says that it has {page_count} pages")));
        }
        Ok(place)
    }

    /// The guest's machine frames by pfn; `None` where it has no page.
    pub(super) fn frames(&self, read: &mut dyn ReadFrames) -> io::Result<Vec<Option<u64>>> {
        let mut tables = vec![self.cr3 >> 12 & FRAME_MASK];
        for level in (1..=LEVELS).rev() {
            tables = self.next_level(level, &tables, read)?;
        }
        let mut frames = Vec::with_capacity(usize::try_from(self.page_count).map_err(io::Error::other)?);
        // The array begins anywhere in its first page.
        let skip = usize::try_from(self.address % PAGE_SIZE as u64 / 8).unwrap_or(0);
        for_each_word(&tables, read, |word| frames.push(Some(word).filter(|word| *word < FRAMES_END)))?;
        frames.drain(..skip.min(frames.len()));
        frames.truncate(usize::try_from(self.page_count).map_err(io::Error::other)?);
        Ok(frames)
    }

    /// The frames that entries of `tables`, page tables of that level, point at, as far as the
    /// array lies in them.
    fn next_level(&self, level: u32, tables: &[u64], read: &mut dyn ReadFrames) -> io::Result<Vec<u64>> {
        let shift = 12 + 9 * (level - 1);
        let last = self
            .address
            .checked_add(self.page_count * 8 - 1)
            .ok_or_else(|| io::Error::other(format!("its table of frames begins at {:#x}", self.address)))?;
        // Numbers of entries, counted through all tables of this level.
        let (first_entry, last_entry) = (self.address >> shift, last >> shift);
        let begin = first_entry % ENTRIES;
        let count = last_entry - first_entry + 1;
        let mut next = Vec::new();
        let mut number = 0;
        for_each_word(tables, read, |word| {
            if (begin..begin + count).contains(&number) {
                next.push(word);
            }
            number += 1;
        })?;
        let absent = next.iter().any(|entry| entry & PRESENT == 0);
        if absent || next.len() as u64 != count {
            return Err(io::Error::other("its table of frames is not where it says"));
        }
        Ok(next.into_iter().map(|entry| entry >> 12 & FRAME_MASK).collect())
    }
}

/// Gives every word of `frames` to `take`.
fn for_each_word(frames: &[u64], read: &mut dyn ReadFrames, mut take: impl FnMut(u64)) -> io::Result<()> {
    let mut pages = vec![0; CHUNK.min(frames.len()) * PAGE_SIZE];
    for chunk in frames.chunks(CHUNK) {
        let pages = &mut pages[..chunk.len() * PAGE_SIZE];
        read.read(chunk, pages)?;
        let (words, _) = pages.as_chunks::<8>();
        for word in words {
            take(u64::from_le_bytes(*word));
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Machine memory: pages by frame.
    #[derive(Default)]
    struct Machine {
        pages: BTreeMap<u64, Vec<u8>>,
    }

    impl ReadFrames for Machine {
        fn read(&mut self, frames: &[u64], pages: &mut [u8]) -> io::Result<()> {
            for (frame, page) in frames.iter().zip(pages.chunks_mut(PAGE_SIZE)) {
                let own = self.pages.get(frame).ok_or_else(|| io::Error::other("no such frame"))?;
                page.copy_from_slice(own);
            }
            Ok(())
        }
    }

    impl Machine {
        fn set(&mut self, frame: u64, index: u64, word: u64) {
            let page = self.pages.entry(frame).or_insert_with(|| vec![0; PAGE_SIZE]);
            page[usize::try_from(index).unwrap() * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }

        fn get(&self, frame: u64, index: u64) -> u64 {
            self.pages.get(&frame).map_or(0, |page| word(page, usize::try_from(index).unwrap() * 8))
        }

        /// Stores `value` at a virtual address below the root table in frame 7.
        fn store(&mut self, address: u64, value: u64) {
            let mut table = 7;
            for level in (1..=LEVELS).rev() {
                let index = address >> (12 + 9 * (level - 1)) & 511;
                if self.get(table, index) == 0 {
                    // Frames in no order, with flags beside them.
                    let frame = 1000 + (self.pages.len() as u64 * 7919) % 100_003;
                    self.pages.entry(frame).or_insert_with(|| vec![0; PAGE_SIZE]);
                    self.set(table, index, frame << 12 | 0x67 | 1 << 63);
                }
                table = self.get(table, index) >> 12 & FRAME_MASK;
            }
            self.set(table, address % 4096 / 8, value);
        }
    }

    fn info(page_count: u64, cr3: u64, address: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        for (at, word) in [(MAX_PFN, page_count), (P2M_CR3, cr3), (P2M_VADDR, address)] {
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_array_is_read_wherever_it_lies(count in 1u64..3000, begin in 0u64..(1 << 18)) {
            // Near the end of a table of each level, so that it goes on in the next one.
            let address = 0xffff_8000_0000_0000 + (1 << 39) - (1 << 21) + begin * 8;
            let mut machine = Machine::default();
            machine.pages.insert(7, vec![0; PAGE_SIZE]);
            for pfn in 0..count {
                let entry = if pfn % 5 == 3 { u64::MAX } else { pfn * 3 + 1 };
                machine.store(address + pfn * 8, entry);
            }
            let place = Place::of(&info(count, 7 << 12, address)).unwrap();
            let frames = place.frames(&mut machine).unwrap();
            prop_assert_eq!(frames.len() as u64, count);
            for (pfn, frame) in (0u64..).zip(frames) {
                prop_assert_eq!(frame, if pfn % 5 == 3 { None } else { Some(pfn * 3 + 1) });
            }
        }
    }

    #[test]
    fn a_table_that_is_not_there_is_an_error() {
        let mut machine = Machine::default();
        machine.pages.insert(7, vec![0; PAGE_SIZE]);
        let place = |count, cr3, address| Place::of(&info(count, cr3, address));
        assert!(place(10, 7 << 12, 0xffff_8000_0000_0000).unwrap().frames(&mut machine).is_err());
        assert!(place(10, 9 << 12, 0).unwrap().frames(&mut machine).is_err());
        assert!(place(10, 7 << 12, u64::MAX - 8).unwrap().frames(&mut machine).is_err());
        assert!(place(10, 0, 0).is_err());
        assert!(place(u64::MAX, 7 << 12, 0).is_err());
    }
}
