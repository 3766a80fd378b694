//! `final_layer`: tokens to a velocity.

use super::{DeviceTensor, DeviceWeight, LinearOp, Modulation, Result, check};

/// The arguments of [`FinalLayerOp::final_layer`].
#[derive(Debug)]
pub struct FinalLayerArgs<'a, T, W> {
    /// `[B, T, D]`.
    pub x: &'a T,
    /// The scale of the layer norm.
    pub scale: Modulation<'a, T>,
    /// Added to the variance.
    pub eps: f32,
    /// The projection, `[p·p·C, D]`.
    pub w: &'a W,
    /// The side of a patch in latent pixels.
    pub patch: usize,
    /// `[H, W]` of the velocity.
    pub size: [usize; 2],
}

impl<T: DeviceTensor, W: DeviceWeight<2>> FinalLayerArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[B, C, H, W]`.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "final_layer";
        let x @ [b, t, d] = check::floats(op, "x", self.x)?;
        self.scale.check(op, x)?;
        let w = check::native(op, "w", self.w)?;
        let Self { patch, size: [height, width], .. } = *self;
        let whole = patch > 0
            && height > 0
            && width > 0
            && height.is_multiple_of(patch)
            && width.is_multiple_of(patch)
            && w[0].is_multiple_of(patch * patch)
            && (height / patch) * (width / patch) <= t;
        check::ensure(whole && w[1] == d, op, || {
            format!("{x:?} through a matrix {w:?} does not give {height}×{width} in patches of {patch}")
        })?;
        Ok([b, w[0] / (patch * patch), height, width])
    }
}

/// The last layer of the diffusion transformer.
pub trait FinalLayerOp: LinearOp {
    /// Tokens to velocity: `W·(LN(x)·(1 + scale)) + b` for the first tokens, put back as patches
    /// (the inverse of [`embed_patches`](super::EmbedPatchesOp::embed_patches)). LN is LayerNorm
    /// over D without weights, with `eps` added to the variance. `x` `[B, T, D]`, `W` `[p·p·C, D]`;
    /// returns F32 `[B, C, H, W]` with `size` = `[H, W]`.
    fn final_layer(
        &self,
        x: &Self::Tensor,
        scale: Modulation<'_, Self::Tensor>,
        eps: f32,
        w: &Self::Linear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<Self::Tensor> {
        let args = FinalLayerArgs { x, scale, eps, w, patch, size };
        let shape = args.check()?;
        self.run_final_layer(args, shape)
    }

    /// Runs [`FinalLayerOp::final_layer`] on checked arguments.
    fn run_final_layer(
        &self,
        args: FinalLayerArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 4],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fp8Sizes, Sizes, f32s, gives, rejects};
    use super::*;

    #[test]
    fn tokens_must_make_the_picture() {
        let op = "final_layer";
        let (x, table) = (f32s(&[2, 8, 5]), f32s(&[1, 1, 5]));
        let check = |row, w, patch, size| {
            let scale = Modulation { table: &table, row };
            FinalLayerArgs { x: &x, scale, eps: 0.0, w: &Sizes(w), patch, size }.check()
        };
        gives(check(0, [12, 5], 2, [4, 6]), [2, 3, 4, 6]);
        rejects(check(1, [12, 5], 2, [4, 6]), op, &["row 1", "[1, 1, 5]"]);
        for (w, patch, size) in [
            ([12, 4], 2, [4, 6]),
            ([10, 5], 2, [4, 6]),
            ([12, 5], 2, [5, 6]),
            ([12, 5], 2, [4, 7]),
            ([12, 5], 2, [6, 6]),
            ([12, 5], 2, [0, 6]),
            ([12, 5], 0, [4, 6]),
        ] {
            let [w_words, size_words] = [format!("{w:?}"), format!("{}×{}", size[0], size[1])];
            let words = [&*w_words, &*size_words, &format!("patches of {patch}"), "[2, 8, 5]"];
            rejects(check(0, w, patch, size), op, &words);
        }
        let (scale, w) = (Modulation { table: &table, row: 0 }, Fp8Sizes([12, 5]));
        let args = FinalLayerArgs { x: &x, scale, eps: 0.0, w: &w, patch: 2, size: [4, 6] };
        rejects(args.check(), op, &["w must not be computed in FP8"]);
    }
}
