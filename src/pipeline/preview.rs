//! Previews of a picture before it is decoded: latent2rgb, a linear map from the values of a latent
//! to a colour.
//!
//! An autoencoder's decoder is far from linear, but the colour of a pixel follows the latent there
//! almost linearly. The map is fitted once a model, by least squares over latents that the model's
//! own autoencoder decodes, and then costs a few multiplications a latent. It is applied to the
//! clean latents that the step predicts, `x₀ = x − σ·v` with the velocity `v = (x − x′)/(σ − σ′)`
//! between a step and the one before: the latents themselves are noise nearly to the end.

use super::{Pipeline, noise};
use crate::backend::{Backend, DeviceTensor};
use crate::error::Result;
use crate::model::vae::Vae;
use crate::tensor::HostTensor;

/// Pictures that are decoded for the fit, one after the other.
const PICTURES: usize = 4;
/// Latents along a side of such a picture.
const SIDE: usize = 16;
/// Latents along a side of a square of one value. The outermost ones do not count, because the
/// squares beside them change their colours.
const CELL: usize = 4;
/// The ridge, added to the diagonal so that the equations have a solution for any autoencoder.
const RIDGE: f64 = 1e-3;

/// A picture with one pixel for each latent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height` rows of `width` pixels, each red, green, blue, from the top left.
    pub pixels: Vec<u8>,
}

/// The map from the `C` values of a latent, and 1, to red, green and blue from 0 to 1.
#[derive(Debug)]
pub(super) struct Latent2Rgb {
    rows: Vec<[f64; 3]>,
}

impl Latent2Rgb {
    /// Fits the map to the pictures of `vae`, which has `channels` latent channels.
    pub(super) async fn fit<B: Backend>(b: &B, vae: &Vae<B>, channels: usize) -> Result<Self> {
        // Squares of one value each, because a colour depends on the neighbouring latents as well.
        let cells = SIDE / CELL;
        let values = noise::normal(0, PICTURES * channels * cells * cells);
        let mut equations = Equations::new(channels + 1);
        for values in values.chunks_exact(channels * cells * cells) {
            let latent = |c: usize, y: usize, x: usize| values[(c * cells + y / CELL) * cells + x / CELL];
            let latents: Vec<f32> =
                (0..channels * SIDE * SIDE).map(|i| latent(i / (SIDE * SIDE), i / SIDE % SIDE, i % SIDE)).collect();
            let latents = b.upload(&HostTensor::from_f32(&[1, channels, SIDE, SIDE], &latents))?;
            let decoded = vae.decode(b, &latents, 0..1)?;
            let width = decoded.shape()[2];
            let pixels = b.download(&decoded).await?.to_f32();

            let rim = width / SIDE;
            let side = width / cells - 2 * rim;
            for cell in 0..cells * cells {
                let y = cell / cells * (side + 2 * rim) + rim;
                let x = cell % cells * (side + 2 * rim) + rim;
                let mut colour = [0.0; 3];
                for (dy, dx) in (0..side * side).map(|i| (i / side, i % side)) {
                    let at = 3 * ((y + dy) * width + x + dx);
                    colour.iter_mut().zip(&pixels[at..]).for_each(|(sum, &value)| *sum += f64::from(value));
                }
                let latent = (0..channels).map(|c| f64::from(values[c * cells * cells + cell]));
                let colour = colour.map(|sum| sum / (255 * side * side) as f64);
                equations.add(&latent.chain([1.0]).collect::<Vec<_>>(), colour);
            }
        }
        Ok(Self { rows: equations.solve() })
    }

    /// The pictures of latents F32 `[B, C, h, w]`. The outermost pixels have the colours of their
    /// inner neighbours.
    pub(super) fn pictures(&self, latents: &[f32], [_, channels, height, width]: [usize; 4]) -> Vec<Preview> {
        let area = height * width;
        let pixel = |item: &[f32], i: usize| {
            let nearest = inner(i / width, height) * width + inner(i % width, width);
            let mut colour = self.rows[channels];
            for (c, row) in self.rows[..channels].iter().enumerate() {
                let value = f64::from(item[c * area + nearest]);
                colour.iter_mut().zip(row).for_each(|(sum, factor)| *sum += value * factor);
            }
            colour.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8)
        };
        let picture = |item: &[f32]| (0..area).flat_map(|i| pixel(item, i)).collect();
        latents.chunks_exact(channels * area).map(|item| Preview { width, height, pixels: picture(item) }).collect()
    }
}

