//! Quantiles of a beta distribution with two equal parameters.

/// The `x` with `P(X ≤ x) = q` for `X` of the beta distribution with both parameters `a`, which
/// lies in (0, 1]; `q` lies in 0..=1.
pub(super) fn quantile(q: f64, a: f64) -> f64 {
    // The distribution is symmetric about 1/2.
    if q > 0.5 { 1.0 - lower_quantile(1.0 - q, a) } else { lower_quantile(q, a) }
}

/// As [`quantile`], for `q` up to 1/2.
fn lower_quantile(q: f64, a: f64) -> f64 {
    if q <= 0.0 {
        return 0.0;
    }
    let area = 2.0 * q * incomplete(0.5, a);
    // The series' first term alone is too small, so its inverse is too large; from there Newton's
    // iterates fall below the quantile and then rise to it, because the distribution function is
    // concave up to 1/2.
    let mut x = (area * a).powf(1.0 / a).min(0.5);
    for _ in 0..64 {
        let next = x - (incomplete(x, a) - area) * (x * (1.0 - x)).powf(1.0 - a);
        let change = (next - x).abs();
        x = next;
        if change <= f64::EPSILON * x {
            break;
        }
    }
    x
}

/// The incomplete beta function `∫₀ˣ (t·(1 − t))^(a − 1) dt` for `x` up to 1/2, as the power series
/// `x^a·Σ (1 − a)ₙ·xⁿ / (n!·(a + n))` (DLMF 8.17.8).
fn incomplete(x: f64, a: f64) -> f64 {
    let mut power = 1.0;
    let mut sum = 0.0;
    let mut n = 0.0;
    // Terms halve at least, as x is at most 1/2 and (1 − a + n)/(n + 1) at most 1.
    while power > f64::EPSILON / 16.0 {
        sum += power / (a + n);
        power *= x * (n + 1.0 - a) / (n + 1.0);
        n += 1.0;
    }
    x.powf(a) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_scipy() {
        // scipy 1.17.1: scipy.stats.beta.ppf(q, 0.6, 0.6).
        let expected = [
            (0.0, 0.0),
            (1e-9, 1.85588246249141e-15),
            (0.001, 1.855873851745199e-05),
            (0.1, 0.03958440558878085),
            (0.25, 0.17568037865269498),
            (0.3333333333333333, 0.2754132907776234),
            (0.5, 0.5000000000000001),
            (0.625, 0.6706185042786161),
            (0.9, 0.9604155944112192),
            (0.999, 0.9999814412614826),
            (1.0, 1.0),
        ];
        for (q, x) in expected {
            let found = quantile(q, 0.6);
            assert!((found - x).abs() <= 1e-14 * x, "{q}: {found} is not {x}");
        }
    }

    #[test]
    fn uniform_quantiles_are_the_levels_themselves() {
        for i in 0..=100 {
            let q = f64::from(i) / 100.0;
            assert!((quantile(q, 1.0) - q).abs() < 1e-15, "{q}");
        }
    }
}
