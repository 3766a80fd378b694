//! Q4_K and Q5_K: x ≈ s·q − m in groups of 32, with m ≥ 0.
//!
//! With weights w = rms + |x|, large values count more, as they do in a matrix product. A candidate
//! is an inverse scale and a shift, which give each value a code q. The codes give the s and m of
//! the least weighted squared error in closed form, and the candidate with the least error wins.
//! With u = (x − min) / range, all in units of the range, and b = −min − m:
//!
//! | sum | over a group |
//! | --- | --- |
//! | W, U | Σ w, Σ w·u |
//! | A, B, C | Σ w·q, Σ w·q², Σ w·u·q |
//!
//! b = (B·U − A·C) / (W·B − A²), s = (C − b·A) / B, and the error is Σ w·u² less the gain
//! s·(2C − s·B − 2b·A) + b·(2U − b·W). Where that m is negative, it is 0; where all codes are
//! equal, b is 0.
//!
//! The largest s and m of a super-block set the f16 factors `d` and `dmin`, each for 6-bit integers
//! up to 63. The codes are computed anew from the scales that are stored.
//!
//! Source: `make_qkx2_quants` and `quantize_row_q4_K_ref` of ggml's `ggml-quants.c` for the
//! weights, the closed form and the two levels of scales. ggml tries 21 inverse scales, each with
//! the best minimum so far; the shifts here do the same for all candidates at once.

use super::lanes::{CANDIDATES, Lanes, best, rounded};
use super::scale;
use pulp::{Arch, Simd, WithSimd};

/// Elements of a group.
const GROUP: usize = 32;
/// The largest share of W·B that W·B − A² has by rounding alone.
const EQUAL: f32 = 1e-6;
/// The largest scale and minimum of a group, in units of the factors.
const MOST: f32 = 63.0;
/// The first inverse scale above that of the whole range, and the step to the next. Less than the
/// largest code leaves codes unused, more cuts the largest value off.
const INVERSES: [f32; 2] = [-1.6, 0.35];
/// The shifts that are tried with each of them, in codes. A positive one cuts the least value off.
const SHIFTS: [f32; 2] = [-0.1, 0.35];

/// Quantises super-blocks of Q4_K.
pub(super) fn q4_k(arch: Arch, values: &[f32], out: &mut [u8]) -> Option<()> {
    arch.dispatch(SuperBlocks { values, out, top: 15.0, pack: pack_q4_k })
}

/// Quantises super-blocks of Q5_K.
pub(super) fn q5_k(arch: Arch, values: &[f32], out: &mut [u8]) -> Option<()> {
    arch.dispatch(SuperBlocks { values, out, top: 31.0, pack: pack_q5_k })
}

/// Super-blocks of `BYTES` bytes, 16 of them factors and scales, with codes up to `top`.
struct SuperBlocks<'a, const BYTES: usize> {
    values: &'a [f32],
    out: &'a mut [u8],
    top: f32,
    /// Writes the codes to the end of a super-block.
    pack: fn(&[u8; 256], &mut [u8; BYTES]),
}

impl<const BYTES: usize> WithSimd for SuperBlocks<'_, BYTES> {
    type Output = Option<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<()> {
        let candidates = Candidates::new(self.top);
        for (values, out) in self.values.as_chunks::<256>().0.iter().zip(self.out.as_chunks_mut::<BYTES>().0) {
            let groups = values.as_chunks::<GROUP>().0;
            let mut fits = [Fit::default(); 8];
            for (fit, values) in fits.iter_mut().zip(groups) {
                *fit = search(Lanes(simd), values, self.top, &candidates);
            }
            let stored = store(&fits, out.first_chunk_mut()?)?;
            let mut codes = [0; 256];
            for ((codes, values), fit) in codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups).zip(stored) {
                encode(values, fit, self.top, codes);
            }
            (self.pack)(&codes, out);
        }
        Some(())
    }
}

/// The values s·q − m of a group.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    minimum: f32,
}

/// The candidates: the codes ⌊u·inverse − shift⌉, from 0 to `top`.
struct Candidates {
    inverses: [f32; CANDIDATES],
    shifts: [f32; CANDIDATES],
}

impl Candidates {
    fn new(top: f32) -> Self {
        let inverses = std::array::from_fn(|i| top + INVERSES[0] + INVERSES[1] * (i / SHIFTS.len()) as f32);
        Self { inverses, shifts: std::array::from_fn(|i| SHIFTS[i % SHIFTS.len()]) }
    }
}

