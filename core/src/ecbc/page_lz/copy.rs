//! Copying literals and matches in pieces of 16 bytes, beyond their ends if need be.
//!
//! Indices are masked to their array's size, so that no code can make a decoder reach beyond.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::{PAD, PIECE};

/// `SPREAD[d][i]` is where byte i comes from when the last d bytes repeat; d = 16 stands for all
/// larger ones.
static SPREAD: [[u8; PIECE]; PIECE + 1] = {
    let mut table = [[0; PIECE]; PIECE + 1];
    let mut distance = 1;
    while distance <= PIECE {
        let mut i = 0;
        while i < PIECE {
            #[expect(clippy::cast_possible_truncation, reason = "below 16")]
            let from = (i % distance) as u8;
            table[distance][i] = from;
            i += 1;
        }
        distance += 1;
    }
    table
};

/// The smallest multiple of a distance that is at least a piece.
static FAR: [u8; PIECE + 1] = {
    let mut table = [0; PIECE + 1];
    let mut distance = 1;
    while distance <= PIECE {
        #[expect(clippy::cast_possible_truncation, reason = "below 32")]
        let multiple = PIECE.next_multiple_of(distance) as u8;
        table[distance] = multiple;
        distance += 1;
    }
    table
};

/// How sixteen bytes are picked out of sixteen.
pub(super) trait Shuffle {
    /// Byte i of the result is byte `places[i]` of `bytes`; places are below 16.
    fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE];
}

/// By any machine.
pub(super) struct Plain;

impl Shuffle for Plain {
    #[inline(always)]
    fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE] {
        places.map(|place| bytes[usize::from(place) & (PIECE - 1)])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Ssse3;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "an instruction that the compiler does not find by itself")]

    use std::arch::x86_64::{__m128i, _mm_shuffle_epi8};
    use std::mem::transmute;

    use super::{PIECE, Shuffle};

    /// By one instruction; to be used only where SSSE3 was detected.
    pub(in super::super) struct Ssse3;

    impl Shuffle for Ssse3 {
        #[inline(always)]
        fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE] {
            // SAFETY: any 16 bytes are a vector and the other way round; the machine has SSSE3,
            // as the type's documentation demands.
            unsafe {
                let vector: __m128i = transmute(bytes);
                transmute(_mm_shuffle_epi8(vector, transmute::<[u8; PIECE], __m128i>(*places)))
            }
        }
    }
}

/// Runs a decoder's body, generic over the [`Shuffle`] `$shuffle`, compiled for what `$cpu` has.
macro_rules! choose_shuffle {
    ($cpu:expr, fn $name:ident<$shuffle:ident $(, const $number:ident: usize)?>($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt,ssse3,avx2")]
        fn v3$(<const $number: usize>)?($($arg: $type),*) -> $result {
            type $shuffle = $crate::ecbc::page_lz::copy::Ssse3;
            $body
        }
        fn any$(<const $number: usize>)?($($arg: $type),*) -> $result {
            type $shuffle = $crate::ecbc::page_lz::copy::Plain;
            $body
        }
        match $cpu {
            $crate::ecbc::cpu::Cpu::Any => any($($arg),*),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "compiled for instructions that not every CPU has")]
            // SAFETY: `Cpu::V3` exists only where these instructions were detected.
            $crate::ecbc::cpu::Cpu::V3 => unsafe { v3($($arg),*) },
        }
    }};
}
pub(super) use choose_shuffle;

/// Copies `len` literals; at least one piece is written.
#[inline(always)]
pub(super) fn copy_literals<const N: usize, const P: usize>(
    input: &[u8; N],
    from: usize,
    output: &mut [u8; P],
    to: usize,
    len: usize,
) {
    let mut copied = 0;
    loop {
        let source = (from + copied) & (P - PAD - 1);
        let target = (to + copied) & (P - PAD - 1);
        output[target..target + PIECE].copy_from_slice(&input[source..source + PIECE]);
        copied += PIECE;
        if copied >= len {
            break;
        }
    }
}

/// Copies a match of `len` bytes from `distance`, at most `to` and not 0, bytes before `to`.
#[inline(always)]
pub(super) fn copy_match<S: Shuffle, const P: usize>(
    output: &mut [u8; P],
    to: usize,
    distance: usize,
    len: usize,
) {
    let near = distance.min(PIECE);
    let first = piece(output, to - distance);
    put(output, to, S::shuffle(first, &SPREAD[near]));
    // What repeats at a near distance also does at each multiple of it.
    let distance = if distance < PIECE { usize::from(FAR[near]) } else { distance };
    let mut copied = PIECE;
    while copied < len {
        let bytes = piece(output, to + copied - distance);
        put(output, to + copied, bytes);
        copied += PIECE;
    }
}

#[inline(always)]
fn piece<const P: usize>(output: &[u8; P], at: usize) -> [u8; PIECE] {
    let at = at & (P - PAD - 1);
    *output[at..at + PIECE].first_chunk().unwrap_or(&[0; PIECE])
}

#[inline(always)]
fn put<const P: usize>(output: &mut [u8; P], at: usize, bytes: [u8; PIECE]) {
    let at = at & (P - PAD - 1);
    output[at..at + PIECE].copy_from_slice(&bytes);
}
