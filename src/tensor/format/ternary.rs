//! ggml's ternary formats: super-blocks of 256 digits 0, 1 and 2 with an f16 scale `d`.
//!
//! | format | bytes in order | value |
//! | --- | --- | --- |
//! | TQ1_0 | `qs` 48, `qh` 4, `d` 2 | d·(digit − 1) |
//! | TQ2_0 | `qs` 64, `d` 2 | d·(q − 1) |

use super::f16_at;

/// The elements of a super-block of TQ1_0. A byte holds five digits as a fraction of 243 scaled to
/// 256: the byte times 3ⁿ, modulo 256, has digit `n` as its first digit. The first digits of 32
/// bytes come first, then their second ones; then those of 16 bytes, and four digits of 4 bytes.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(block, 52);
    let (first, rest) = out.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    for (qs, out) in [(&block[..32], first), (&block[32..48], second), (&block[48..52], third)] {
        let mut power = 1u8;
        for out in out.chunks_exact_mut(qs.len()) {
            for (out, &q) in out.iter_mut().zip(qs) {
                let digit = (u16::from(q.wrapping_mul(power)) * 3) >> 8;
                *out = d * f32::from(digit as i8 - 1);
            }
            power = power.wrapping_mul(3);
        }
    }
}

/// The elements of a super-block of TQ2_0: 2-bit codes in the order of the K-quants.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 64);
    let halves = out.as_chunks_mut::<128>().0.iter_mut().zip(block[..64].as_chunks::<32>().0);
    for (out, qs) in halves {
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, &q) in out.iter_mut().zip(qs) {
                *out = d * f32::from((q >> (2 * run) & 3) as i8 - 1);
            }
        }
    }
}
