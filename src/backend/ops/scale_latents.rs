//! `scale_latents`: the encoder's output as latents.

use super::{DeviceTensor, Result, Runtime, check};

/// The arguments of [`ScaleLatentsOp::scale_latents`].
#[derive(Debug)]
pub struct ScaleLatentsArgs<'a, T> {
    /// `[B, H, W, ≥ channels]`.
    pub x: &'a T,
    /// Channels of the latents.
    pub channels: usize,
    /// The autoencoder's scaling factor.
    pub scale: f32,
    /// The autoencoder's shift factor.
    pub shift: f32,
}

impl<T: DeviceTensor> ScaleLatentsArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[B, channels, H, W]`.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "scale_latents";
        let x @ [b, h, w, c] = check::floats(op, "x", self.x)?;
        let channels = self.channels;
        check::ensure(channels > 0 && channels <= c, op, || format!("{x:?} does not hold {channels} channels"))?;
        Ok([b, channels, h, w])
    }
}

/// The output of the autoencoder's encoder.
pub trait ScaleLatentsOp: Runtime {
    /// `out[b, c, y, x] = (x[b, y, x, c] − shift)·scale` for the first `channels` of the encoder's
    /// output (the mean of its Gaussian). `x` `[B, H, W, ≥ channels]`; returns F32 `[B, channels,
    /// H, W]`.
    fn scale_latents(&self, x: &Self::Tensor, channels: usize, scale: f32, shift: f32) -> Result<Self::Tensor> {
        let args = ScaleLatentsArgs { x, channels, scale, shift };
        let shape = args.check()?;
        self.run_scale_latents(args, shape)
    }

    /// Runs [`ScaleLatentsOp::scale_latents`] on checked arguments.
    fn run_scale_latents(&self, args: ScaleLatentsArgs<'_, Self::Tensor>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects};
    use super::*;

    #[test]
    fn the_encoder_must_give_the_channels() {
        let check = |channels| ScaleLatentsArgs { x: &f32s(&[2, 5, 7, 6]), channels, scale: 1.0, shift: 0.0 }.check();
        gives(check(3), [2, 3, 5, 7]);
        rejects(check(7), "scale_latents", &["7 channels", "[2, 5, 7, 6]"]);
        rejects(check(0), "scale_latents", &["0 channels"]);
    }
}
