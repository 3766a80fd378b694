//! ggml's K-quants: super-blocks of 256 integers in groups with small integer scales, which f16
//! factors `d` and `dmin` multiply.
//!
//! Elements come in runs of 32. Run `r` of 2-bit codes is in bits `2·(r % 4)` of 32 bytes, the runs
//! of a half (0–3 or 4–7) in the same bytes.
//!
//! | format | bytes in order | value |
//! | --- | --- | --- |
//! | Q2_K | `scales` 16, `qs` 64, `d` 2, `dmin` 2 | (d·sc)·q − (dmin·m), groups of 16 |
//! | Q3_K | `hmask` 32, `qs` 64, `scales` 12, `d` 2 | (d·(sc − 32))·(q − 4·(1 − h)), groups of 16 |
//! | Q4_K | `d` 2, `dmin` 2, `scales` 12, `qs` 128 | (d·sc)·q − (dmin·m), groups of 32 |
//! | Q5_K | `d` 2, `dmin` 2, `scales` 12, `qh` 32, `qs` 128 | as Q4_K, with a fifth bit |
//! | Q6_K | `ql` 128, `qh` 64, `scales` 16, `d` 2 | (d·sc)·(q − 32), groups of 16 |

// The loops that fill an array of codes, and then convert them, are vectorised. Those that do both
// at once are not, except in Q4_K and Q5_K.

use super::f16_at;
use std::array::from_fn;

/// The elements of a super-block of Q2_K. The low nibble of a byte of `scales` is its group's scale
/// `sc`, the high nibble its minimum `m`.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    let (scales, qs) = block[..80].split_at(16);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * f32::from(scales[group] & 15), dmin * f32::from(scales[group] >> 4));
        let (start, shift) = two_bits(group);
        let qs = &qs[start..start + 16];
        let codes: [u8; 16] = from_fn(|i| qs[i] >> shift & 3);
        for (out, q) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// The elements of a super-block of Q3_K. Bit `r` of byte `i` of `hmask` is the third bit `h` of
/// element `i` of run `r`. Scale `g` of 6 bits has its low four in a nibble of bytes 0–7 of
/// `scales`, low nibbles first, and its high two in bits `2·(g / 4)` of byte `8 + g % 4`.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 108);
    let (hmask, rest) = block[..108].split_at(32);
    let (qs, scales) = rest.split_at(64);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (start, shift) = two_bits(group);
        let (run, third, qs) = (group / 2, &hmask[group % 2 * 16..][..16], &qs[start..start + 16]);
        let codes: [u8; 16] = from_fn(|i| qs[i] >> shift & 3 | (third[i] >> run & 1) << 2);
        for (out, q) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(q as i8 - 4);
        }
    }
}

/// The elements of a super-block of Q4_K. Byte `i` of a quarter of `qs` holds element `i` of one
/// run in its low nibble, and element `i` of the next run in its high nibble.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let groups = groups(&block[..16]);
    let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0);
    for ((out, qs), groups) in pairs.zip(groups.as_chunks().0) {
        let [(low_scale, low_minimum), (high_scale, high_minimum)] = *groups;
        let (low, high) = out.split_at_mut(32);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
            *low = low_scale * f32::from(q & 15) - low_minimum;
            *high = high_scale * f32::from(q >> 4) - high_minimum;
        }
    }
}

/// The elements of a super-block of Q5_K: Q4_K with bit `r` of byte `i` of `qh` as the fifth bit of
/// element `i` of run `r`.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let groups = groups(&block[..16]);
    let (qh, qs) = block[16..].split_at(32);
    let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0);
    for (pair, ((out, qs), groups)) in pairs.zip(groups.as_chunks().0).enumerate() {
        let [(low_scale, low_minimum), (high_scale, high_minimum)] = *groups;
        let (low, high) = out.split_at_mut(32);
        for (((low, high), &q), &h) in low.iter_mut().zip(high).zip(qs).zip(qh) {
            let fifth = h >> (2 * pair);
            *low = low_scale * f32::from(q & 15 | (fifth & 1) << 4) - low_minimum;
            *high = high_scale * f32::from(q >> 4 | (fifth >> 1 & 1) << 4) - high_minimum;
        }
    }
}

/// The elements of a super-block of Q6_K. A half of `ql` holds runs 0 and 1 of its half in the low
/// nibbles, and runs 2 and 3 in the high nibbles. `qh` holds bits 4 and 5 of each element.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    let (ql, rest) = block[..208].split_at(128);
    let (qh, scales) = rest.split_at(64);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        let (half, in_half) = (group / 8, group % 8);
        let (low, low_shift) = (&ql[half * 64 + in_half % 4 * 16..][..16], in_half / 4 * 4);
        let (start, shift) = two_bits(group);
        let high = &qh[start..start + 16];
        let codes: [u8; 16] = from_fn(|i| low[i] >> low_shift & 15 | (high[i] >> shift & 3) << 4);
        for (out, q) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// The place of a group of 16 2-bit codes: the first of its 16 bytes, and the shift within them.
fn two_bits(group: usize) -> (usize, usize) {
    (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2)
}

/// The scale d·sc and the minimum dmin·m of each group of Q4_K and Q5_K, from `d`, `dmin` and the
/// 12 bytes of scales. Groups 0–3 have their 6-bit scale in bytes 0–3, and their minimum in bytes
/// 4–7. Groups 4–7 have the low four bits of both in bytes 8–11, the scale's in the low nibble, and
/// the high two bits in the high two bits of bytes 0–3 and 4–7.
fn groups(start: &[u8]) -> [(f32, f32); 8] {
    let (d, dmin) = (f16_at(start, 0), f16_at(start, 2));
    let scales = &start[4..16];
    from_fn(|group| {
        let i = group % 4;
        let (scale, minimum) = if group < 4 {
            (scales[i] & 63, scales[4 + i] & 63)
        } else {
            (scales[8 + i] & 15 | scales[i] >> 6 << 4, scales[8 + i] >> 4 | scales[4 + i] >> 6 << 4)
        };
        (d * f32::from(scale), dmin * f32::from(minimum))
    })
}
