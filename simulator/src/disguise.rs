//! How private memory is made unlike the recorded one, and about as compressible.
//!
//! Bytes are exchanged one to one among those that are about as frequent in the recording, so equal
//! bytes stay equal, every repetition stays one, and coders with fixed tables find about the
//! frequencies that they were made for. Bytes 0 and 255 stay: memory is full of small numbers of
//! either sign.

use comio_core::PAGE_SIZE;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes that are exchanged among each other.
const PEERS: usize = 4;
/// Pages that frequencies are taken from at most.
const SAMPLED_PAGES: usize = 4096;

/// The bytes that change, by falling frequency: each [`PEERS`] of them are exchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frequencies([u8; 254]);

impl Frequencies {
    /// Those of pages that lie evenly in `memory`.
    pub(crate) fn of(memory: &[u8]) -> Self {
        let stride = (memory.len() / PAGE_SIZE).div_ceil(SAMPLED_PAGES).max(1);
        let mut counts = [0u64; 256];
        for page in memory.chunks(PAGE_SIZE).step_by(stride) {
            for &byte in page {
                counts[usize::from(byte)] += 1;
            }
        }
        let mut bytes = [0; 254];
        for (byte, number) in bytes.iter_mut().zip(1u8..) {
            *byte = number;
        }
        bytes.sort_by_key(|&byte| (u64::MAX - counts[usize::from(byte)], byte));
        Self(bytes)
    }

    /// The exchange that `key` and `guest` determine: every byte but 0 and 255 becomes another.
    pub(crate) fn exchange(&self, key: u32, guest: u64) -> Exchange {
        let mut seed = [0; 12];
        seed[..8].copy_from_slice(&guest.to_le_bytes());
        seed[8..].copy_from_slice(&key.to_le_bytes());
        let mut draws = xxh3_128(&seed);
        let mut becomes = [0; 256];
        becomes[255] = 255;
        for peers in self.0.chunks(PEERS) {
            let by = 1 + (draws & 3) as usize % (peers.len() - 1);
            draws >>= 2;
            for (index, &byte) in peers.iter().enumerate() {
                becomes[usize::from(byte)] = peers[(index + by) % peers.len()];
            }
        }
        Exchange(becomes)
    }
}

/// What becomes of each byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange([u8; 256]);

impl Exchange {
    pub(crate) fn apply(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0[usize::from(*byte)];
        }
    }

    /// Whether `page` is what becomes of `recorded`.
    pub(crate) fn gives(&self, recorded: &[u8], page: &[u8]) -> bool {
        recorded.len() == page.len()
            && recorded.iter().zip(page).all(|(&from, &to)| self.0[usize::from(from)] == to)
    }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_exchange_is_one_to_one_and_changes_all_but_two() {
        let memory: Vec<u8> = (0..PAGE_SIZE).map(|at| (at * at / 97).to_le_bytes()[0]).collect();
        let frequencies = Frequencies::of(&memory);
        let exchanges: BTreeSet<[u8; 256]> =
            (0..1000u32).map(|guest| frequencies.exchange(guest % 7, guest.into()).0).collect();
        assert_eq!(exchanges.len(), 1000);
        for becomes in exchanges {
            assert_eq!(becomes.iter().collect::<BTreeSet<_>>().len(), 256);
            let stay: Vec<usize> = (0..256).filter(|&byte| usize::from(becomes[byte]) == byte).collect();
            assert_eq!(stay, [0, 255]);
        }
    }

    #[test]
    fn bytes_are_exchanged_for_those_as_frequent() {
        // Byte n stands there n times.
        let memory: Vec<u8> = (0..=255u8).flat_map(|byte| vec![byte; usize::from(byte)]).collect();
        let Exchange(becomes) = Frequencies::of(&memory).exchange(1, 1);
        assert!((1..255).all(|byte: usize| usize::from(becomes[byte]).abs_diff(byte) < PEERS));
    }
}
