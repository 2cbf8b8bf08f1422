//! Tokens and extensions, as packed page LZ has them, upon another page or not.
#![expect(clippy::cast_possible_truncation, reason = "of bits, the lowest few are wanted")]
#![expect(clippy::inline_always, reason = "compiled for several CPUs; calls cost several percent")]

use super::bits::BitWriter;
use super::code::{STATES, codes};
use super::tables::ESCAPE;
use super::{EXTENSION_BITS, EXTENSION_MAX, TOKEN_BITS, TOKENS};

/// By token: its code, the escape's and the token's number if it has none, and below that the
/// length in eight bits.
pub(super) const fn encoding(lengths: &[u8; TOKENS + 1]) -> [u32; TOKENS] {
    let codes = codes(lengths);
    let escape_len = lengths[ESCAPE] as u32;
    let mut table = [0; TOKENS];
    let mut token = 0;
    while token < TOKENS {
        let number = token as u32;
        table[token] = match lengths[token] as u32 {
            0 => (codes[ESCAPE] | number << escape_len) << 8 | (escape_len + TOKEN_BITS),
            len => codes[token] << 8 | len,
        };
        token += 1;
    }
    table
}

/// The token that `bits` begin with by the [`decoding`](super::code::decoding) table, and its bits.
#[inline(always)]
pub(super) fn token(table: &[u32; STATES], bits: u64) -> Option<(usize, u32)> {
    let entry = table[bits as usize & (STATES - 1)];
    let (token, used) = ((entry >> 8) as usize, entry & 0xff);
    if token != ESCAPE {
        return Some((token, used));
    }
    let token = (bits >> used) as usize & ((1 << TOKEN_BITS) - 1);
    (token < TOKENS).then_some((token, used + TOKEN_BITS))
}

/// What a field could not say, and the bits that say it.
#[inline(always)]
pub(super) fn extension(bits: u64) -> (usize, u32) {
    match bits as usize & 0xff {
        EXTENSION_MAX => ((bits >> 8) as usize & ((1 << EXTENSION_BITS) - 1), 8 + EXTENSION_BITS),
        rest => (rest, 8),
    }
}

/// Writes what a field could not say.
#[inline(always)]
pub(super) fn put_extension(writer: &mut BitWriter, rest: usize) {
    if rest < EXTENSION_MAX {
        writer.put(rest as u64, 8);
    } else {
        writer.put((EXTENSION_MAX | rest << 8) as u64, 8 + EXTENSION_BITS);
    }
}
