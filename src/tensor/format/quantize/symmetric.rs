//! Q6_K: x ≈ s·q in groups of 16, with codes q from −32 to 31.
//!
//! The weights are w = x². A candidate is an inverse scale. It gives each value a code q, and the
//! codes give the s of the least weighted squared error, with u = −x / x₀ in units of the value x₀
//! of the largest magnitude: s = C / B and the gain s·C, where B = Σ w·q² and C = Σ w·u·q. The
//! candidate with the largest gain wins. The sign maps x₀ to a negative code: those reach −32, the
//! positive ones only 31.
//!
//! The s of the largest magnitude sets the f16 factor `d` for signed bytes from −128 on. The codes
//! are computed anew from the scales that are stored.
//!
//! Source: `make_qx_quants` and `quantize_row_q6_K_ref` of ggml's `ggml-quants.c` for the weights,
//! the search and the two levels of scales.

use super::lanes::{CANDIDATES, Lanes, best, rounded};
use super::scale;
use pulp::{Arch, Simd, WithSimd};

/// Elements of a group.
const GROUP: usize = 16;
/// The least and the largest code.
const CODES: [f32; 2] = [-32.0, 31.0];
/// The first inverse scale of u, and the step to the next. Less than 32 leaves codes unused, more
/// cuts the largest value off.
const INVERSES: [f32; 2] = [30.0, 0.2];
/// The least and the largest scale of a group, in units of the factor.
const SCALES: [f32; 2] = [-128.0, 127.0];

/// Quantises super-blocks of Q6_K.
pub(super) fn q6_k(arch: Arch, values: &[f32], out: &mut [u8]) -> Option<()> {
    arch.dispatch(SuperBlocks { values, out })
}

struct SuperBlocks<'a> {
    values: &'a [f32],
    out: &'a mut [u8],
}

impl WithSimd for SuperBlocks<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<()> {
        let inverses = std::array::from_fn(|i| INVERSES[0] + INVERSES[1] * i as f32);
        for (values, out) in self.values.as_chunks::<256>().0.iter().zip(self.out.as_chunks_mut::<210>().0) {
            let groups = values.as_chunks::<GROUP>().0;
            let mut scales = [0.0; 16];
            for (scale, values) in scales.iter_mut().zip(groups) {
                *scale = search(Lanes(simd), values, &inverses);
            }
            let d = scale(largest(&scales) / SCALES[0])?;
            out[208..].copy_from_slice(&d.to_le_bytes());
            let d = d.to_f32();
            let mut codes = [0; 256];
            let groups = groups.iter().zip(codes.as_chunks_mut::<GROUP>().0).zip(scales);
            for (((values, codes), scale), out) in groups.zip(&mut out[192..208]) {
                let stored = if d == 0.0 { 0.0 } else { rounded((scale / d).clamp(SCALES[0], SCALES[1])) };
                *out = stored as i8 as u8;
                encode(values, d * stored, codes);
            }
            pack(&codes, out);
        }
        Some(())
    }
}

/// The best scale of a group.
#[inline(always)]
fn search<S: Simd>(v: Lanes<S>, values: &[f32; GROUP], inverses: &[f32; CANDIDATES]) -> f32 {
    let largest = largest(values);
    if largest == 0.0 {
        return 0.0;
    }
    let u = values.map(|value| -value / largest);
    let w = u.map(|u| u * u);
    let wu: [f32; GROUP] = std::array::from_fn(|i| w[i] * u[i]);

    let [mut gains, mut scales] = [[0.0; CANDIDATES]; 2];
    let out = Lanes::<S>::vectors_mut(&mut gains).iter_mut().zip(Lanes::<S>::vectors_mut(&mut scales));
    for ((gain, scale), &inverse) in out.zip(Lanes::<S>::vectors(inverses)) {
        let [mut b, mut c] = [v.of(0.0); 2];
        for i in 0..GROUP {
            let q = v.round(v.mul(v.of(u[i]), inverse));
            let q = v.max(v.min(q, v.of(CODES[1])), v.of(CODES[0]));
            b = v.add(b, v.mul(v.of(w[i]), v.mul(q, q)));
            c = v.add(c, v.mul(v.of(wu[i]), q));
        }
        *scale = v.div(c, b);
        *gain = v.mul(*scale, c);
    }
    -scales[best(&gains)] * largest
}

/// The first value of the largest magnitude.
#[inline(always)]
fn largest(values: &[f32; GROUP]) -> f32 {
    values.iter().fold(0f32, |largest, &value| if value.abs() > largest.abs() { value } else { largest })
}

/// The nearest code of each value, from 0 up.
#[inline(always)]
fn encode(values: &[f32; GROUP], scale: f32, codes: &mut [u8; GROUP]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (rounded((value * inverse).clamp(CODES[0], CODES[1])) - CODES[0]) as u8;
    }
}

/// Writes the codes in the layout that `k_quants::q6_k` reads.
fn pack(codes: &[u8; 256], out: &mut [u8; 210]) {
    let (low, rest) = out.split_at_mut(128);
    let halves = codes.as_chunks::<128>().0.iter().zip(low.as_chunks_mut::<64>().0).zip(rest.as_chunks_mut::<32>().0);
    for ((codes, low), high) in halves {
        let (first, second) = codes.split_at(64);
        for ((low, first), second) in low.iter_mut().zip(first).zip(second) {
            *low = first & 15 | second << 4;
        }
        for (i, high) in high.iter_mut().enumerate() {
            *high = codes[i] >> 4 | codes[32 + i] >> 4 << 2 | codes[64 + i] >> 4 << 4 | codes[96 + i] >> 4 << 6;
        }
    }
}
