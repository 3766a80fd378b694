//! ggml's IQ formats: integers from a table or vectors from a grid, with an f16 scale `d` and small
//! integer scales `sc`.
//!
//! An IQ1, IQ2 or IQ3 format stores indices of vectors of 8 (IQ1, IQ2) or 4 elements. The IQ2 and
//! IQ3 grids have positive elements; eight signs are a byte, bit `i` for element `i`. Seven stored
//! signs imply the eighth: the number of negative elements is even.
//!
//! | format | bytes in order | value |
//! | --- | --- | --- |
//! | IQ4_NL | `d` 2, `qs` 16 | d·table\[q\], blocks of 32 |
//! | IQ4_XS | `d` 2, `scales_h` 2, `scales_l` 4, `qs` 128 | (d·(sc − 32))·table\[q\], groups of 32 |
//! | IQ1_S | `d` 2, `qs` 32, `qh` 16 | (d·(2·sc + 1))·(grid ± 1/8), groups of 32 |
//! | IQ1_M | `qs` 32, `qh` 16, `scales` 8 | (d·(2·sc + 1))·(grid ± 1/8), groups of 16 |
//! | IQ2_XXS | `d` 2, 8 × (`qs` 4, signs and scale 4) | ±((d·(½ + sc))·¼)·grid, groups of 32 |
//! | IQ2_XS | `d` 2, `qs` 64, `scales` 8 | ±((d·(½ + sc))·¼)·grid, groups of 16 |
//! | IQ2_S | `d` 2, `qs` 32, `signs` 32, `qh` 8, `scales` 8 | ±((d·(½ + sc))·¼)·grid, groups of 16 |
//! | IQ3_XXS | `d` 2, `qs` 64, 8 × signs and scale 4 | ±((d·(½ + sc))·½)·grid, groups of 32 |
//! | IQ3_S | `d` 2, `qs` 64, `qh` 8, `signs` 32, `scales` 4 | ±(d·(2·sc + 1))·grid, groups of 32 |

use super::grids;
use super::legacy::nibbles;
use super::{f16_at, u16_at, u32_at};
use half::f16;

/// The integers of the 4-bit codes of IQ4_NL and IQ4_XS.
const TABLE: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];
/// The elements of the 2-bit codes of the IQ2 grids, which have no code 3.
const IQ2: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// The elements of the 3-bit codes of the grid of IQ3_XXS.
const IQ3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// The elements of the 3-bit codes of the grid of IQ3_S.
const IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// The elements of a block of IQ4_NL. Low nibbles are elements 0–15, high nibbles 16–31.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], out, |q, _| d * TABLE[usize::from(q)]);
}

/// The elements of a super-block of IQ4_XS. The scale of group `g` has its low four bits in nibble
/// `g` of `scales_l` and its high two in bits `2·g` of `scales_h`. A group is as a block of IQ4_NL.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (f16_at(block, 0), u16_at(block, 2));
    let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(block[8..].as_chunks::<16>().0);
    for (group, (out, qs)) in groups.enumerate() {
        let high = (high >> (2 * group) & 3) as u8;
        let scale = d * f32::from((nibble(&block[4..8], group) | high << 4) as i8 - 32);
        nibbles(qs, out, |q, _| scale * TABLE[usize::from(q)]);
    }
}

/// The elements of a super-block of IQ1_S. A word of `qh` has the high three bits of its group's
/// four indices in bits 0–11, the scale in bits 12–14, and the sign of the eighth in bit 15.
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let qh = u16_at(block, 34 + i / 4 * 2);
        let scale = d * f32::from(2 * (qh >> 12 & 7) + 1);
        let index = usize::from(block[2 + i]) | usize::from(qh >> (i % 4 * 3) & 7) << 8;
        ternary(index, scale, qh & 0x8000 != 0, out);
    }
}

