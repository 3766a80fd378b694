//! Deterministic numbers: a hash of names, and sequences that look random. Neither is
//! cryptographic.

/// FNV-1a.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Number `i`, counted from 1, of the splitmix64 sequence of `seed`.
pub(crate) fn splitmix64(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` values between −1 and 1, uniformly distributed: the upper bits of the splitmix64
/// sequence of `seed`.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    (1..=count as u64).map(|i| (splitmix64(seed, i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// `‖out − reference‖ / ‖reference‖` in f64. It is infinite for values that are not numbers and for
/// lengths that differ; for a reference of zeros it is the length of `out`.
pub fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    if out.len() != reference.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = out.iter().zip(reference).map(|(&o, &r)| square(f64::from(o) - f64::from(r))).sum();
    let length: f64 = reference.iter().map(|&r| square(f64::from(r))).sum();
    let error = if length > 0.0 { (difference / length).sqrt() } else { difference.sqrt() };
    if error.is_nan() { f64::INFINITY } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_the_published_ones() {
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(
            (1..=3).map(|i| splitmix64(1_234_567, i)).collect::<Vec<_>>(),
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn noise_is_uniform() {
        let values = noise(7, 100_000);
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01 && (square - 1.0 / 3.0).abs() < 0.01, "{mean} {square}");
    }

    #[test]
    fn nan_is_infinitely_wrong() {
        assert_eq!(relative_error(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(relative_error(&[3.0, 0.0], &[0.0, 4.0]), 1.25);
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[f32::NAN]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[0.5], &[0.0]), 0.5);
    }
}
