//! Canonical prefix codes of at most eleven bits, first bit lowest.

/// Longest code in bits.
pub(super) const CODE_BITS: u32 = 11;
/// Entries of a decoding table.
pub(super) const STATES: usize = 1 << CODE_BITS;

/// The codes of symbols with these lengths (0: has none): shorter before longer, then by number.
pub(super) const fn codes<const N: usize>(lengths: &[u8; N]) -> [u32; N] {
    let mut codes = [0; N];
    let mut next = 0u32;
    let mut bits = 1;
    while bits <= CODE_BITS {
        let mut symbol = 0;
        while symbol < N {
            if lengths[symbol] as u32 == bits {
                codes[symbol] = next.reverse_bits() >> (32 - bits);
                next += 1;
            }
            symbol += 1;
        }
        next <<= 1;
        bits += 1;
    }
    codes
}

/// For each value of the next bits: the symbol that they begin with (bits 8 and up) and the
/// length of its code (bits 0-7).
pub(super) const fn decoding<const N: usize>(lengths: &[u8; N]) -> [u32; STATES] {
    let codes = codes(lengths);
    let mut table = [0; STATES];
    let mut symbol = 0;
    while symbol < N {
        #[expect(clippy::cast_possible_truncation, reason = "there are fewer than a thousand")]
        let number = symbol as u32;
        if lengths[symbol] > 0 {
            let mut state = codes[symbol] as usize;
            while state < STATES {
                table[state] = number << 8 | lengths[symbol] as u32;
                state += 1 << lengths[symbol];
            }
        }
        symbol += 1;
    }
    table
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn codes_are_canonical_and_decode() {
        let lengths = [0, 2, 3, 1];
        assert_eq!(codes(&lengths), [0, 0b01, 0b011, 0b0], "the first bit is the lowest");
        let table = decoding(&lengths);
        assert_eq!(table[0b110], 3 << 8 | 1);
        assert_eq!(table[0b101], 1 << 8 | 2);
        assert_eq!(table[0b011], 2 << 8 | 3);
    }
}
