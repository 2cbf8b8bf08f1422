//! Lengths of the codes, one hexadecimal digit each: `lengths.txt`, which `train.rs` prints.
//!
//! They are part of the format: images that were written with them need them.

use super::TOKENS;

/// Codes that literals can be in; the first has eight bits for each.
pub(super) const CLASSES: usize = 8;
/// Tokens that have a code of their own.
#[cfg(test)]
pub(super) const CODED_TOKENS: usize = 511;
/// The symbol that stands before a token without one.
pub(super) const ESCAPE: usize = TOKENS;

/// Digits in a line of the text.
pub(super) const LINE: usize = 64;
const TEXT: &[u8] = include_bytes!("lengths.txt");

/// By class and literal.
pub(super) const LITERAL_LENGTHS: [[u8; 256]; CLASSES] = {
    let mut lengths = [[0; 256]; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        lengths[class] = digits(TEXT, class * 256);
        class += 1;
    }
    lengths
};

/// By token; 0 where it has none. The last is the escape's.
pub(super) const TOKEN_LENGTHS: [u8; TOKENS + 1] = digits(TEXT, CLASSES * 256);

/// The digits of `text` from the one with this number on.
pub(super) const fn digits<const N: usize>(text: &[u8], first: usize) -> [u8; N] {
    let mut lengths = [0; N];
    let mut i = 0;
    while i < N {
        let number = first + i;
        lengths[i] = match text[number + number / LINE] {
            digit @ b'0'..=b'9' => digit - b'0',
            letter @ b'a'..=b'b' => letter - b'a' + 10,
            _ => panic!("a length is 0 to 11"),
        };
        i += 1;
    }
    lengths
}
