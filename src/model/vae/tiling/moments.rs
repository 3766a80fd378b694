//! The moments of a picture's groups, from those of its bands.

use crate::tensor::HostTensor;

/// Mean and variance of each group over all values so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Moments {
    /// Values of a group.
    count: f64,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    mean: f64,
    /// The sum of squares around the mean.
    squares: f64,
}

impl Moments {
    /// Adds a band with `count` values in a group. `band` F32 `[1, groups, 2]` has the mean and the
    /// variance of each (Chan, Golub, LeVeque 1979).
    pub(super) fn add(&mut self, count: usize, band: &HostTensor) {
        let band = band.to_f32();
        let more = count as f64;
        let all = self.count + more;
        self.groups.resize(band.len() / 2, Group::default());
        for (group, moments) in self.groups.iter_mut().zip(band.chunks_exact(2)) {
            let [mean, variance] = [moments[0], moments[1]].map(f64::from);
            let away = mean - group.mean;
            group.mean += away * (more / all);
            group.squares += variance * more + away * away * (self.count * (more / all));
        }
        self.count = all;
    }

    /// F32 `[1, groups, 2]`: mean and variance of each group.
    pub(super) fn tensor(&self) -> HostTensor {
        let pair = |group: &Group| [group.mean as f32, (group.squares / self.count) as f32];
        let values: Vec<f32> = self.groups.iter().flat_map(pair).collect();
        HostTensor::from_f32(&[1, self.groups.len(), 2], &values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> [f32; 2] {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        [mean as f32, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count) as f32]
    }

    #[test]
    fn bands_add_up_to_the_picture() {
        let value = |i: usize| 1e3 + (i * 7919 % 1009) as f64;
        let groups: [Vec<f64>; 2] = [(0..600).map(value).collect(), (0..600).map(|i| -3.0 * value(i + 5)).collect()];
        let mut all = Moments::default();
        for band in [0..1, 1..2, 2..500, 500..600] {
            let band_moments: Vec<f32> = groups.iter().flat_map(|group| moments(&group[band.clone()])).collect();
            all.add(band.len(), &HostTensor::from_f32(&[1, 2, 2], &band_moments));
        }
        let found = all.tensor();
        assert_eq!(found.shape(), [1, 2, 2]);
        for (found, expected) in found.to_f32().iter().zip(groups.iter().flat_map(|group| moments(group))) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn one_band_is_the_picture() {
        let mut all = Moments::default();
        let band = HostTensor::from_f32(&[1, 2, 2], &[0.1, 0.0, -7.0, 1e12]);
        all.add(3, &band);
        assert_eq!(all.tensor().to_f32(), band.to_f32());
    }
}