/// The elements of a super-block of IQ1_M. A nibble of `qh` has the high three bits of an index,
/// and the sign of the eighth in its fourth bit. The scales are four words of four 3-bit scales.
/// The high four bits of the words make `d`, the lowest ones first.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let scales: [u16; 4] = std::array::from_fn(|i| u16_at(block, 48 + 2 * i));
    let d = (0..4).fold(0, |d, i| d | scales[i] >> 12 << (4 * i));
    let d = f16::from_bits(d).to_f32();
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let group = i / 2;
        let scale = d * f32::from(2 * (scales[group / 4] >> (group % 4 * 3) & 7) + 1);
        let qh = nibble(&block[32..48], i);
        let index = usize::from(block[i]) | usize::from(qh & 7) << 8;
        ternary(index, scale, qh & 8 != 0, out);
    }
}

/// The elements of a super-block of IQ2_XXS. A group is a word of four indices, and a word of four
/// times seven signs with the scale in its high four bits.
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let group = 2 + i / 4 * 8;
        let word = u32_at(block, group + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        let vector = grids::IQ2_XXS[usize::from(block[group + i % 4])];
        eight(vector, scale, eighth_sign((word >> (i % 4 * 7) & 127) as u8), out);
    }
}

/// The elements of a super-block of IQ2_XS. A word of `qs` is an index of nine bits and seven
/// signs.
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        let word = u16_at(block, 2 + 2 * i);
        eight(grids::IQ2_XS[usize::from(word & 511)], scale, eighth_sign((word >> 9) as u8), out);
    }
}

/// The elements of a super-block of IQ2_S. Bits `2·(i % 4)` of byte `i / 4` of `qh` are the high
/// two bits of index `i`.
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = d * (0.5 + f32::from(nibble(&block[74..], i / 2))) * 0.25;
        let high = block[66 + i / 4] >> (i % 4 * 2) & 3;
        let index = usize::from(block[2 + i]) | usize::from(high) << 8;
        eight(grids::IQ2_S[index], scale, block[34 + i], out);
    }
}

/// The elements of a super-block of IQ3_XXS. A group has eight indices in `qs`, and a word of four
/// times seven signs with the scale in its high four bits.
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let word = u32_at(block, 66 + i / 4 * 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let vectors = [0, 1].map(|half| grids::IQ3_XXS[usize::from(block[2 + 2 * i + half])]);
        four_and_four(vectors, &IQ3_XXS, scale, eighth_sign((word >> (i % 4 * 7) & 127) as u8), out);
    }
}

/// The elements of a super-block of IQ3_S. Bit `i % 8` of byte `i / 8` of `qh` is the ninth bit of
/// index `i`.
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * nibble(&block[106..], i / 4) + 1);
        let vectors = [2 * i, 2 * i + 1].map(|i| {
            let ninth = block[66 + i / 8] >> (i % 8) & 1;
            grids::IQ3_S[usize::from(block[2 + i]) | usize::from(ninth) << 8]
        });
        four_and_four(vectors, &IQ3_S, scale, block[74 + i], out);
    }
}

/// Nibble `i` of `bytes`, low nibbles first.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

/// Seven signs with the eighth, which makes the number of set bits even.
fn eighth_sign(signs: u8) -> u8 {
    signs | (signs.count_ones() as u8 & 1) << 7
}

/// 1, or −1 if bit `i` of `signs` is set.
fn sign(signs: u8, i: usize) -> f32 {
    if signs >> i & 1 == 0 { 1.0 } else { -1.0 }
}

/// A vector of the ternary grid, shifted by an eighth and scaled.
fn ternary(index: usize, scale: f32, negative: bool, out: &mut [f32; 8]) {
    let (vector, eighth) = (grids::IQ1[index], if negative { -0.125 } else { 0.125 });
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from((vector >> (2 * i) & 3) as i8 - 1) + eighth);
    }
}

/// A vector of an IQ2 grid, scaled and signed.
fn eight(vector: u16, scale: f32, signs: u8, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * IQ2[usize::from(vector >> (2 * i) & 3)] * sign(signs, i);
    }
}

/// Two vectors of an IQ3 grid, scaled and signed.
fn four_and_four(vectors: [u16; 2], elements: &[f32; 8], scale: f32, signs: u8, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * elements[usize::from(vectors[i / 4] >> (i % 4 * 4) & 7)] * sign(signs, i);
    }
}
