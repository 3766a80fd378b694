//! `join_sequence`: image tokens and caption tokens as one sequence per item.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`JoinSequenceOp::join_sequence`].
#[derive(Debug)]
pub struct JoinSequenceArgs<'a, T> {
    /// `[B, S, D]`.
    pub image: &'a T,
    /// `[P, T, D]`.
    pub caption: &'a T,
    /// U32 `[N]`: the caption of each item.
    pub captions: &'a T,
}

impl<T: DeviceTensor> JoinSequenceArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[N, S + T, D]`.
    pub fn check(&self) -> Result<[usize; 3]> {
        let op = "join_sequence";
        let image @ [b, s, d] = check::floats(op, "the image", self.image)?;
        let caption @ [_, t, width] = check::floats(op, "the caption", self.caption)?;
        let [n] = check::exactly(op, "the caption of each item", self.captions, DType::U32)?;
        check::ensure(width == d && n.is_multiple_of(b), op, || {
            format!("images {image:?} and captions {caption:?} do not make {n} sequences")
        })?;
        Ok([n, s + t, d])
    }
}

/// The unified sequence of the diffusion transformer.
pub trait JoinSequenceOp: Runtime {
    /// `out[n] = [image[n mod B], caption[captions[n]]]`. `image` `[B, S, D]`, `caption` `[P, T,
    /// D]`, `captions` U32 `[N]`, `N` a multiple of `B`; returns `[N, S + T, D]`.
    fn join_sequence(
        &self,
        image: &Self::Tensor,
        caption: &Self::Tensor,
        captions: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let args = JoinSequenceArgs { image, caption, captions };
        let shape = args.check()?;
        self.run_join_sequence(args, shape)
    }

    /// Runs [`JoinSequenceOp::join_sequence`] on checked arguments.
    fn run_join_sequence(&self, args: JoinSequenceArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn items_must_be_a_multiple_of_images() {
        let image = f32s(&[2, 3, 4]);
        let check = |caption: &[usize], n| {
            JoinSequenceArgs { image: &image, caption: &f32s(caption), captions: &u32s(&[n]) }.check()
        };
        gives(check(&[5, 6, 4], 4), [4, 9, 4]);
        rejects(check(&[5, 6, 4], 3), "join_sequence", &["[2, 3, 4]", "3 sequences"]);
        rejects(check(&[5, 6, 7], 2), "join_sequence", &["[2, 3, 4]", "[5, 6, 7]"]);
        rejects(check(&[5, 6, 4], 0), "join_sequence", &["the caption of each item must not be empty"]);
    }
}
