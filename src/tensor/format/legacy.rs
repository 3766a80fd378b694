//! ggml's blocks of 32: integers with an f16 scale `d` and, in the `_1` formats, an f16 minimum
//! `m`.
//!
//! Byte `i` of the 16 bytes `qs` holds element `i` in its low nibble and element `i + 16` in its
//! high nibble. Bit `i` of the little-endian word `qh` is the fifth bit of element `i`.
//!
//! | format | bytes in order | value |
//! | --- | --- | --- |
//! | Q4_0 | `d` 2, `qs` 16 | d·(q − 8) |
//! | Q4_1 | `d` 2, `m` 2, `qs` 16 | d·q + m |
//! | Q5_0 | `d` 2, `qh` 4, `qs` 16 | d·(q − 16) |
//! | Q5_1 | `d` 2, `m` 2, `qh` 4, `qs` 16 | d·q + m |
//! | Q8_0 | `d` 2, 32 signed bytes | d·q |

use super::{f16_at, u32_at};
use std::array::from_fn;

/// The elements of a block of Q4_0.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], out, |q, _| d * f32::from(q as i8 - 8));
}

/// The elements of a block of Q4_1.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], out, |q, _| d * f32::from(q) + m);
}

/// The elements of a block of Q5_0.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, qh) = (f16_at(block, 0), u32_at(block, 2));
    nibbles(&block[6..], out, |q, i| d * f32::from(fifth_bit(q, qh, i) as i8 - 16));
}

/// The elements of a block of Q5_1.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, qh) = (f16_at(block, 0), f16_at(block, 2), u32_at(block, 4));
    nibbles(&block[8..], out, |q, i| d * f32::from(fifth_bit(q, qh, i)) + m);
}

/// The elements of a block of Q8_0.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    // An array of codes, because the loop over a slice of the block is not vectorised.
    let codes: [i8; 32] = from_fn(|i| block[2 + i] as i8);
    for (out, q) in out.iter_mut().zip(codes) {
        *out = d * f32::from(q);
    }
}

/// Writes `value(q, i)` for the nibble `q` of each element `i`.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8], out: &mut [f32; 32], value: impl Fn(u8, usize) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (i, (out, &q)) in low.iter_mut().zip(qs).enumerate() {
        *out = value(q & 15, i);
    }
    for (i, (out, &q)) in high.iter_mut().zip(qs).enumerate() {
        *out = value(q >> 4, i + 16);
    }
}

/// The nibble `q` of element `i` with its fifth bit.
fn fifth_bit(q: u8, qh: u32, i: usize) -> u8 {
    q | ((qh >> i & 1) << 4) as u8
}