/// The best fit of a group.
#[inline(always)]
fn search<S: Simd>(v: Lanes<S>, values: &[f32; GROUP], top: f32, candidates: &Candidates) -> Fit {
    let (low, high) = extremes(values);
    let range = high - low;
    if range <= 0.0 {
        return Fit { scale: 0.0, minimum: -low };
    }
    if range == f32::INFINITY {
        // Too large to store.
        return Fit { scale: range, minimum: 0.0 };
    }
    let rms = (sum(&values.map(|value| value / range * (value / range))) / GROUP as f32).sqrt();
    let u = values.map(|value| (value - low) / range);
    let w = values.map(|value| rms + (value / range).abs());
    let wu: [f32; GROUP] = std::array::from_fn(|i| w[i] * u[i]);
    let (weight, first, zero) = (v.of(sum(&w)), v.of(sum(&wu)), v.of(-low / range));

    let [mut gains, mut scales, mut offsets] = [[0.0; CANDIDATES]; 3];
    let out = Lanes::<S>::vectors_mut(&mut gains).iter_mut().zip(Lanes::<S>::vectors_mut(&mut scales));
    let out = out.zip(Lanes::<S>::vectors_mut(&mut offsets));
    let candidates = Lanes::<S>::vectors(&candidates.inverses).iter().zip(Lanes::<S>::vectors(&candidates.shifts));
    for (((gain, scale), offset), (&inverse, &shift)) in out.zip(candidates) {
        let [mut a, mut b, mut c] = [v.of(0.0); 3];
        for i in 0..GROUP {
            let q = v.round(v.sub(v.mul(v.of(u[i]), inverse), shift));
            let q = v.max(v.min(q, v.of(top)), v.of(0.0));
            let wq = v.mul(v.of(w[i]), q);
            a = v.add(a, wq);
            b = v.add(b, v.mul(wq, q));
            c = v.add(c, v.mul(v.of(wu[i]), q));
        }
        let product = v.mul(weight, b);
        let determinant = v.sub(product, v.mul(a, a));
        let fitted = v.div(v.sub(v.mul(b, first), v.mul(a, c)), determinant);
        let fitted = v.where_above(determinant, v.mul(product, v.of(EQUAL)), fitted, v.of(0.0));
        let o = v.min(fitted, zero);
        let s = v.div(v.sub(c, v.mul(o, a)), b);
        let two = v.of(2.0);
        let of_scale = v.sub(v.mul(two, v.sub(c, v.mul(o, a))), v.mul(s, b));
        let of_offset = v.sub(v.mul(two, first), v.mul(o, weight));
        *gain = v.add(v.mul(s, of_scale), v.mul(o, of_offset));
        *scale = s;
        *offset = o;
    }
    let best = best(&gains);
    Fit { scale: (scales[best] * range).max(0.0), minimum: (-low - offsets[best] * range).max(0.0) }
}

/// The least value, or 0 if that is less, and the largest one.
#[inline(always)]
fn extremes(values: &[f32; GROUP]) -> (f32, f32) {
    let [mut low, mut high] = [[0f32; 8], [f32::MIN; 8]];
    for values in values.as_chunks::<8>().0 {
        for i in 0..8 {
            low[i] = if values[i] < low[i] { values[i] } else { low[i] };
            high[i] = if values[i] > high[i] { values[i] } else { high[i] };
        }
    }
    (low.into_iter().fold(0.0, f32::min), high.into_iter().fold(f32::MIN, f32::max))
}

/// The sum, in an order that vectors of eight have.
#[inline(always)]
fn sum(values: &[f32; GROUP]) -> f32 {
    let mut sums = [0f32; 8];
    for values in values.as_chunks::<8>().0 {
        for i in 0..8 {
            sums[i] += values[i];
        }
    }
    sums.iter().sum()
}

/// Writes the factors and the 6-bit scales and minimums of eight groups, in the layout that
/// `k_quants::groups` reads. Returns the fits that are stored; `None` if a factor is too large.
#[inline(always)]
fn store(fits: &[Fit; 8], out: &mut [u8; 16]) -> Option<[Fit; 8]> {
    let factor = |of: fn(&Fit) -> f32| scale(fits.iter().map(of).fold(0.0, f32::max) / MOST);
    let (d, dmin) = (factor(|fit| fit.scale)?, factor(|fit| fit.minimum)?);
    let (head, packed) = out.split_at_mut(4);
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..].copy_from_slice(&dmin.to_le_bytes());
    packed.fill(0);
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let mut stored = [Fit::default(); 8];
    for (group, (stored, fit)) in stored.iter_mut().zip(fits).enumerate() {
        let code = |value: f32, unit: f32| if unit > 0.0 { rounded((value / unit).min(MOST)) as u8 } else { 0 };
        let (scale, minimum) = (code(fit.scale, d), code(fit.minimum, dmin));
        let i = group % 4;
        if group < 4 {
            packed[i] |= scale;
            packed[4 + i] |= minimum;
        } else {
            packed[8 + i] = scale & 15 | minimum << 4;
            packed[i] |= scale >> 4 << 6;
            packed[4 + i] |= minimum >> 4 << 6;
        }
        *stored = Fit { scale: d * f32::from(scale), minimum: dmin * f32::from(minimum) };
    }
    Some(stored)
}

/// The nearest code of each value.
#[inline(always)]
fn encode(values: &[f32; GROUP], fit: Fit, top: f32, codes: &mut [u8; GROUP]) {
    let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = rounded(((value + fit.minimum) * inverse).clamp(0.0, top)) as u8;
    }
}

fn pack_q4_k(codes: &[u8; 256], out: &mut [u8; 144]) {
    for (codes, out) in codes.as_chunks::<64>().0.iter().zip(out[16..].as_chunks_mut::<32>().0) {
        let (low, high) = codes.split_at(32);
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = low | high << 4;
        }
    }
}

fn pack_q5_k(codes: &[u8; 256], out: &mut [u8; 176]) {
    let (fifth, nibbles) = out[16..].split_at_mut(32);
    fifth.fill(0);
    let pairs = codes.as_chunks::<64>().0.iter().zip(nibbles.as_chunks_mut::<32>().0);
    for (pair, (codes, nibbles)) in pairs.enumerate() {
        let (low, high) = codes.split_at(32);
        for (((nibble, fifth), low), high) in nibbles.iter_mut().zip(fifth.iter_mut()).zip(low).zip(high) {
            *nibble = low & 15 | high << 4;
            *fifth |= (low >> 4 | high >> 4 << 1) << (2 * pair);
        }
    }
}