/// The index of `0..n` nearest to `i` that is not at the edge. An encoder sees zeros past the edge
/// of a picture, so the outermost latents of a colour differ from those inside, and the linear map
/// would give them a tint.
fn inner(i: usize, n: usize) -> usize {
    if n < 3 { i } else { i.clamp(1, n - 2) }
}

impl<B: Backend> Pipeline<B> {
    /// The map of previews, fitted on the first call.
    pub(super) async fn latent2rgb(&self) -> Result<&Latent2Rgb> {
        if let Some(latent2rgb) = self.latent2rgb.get() {
            return Ok(latent2rgb);
        }
        let fitted = Latent2Rgb::fit(&self.backend, self.vae(), self.config.vae.latent_channels).await;
        let fitted = self.blamed(fitted, None).await?;
        Ok(self.latent2rgb.get_or_init(|| fitted))
    }
}

/// The clean latents that the step from `before` at `sigmas[0]` to `now` at `sigmas[1]` predicts.
pub(super) fn predicted(before: &[f32], now: &[f32], sigmas: [f32; 2]) -> Vec<f32> {
    let ahead = sigmas[1] / (sigmas[1] - sigmas[0]);
    now.iter().zip(before).map(|(&now, &before)| now - ahead * (now - before)).collect()
}

/// The normal equations of a least-squares problem with three right-hand sides.
struct Equations {
    /// `[A | b]`, rows of `n + 3`.
    rows: Vec<Vec<f64>>,
}

impl Equations {
    fn new(n: usize) -> Self {
        let mut rows = vec![vec![0.0; n + 3]; n];
        rows.iter_mut().enumerate().for_each(|(i, row)| row[i] = RIDGE);
        Self { rows }
    }

    fn add(&mut self, input: &[f64], output: [f64; 3]) {
        for (row, &factor) in self.rows.iter_mut().zip(input) {
            row.iter_mut().zip(input.iter().chain(&output)).for_each(|(sum, value)| *sum += factor * value);
        }
    }

    /// Gauss-Jordan elimination. The ridge makes the matrix positive definite, so that no pivot is
    /// 0.
    fn solve(mut self) -> Vec<[f64; 3]> {
        let n = self.rows.len();
        for pivot in 0..n {
            let row = self.rows[pivot].clone();
            for (i, other) in self.rows.iter_mut().enumerate() {
                let factor = if i == pivot { 1.0 - 1.0 / row[pivot] } else { other[pivot] / row[pivot] };
                other.iter_mut().zip(&row).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
        self.rows.iter().map(|row| [row[n], row[n + 1], row[n + 2]]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_give_the_map_back() {
        let truth = |x: f64, y: f64| [0.5 * x - y + 0.1, 2.0 * y, 0.25 - x];
        let mut equations = Equations::new(3);
        for i in 0..1000 {
            let x = f64::from(i % 10);
            let y = f64::from(i / 10 % 10);
            equations.add(&[x, y, 1.0], truth(x, y));
        }
        let solved = equations.solve();
        for (row, expected) in solved.iter().zip([[0.5, 0.0, -1.0], [-1.0, 2.0, 0.0], [0.1, 0.0, 0.25]]) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{solved:?}");
        }
    }

    #[test]
    fn the_rim_takes_its_neighbours_colours() {
        let latent2rgb = Latent2Rgb { rows: vec![[1.0; 3], [0.0; 3]] };
        let grey = |size: [usize; 2], latents: &[f32]| -> Vec<u8> {
            let pictures = latent2rgb.pictures(latents, [1, 1, size[0], size[1]]);
            pictures[0].pixels.iter().step_by(3).copied().collect()
        };
        let odd = 1.0;
        let a = 0.2;
        let b = 0.4;
        let latents = [odd, odd, odd, odd, odd, a, b, odd, odd, odd, odd, odd];
        assert_eq!(grey([3, 4], &latents), [51, 51, 102, 102, 51, 51, 102, 102, 51, 51, 102, 102]);
        assert_eq!(grey([2, 2], &[a, b, b, a]), [51, 102, 102, 51], "nothing is inside");
    }

    #[test]
    fn the_clean_latents_lie_on_the_line_through_two_steps() {
        let clean = 2.0;
        let noise = -1.0;
        let at = |sigma: f32| [sigma * noise + (1.0 - sigma) * clean];
        let predicted = predicted(&at(0.9), &at(0.75), [0.9, 0.75])[0];
        assert!((predicted - clean).abs() < 1e-5, "{predicted}");
        assert_eq!(super::predicted(&at(0.3), &at(0.0), [0.3, 0.0]), at(0.0));
    }
}
