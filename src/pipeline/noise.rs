//! Seeded noise that other tools reproduce: the numbers of `torch.randn` on a CPU, bit for bit.
//!
//! A picture is a function of its prompt, its settings and its noise, so a seed is worth something
//! only when it gives the same noise everywhere. PyTorch's CPU generator is the common ground:
//! MT19937 (Matsumoto and Nishimura, 1998) behind a Box–Muller transform in one of two layouts,
//! which the number of values decides.
//!
//! From 16 values on, PyTorch computes in f32 with the polynomials of Cephes (`logf`, `sinf`,
//! `cosf`), and its Linux builds for x86-64 with AVX2 fuse multiplications into additions. That
//! arithmetic is repeated here operation by operation. PyTorch on another processor calls that
//! system's own functions, and its values differ from these in their last bits: by at most 2.3e-6
//! in a million values.

/// `count` normal values, those of `torch.randn(count, generator=generator)` in float32 with
/// `generator = torch.Generator("cpu").manual_seed(seed)`. A tensor of several axes holds the same
/// values in row-major order.
///
/// PyTorch reads the low 32 bits of a seed only, so seeds that agree in them give the same noise.
/// Its negative seeds are the `u64` of the same bits.
pub fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    if count < GROUP {
        return few(&mut generator, count);
    }
    let mut values: Vec<f32> = (0..count).map(|_| generator.uniform_f32()).collect();
    let (groups, rest) = values.as_chunks_mut::<GROUP>();
    let ragged = !rest.is_empty();
    transform_all(groups);
    if ragged {
        // PyTorch does not transform the rest: it draws the last 16 values anew, over the end of
        // the group before.
        let mut last: [f32; GROUP] = std::array::from_fn(|_| generator.uniform_f32());
        box_muller(&mut last);
        values[count - GROUP..].copy_from_slice(&last);
    }
    values
}

/// Values that are transformed together: 8 radii, then 8 angles.
const GROUP: usize = 16;

/// Fewer than 16 values: the textbook transform in f64, a cosine and then its sine, rounded at the
/// end.
fn few(generator: &mut Mt19937, count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let angle = 2.0 * std::f64::consts::PI * generator.uniform_f64();
        let radius = (-2.0 * (-generator.uniform_f64()).ln_1p()).sqrt();
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

/// [`transform`] on all threads: the text encoder may be done before one thread is.
#[cfg(not(target_family = "wasm"))]
fn transform_all(groups: &mut [[f32; GROUP]]) {
    use rayon::prelude::*;
    /// Groups that are worth a thread: they take about 20 µs.
    const TASK: usize = 128;
    groups.par_chunks_mut(TASK).for_each(transform);
}

#[cfg(target_family = "wasm")]
fn transform_all(groups: &mut [[f32; GROUP]]) {
    transform(groups);
}

/// [`box_muller`] of each group, with the processor's own fused operations where it has them: their
/// results are the same, and a call of the system's function for each takes several times as long.
fn transform(groups: &mut [[f32; GROUP]]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn fused(groups: &mut [[f32; GROUP]]) {
            for group in groups {
                box_muller(group);
            }
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both.
            return unsafe { fused(groups) };
        }
    }
    groups.iter_mut().for_each(box_muller);
}

/// Sixteen uniform values of `[0, 1)` to sixteen normal ones, in place: `radius(u[i])` times the
/// cosine of `2π·u[i + 8]` goes to `i`, times its sine to `i + 8`.
#[inline(always)]
fn box_muller(values: &mut [f32; GROUP]) {
    let (radii, angles) = values.split_at_mut(GROUP / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *second);
        // The mean that PyTorch adds, 0, turns −0 into 0.
        *first = radius * cos + 0.0;
        *second = radius * sin + 0.0;
    }
}

/// `p[0]·xⁿ + … + p[n]`, each step fused.
#[inline(always)]
fn horner(x: f32, p: &[f32]) -> f32 {
    p.iter().copied().reduce(|sum, next| sum.mul_add(x, next)).unwrap_or(0.0)
}

/// The natural logarithm as Cephes' `logf` takes it, for normal positive numbers: with `x = 2ᵉ·(1 +
/// r)`, `√½ ≤ 1 + r < √2`, it is `r − r²/2 + r³·P(r) + e·ln 2`, and ln 2 comes in two parts.
#[inline(always)]
#[allow(clippy::excessive_precision)] // as Cephes prints them
fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    const LN_2: [f32; 2] = [0.693359375, -2.12194440e-4];
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut mantissa = f32::from_bits(bits & 0x007f_ffff | 0.5f32.to_bits());
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        mantissa += mantissa;
    }
    let e = exponent as f32;
    let r = mantissa - 1.0;
    let square = r * r;
    let tail = (horner(r, &P) * r).mul_add(square, e * LN_2[1]);
    let tail = (-0.5f32).mul_add(square, tail);
    e.mul_add(LN_2[0], r + tail)
}

