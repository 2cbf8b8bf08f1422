//! What a CPU does with many bytes at once and the compiler does not find by itself.
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::PIECE;

/// Bytes compared, or copied as literals, at once.
pub(super) const WIDE: usize = 32;

/// The same for every CPU, by different instructions.
pub(super) trait Vectors {
    /// Byte i of the result is byte `places[i]` of `bytes`; places are below 16.
    fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE];

    /// How many bytes are the same from the first on: [`WIDE`] if all are.
    fn equal_bytes(one: &[u8; WIDE], other: &[u8; WIDE]) -> usize;
}

/// By any machine.
pub(super) struct Plain;

impl Vectors for Plain {
    #[inline(always)]
    fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE] {
        places.map(|place| bytes[usize::from(place) & (PIECE - 1)])
    }

    #[inline(always)]
    fn equal_bytes(one: &[u8; WIDE], other: &[u8; WIDE]) -> usize {
        let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
        let mut equal = 0;
        for (one, other) in words {
            let differing = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
            if differing != 0 {
                return equal + differing.trailing_zeros() as usize / 8;
            }
            equal += 8;
        }
        WIDE
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "instructions that the compiler does not find by itself")]

    use std::arch::x86_64::{__m128i, __m256i, _mm_shuffle_epi8, _mm256_cmpeq_epi8, _mm256_movemask_epi8};
    use std::mem::transmute;

    use super::{PIECE, Vectors, WIDE};

    /// By one or a few instructions; to be used only where AVX2 was detected.
    pub(in super::super) struct Avx2;

    impl Vectors for Avx2 {
        #[inline(always)]
        fn shuffle(bytes: [u8; PIECE], places: &[u8; PIECE]) -> [u8; PIECE] {
            // SAFETY: any 16 bytes are a vector and the other way round; the machine has SSSE3,
            // which is part of what the type's documentation demands.
            unsafe {
                let vector: __m128i = transmute(bytes);
                transmute(_mm_shuffle_epi8(vector, transmute::<[u8; PIECE], __m128i>(*places)))
            }
        }

        #[inline(always)]
        fn equal_bytes(one: &[u8; WIDE], other: &[u8; WIDE]) -> usize {
            // SAFETY: any 32 bytes are a vector; the machine has AVX2, as the type's documentation
            // demands.
            let equal = unsafe {
                let one = transmute::<[u8; WIDE], __m256i>(*one);
                let other = transmute::<[u8; WIDE], __m256i>(*other);
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(one, other))
            };
            equal.trailing_ones() as usize
        }
    }
}

/// Runs a body that is generic over the [`Vectors`] `$vectors`, compiled for what `$cpu` has.
macro_rules! choose_vectors {
    ($cpu:expr, fn $name:ident<$vectors:ident $(; $generic:ident: $bound:ident)? $(, const $number:ident: usize)*>($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt,ssse3,avx2")]
        fn v3<$($generic: $bound,)? $(const $number: usize),*>($($arg: $type),*) -> $result {
            type $vectors = $crate::ecbc::page_lz::vectors::Avx2;
            $body
        }
        fn any<$($generic: $bound,)? $(const $number: usize),*>($($arg: $type),*) -> $result {
            type $vectors = $crate::ecbc::page_lz::vectors::Plain;
            $body
        }
        match $cpu {
            $crate::ecbc::cpu::Cpu::Any => any::<$($generic,)? $($number),*>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "compiled for instructions that not every CPU has")]
            // SAFETY: `Cpu::V3` exists only where these instructions were detected.
            $crate::ecbc::cpu::Cpu::V3 => unsafe { v3::<$($generic,)? $($number),*>($($arg),*) },
        }
    }};
}
pub(super) use choose_vectors;

#[cfg(test)]
mod test {
    use super::*;

    /// The first difference at every place, and none.
    fn counts<V: Vectors>() -> Vec<usize> {
        let one: [u8; WIDE] = std::array::from_fn(|i| u8::try_from(i * 7 % 251).expect("a byte"));
        let differing = |at: usize| std::array::from_fn(|i| if i >= at { !one[i] } else { one[i] });
        (0..=WIDE).map(|at| V::equal_bytes(&one, &differing(at))).collect()
    }

    #[test]
    fn equal_bytes_are_counted_up_to_the_first_that_differs() {
        let wanted: Vec<usize> = (0..=WIDE).collect();
        assert_eq!(counts::<Plain>(), wanted);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            assert_eq!(counts::<Avx2>(), wanted);
        }
    }
}
