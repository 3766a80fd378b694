//! `swiglu`: the first half of a gated feed-forward layer.

use super::{DeviceTensor, DeviceWeight, Result, Runtime, check, linear};
use crate::tensor::Weight;

/// The arguments of [`SwiGluOp::swiglu`].
#[derive(Debug)]
pub struct SwiGluArgs<'a, T, W> {
    /// `[…, K]`.
    pub x: &'a T,
    /// The matrices `G` and `U`.
    pub w: &'a W,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> SwiGluArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[…, F]`.
    pub fn check(&self) -> Result<Vec<usize>> {
        linear::multiplied("swiglu", self.x, self.w)
    }
}

/// Checks the two matrices `[F, K]`; returns `[F, K]`.
fn check_pair(gate: &Weight<'_>, up: &Weight<'_>) -> Result<[usize; 2]> {
    let op = "upload_swiglu";
    let dims = check::matrix(op, "the gate's matrix", gate)?;
    check::same(op, "the up matrix", up.shape(), &dims)?;
    check::floating(op, "the up matrix", up.dtype())?;
    Ok(dims)
}

/// Gated feed-forward layers.
pub trait SwiGluOp: Runtime {
    /// The matrices `G` and `U`, `[F, K]` each, on the device.
    type SwiGlu: DeviceWeight<2>;

    /// Uploads `gate` and `up`, each `[F, K]`.
    fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> impl Future<Output = Result<Self::SwiGlu>> {
        async move {
            let dims = check_pair(gate, up)?;
            let compute = check::computes("upload_swiglu", &[gate, up], self.computes_fp8())?;
            check::output("upload_swiglu", compute, self.computes_fp8(), dims[0])?;
            self.run_upload_swiglu(gate, up, dims).await
        }
    }

    /// `SiLU(x·Gᵀ) ⊙ (x·Uᵀ)` with `SiLU(a) = a / (1 + e⁻ᵃ)`. `x` `[…, K]`, `G` and `U` `[F, K]`;
    /// returns `[…, F]`. With matrices in FP8, `x` is in FP8, and so is the result, with a scale
    /// for each [`FP8_BLOCK`](crate::tensor::FP8_BLOCK) columns of a row.
    fn swiglu(&self, x: &Self::Tensor, w: &Self::SwiGlu) -> Result<Self::Tensor> {
        let args = SwiGluArgs { x, w };
        let shape = args.check()?;
        self.run_swiglu(args, &shape)
    }

    /// Runs [`SwiGluOp::upload_swiglu`] on checked matrices of `dims` `[F, K]`.
    fn run_upload_swiglu(
        &self,
        gate: &Weight<'_>,
        up: &Weight<'_>,
        dims: [usize; 2],
    ) -> impl Future<Output = Result<Self::SwiGlu>>;

    /// Runs [`SwiGluOp::swiglu`] on checked arguments.
    fn run_swiglu(&self, args: SwiGluArgs<'_, Self::Tensor, Self::SwiGlu>, shape: &[usize]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Sizes, f32s, gives, rejects};
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn both_matrices_have_one_shape() {
        let matrix = |shape: &[usize]| HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()]).into();
        gives(check_pair(&matrix(&[3, 5]), &matrix(&[3, 5])), [3, 5]);
        rejects(
            check_pair(&matrix(&[3, 5]), &matrix(&[2, 5])),
            "upload_swiglu",
            &["the up matrix", "[3, 5]", "[2, 5]"],
        );
        let integers = HostTensor::from_u32(&[1, 1], &[0]).into();
        rejects(check_pair(&matrix(&[1, 1]), &integers), "upload_swiglu", &["the up matrix", "not U32"]);
    }

    #[test]
    fn the_last_dimension_is_reduced() {
        let check = |x: &[usize]| SwiGluArgs { x: &f32s(x), w: &Sizes([7, 5]) }.check();
        gives(check(&[2, 3, 5]), [2, 3, 7]);
        rejects(check(&[2, 3, 4]), "swiglu", &["[7, 5]", "[2, 3, 4]"]);
    }
}