/// Sine and cosine of `x ≥ 0` as Cephes' `sinf` and `cosf` take them: the octants to either side of
/// a multiple of π/2 share two polynomials of the distance to it, and π/4 comes in three parts.
#[inline(always)]
#[allow(clippy::excessive_precision)] // as Cephes prints them
fn sin_cos(x: f32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];
    const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];
    const QUARTER_PI: [f32; 3] = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8];
    const OCTANTS: f32 = 1.27323954473516;
    let octant = ((x * OCTANTS) as i32 + 1) & !1;
    let r = QUARTER_PI.iter().fold(x, |r, part| (-octant as f32).mul_add(*part, r));
    let square = r * r;
    let sin = (horner(square, &SIN) * square).mul_add(r, r);
    let cos = (horner(square, &COS) * square).mul_add(square, -0.5 * square) + 1.0;
    match octant & 6 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// The Mersenne Twister with 19937 bits of state.
struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: Self::N }
    }

    fn draw(&mut self) -> u32 {
        if self.next == Self::N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A value of `[0, 1)` from the low 24 bits of a draw.
    fn uniform_f32(&mut self) -> f32 {
        (self.draw() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// A value of `[0, 1)` from the low 53 bits of two draws, with the first as the upper half.
    fn uniform_f64(&mut self) -> f64 {
        let bits = u64::from(self.draw()) << 32 | u64::from(self.draw());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A number that any changed bit and any two swapped values would change. In Python:
    /// `digest = lambda x: int((x.view(torch.int32).long() * i(x)).sum() % 2**32)` with
    /// `i = lambda x: torch.arange(1, len(x) + 1)`.
    pub(crate) fn digest(values: &[f32]) -> u32 {
        values.iter().zip(1u32..).fold(0, |sum, (value, i)| sum.wrapping_add(value.to_bits().wrapping_mul(i)))
    }

    /// `torch.randn(3, generator=torch.Generator("cpu").manual_seed(0)).tolist()`, and 17 values
    /// with seed 42.
    #[test]
    fn values_are_torchs() {
        assert_eq!(normal(0, 3), [1.540_996_1, -0.293_428_9, -2.178_789_4]);
        let seventeen = [
            1.926_915_3,
            -0.159_597_47,
            -0.497_397_54,
            0.439_589_26,
            -0.758_131_15,
            1.078_317_6,
            0.800_800_56,
            1.680_620_6,
            0.355_859_9,
            1.296_422_8,
            0.610_466_5,
            1.334_737_8,
            -0.231_624_32,
            0.041_759_49,
            -0.251_575_3,
            0.859_858_5,
            -0.309_726_77,
        ];
        assert_eq!(normal(42, 17), seventeen);
        assert!(normal(7, 0).is_empty());
    }

    /// `print(digest(torch.randn(n, generator=torch.Generator("cpu").manual_seed(s))))` on Linux,
    /// x86-64 with AVX2.
    #[test]
    fn every_bit_is_torchs() {
        let counts = [1, 2, 3, 15, 16, 17, 31, 32, 100, 1023, 16384];
        let zero = [
            0x3fc53f5c, 0xbcf1b7fc, 0xfd140bd7, 0x9fd37640, 0xf6c7fe6d, 0x4adebd18, 0xc32e24c1, 0x54d3a908, 0x1a681d97,
            0xd534e359, 0x06c7a35e,
        ];
        let forty_two = [
            0x3eac62ae, 0xbab42fe8, 0x7604749d, 0xa1954276, 0x1ab10a25, 0x16f0c329, 0x12768903, 0xa6085bc8, 0x95b5d8cd,
            0x6f2206f0, 0x17f676b8,
        ];
        let all_ones = [
            0x3f9c2132, 0xbd2e8a68, 0x7bb766c8, 0xf77c61fa, 0x9583e8bf, 0xac4091c4, 0x840bdb79, 0x545ac358, 0x3680adb7,
            0xe0d0bece, 0xd492e349,
        ];
        // PyTorch reads only the low 32 bits.
        let seeds = [
            (0, zero),
            (42, forty_two),
            (u64::from(u32::MAX), all_ones),
            (u64::MAX, all_ones),
            (1 << 32, zero),
            (1 << 63, zero),
        ];
        for (seed, digests) in seeds {
            for (count, expected) in counts.into_iter().zip(digests) {
                assert_eq!(digest(&normal(seed, count)), expected, "seed {seed}, {count} values");
            }
        }
    }

    #[test]
    fn the_transform_survives_the_ends_of_its_range() {
        // The largest uniform value gives the largest radius, √(2·24·ln 2); 0 gives none.
        let mut values = [0.0; GROUP];
        values[0] = 1.0 - 1.0 / (1u32 << 24) as f32;
        box_muller(&mut values);
        assert!((values[0] - 5.768).abs() < 1e-3);
        assert!(values[1..].iter().all(|value| value.to_bits() == 0));
    }
}
