//! Writing and reading bits, first bit lowest.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::ROOM;

/// Bytes with room for a look of eight beyond any place.
pub(super) type Room = [u8; ROOM + 8];

/// Bits on their way into a [`Room`].
#[derive(Default)]
pub(super) struct BitWriter {
    /// Where the next whole byte goes.
    pub(super) at: usize,
    held: u64,
    count: u32,
}

impl BitWriter {
    pub(super) fn starting(at: usize) -> Self {
        Self { at, held: 0, count: 0 }
    }

    /// Takes the lowest `count` bits of `bits`; the others are zero. Between two flushes there is
    /// room for 56 bits.
    #[inline(always)]
    pub(super) fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
    }

    /// Writes the whole bytes.
    #[inline(always)]
    pub(super) fn flush(&mut self, room: &mut Room) {
        let at = self.at & (ROOM - 1);
        room[at..at + 8].copy_from_slice(&self.held.to_le_bytes());
        self.at += (self.count >> 3) as usize;
        self.held >>= self.count & !7;
        self.count &= 7;
    }

    /// Writes all, zeros behind the last bit; gives where the next byte would go.
    #[inline(always)]
    pub(super) fn finish(mut self, room: &mut Room) -> usize {
        self.count = self.count.next_multiple_of(8);
        self.flush(room);
        self.at
    }
}

/// The next 57 bits at bit `at` or more, garbage above.
#[inline(always)]
pub(super) fn look(room: &Room, at: usize) -> u64 {
    let byte = (at >> 3) & (ROOM - 1);
    let bytes: &[u8; 8] = room[byte..byte + 8].first_chunk().unwrap_or(&[0; 8]);
    u64::from_le_bytes(*bytes) >> (at & 7)
}
