//! `linear`: a gemm with bias.

use super::{DeviceTensor, DeviceWeight, Result, Runtime, check};
use crate::error::Error;
use crate::tensor::{HostTensor, Weight};

/// The arguments of [`LinearOp::linear`].
#[derive(Debug)]
pub struct LinearArgs<'a, T, W> {
    /// `[…, K]`.
    pub x: &'a T,
    /// The matrix `[N, K]` and its bias.
    pub w: &'a W,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> LinearArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[…, N]`.
    pub fn check(&self) -> Result<Vec<usize>> {
        multiplied("linear", self.x, self.w)
    }
}

/// Checks `x` `[…, K]` against a matrix `[N, K]`; returns `[…, N]`.
pub(super) fn multiplied(op: &'static str, x: &impl DeviceTensor, w: &impl DeviceWeight<2>) -> Result<Vec<usize>> {
    let [n, k] = w.dims();
    check::not_empty(op, "x", x.shape())?;
    check::operand(op, x, w)?;
    let mut out = x.shape().to_vec();
    let width = out.last_mut().filter(|width| **width == k);
    *width.ok_or_else(|| Error::shape(op, format!("a matrix [{n}, {k}] cannot multiply {:?}", x.shape())))? = n;
    Ok(out)
}

/// Checks stacked matrices `[Nᵢ, K]` with no bias or one `[Nᵢ]` each; returns `[ΣNᵢ, K]`.
fn check_stacked(parts: &[Weight<'_>], biases: &[HostTensor]) -> Result<[usize; 2]> {
    let op = "upload_linear";
    let first = parts.first().ok_or_else(|| Error::shape(op, "no matrix was given"))?;
    let [_, width] = check::matrix(op, "a matrix", first)?;
    check::ensure(biases.is_empty() || biases.len() == parts.len(), op, || {
        format!("{} matrices need as many biases or none, not {}", parts.len(), biases.len())
    })?;
    let mut rows = 0;
    for (i, part) in parts.iter().enumerate() {
        let [n, k] = check::matrix(op, "a matrix", part)?;
        check::ensure(k == width, op, || format!("matrix {i} is {k} wide, the first is {width}"))?;
        if let Some(bias) = biases.get(i) {
            check::bias(op, bias, n)?;
        }
        rows += n;
    }
    Ok([rows, width])
}

/// Linear layers.
pub trait LinearOp: Runtime {
    /// A matrix `[N, K]` on the device, with an optional bias `[N]`.
    type Linear: DeviceWeight<2>;

    /// Uploads the matrices `parts`, each `[Nᵢ, K]`, as one matrix `[ΣNᵢ, K]`. `biases` is empty or
    /// holds one `[Nᵢ]` per part. All parts have one type of operands, [`Weight::compute`].
    fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> impl Future<Output = Result<Self::Linear>> {
        async move {
            let dims = check_stacked(parts, biases)?;
            check::computes("upload_linear", &parts.iter().collect::<Vec<_>>(), self.computes_fp8())?;
            self.run_upload_linear(parts, biases, dims).await
        }
    }

    /// `x·Wᵀ + b`. `x` `[…, K]`, `W` `[N, K]`; returns `[…, N]`. `x` is in FP8 if `W` is computed
    /// in it.
    fn linear(&self, x: &Self::Tensor, w: &Self::Linear) -> Result<Self::Tensor> {
        let args = LinearArgs { x, w };
        let shape = args.check()?;
        self.run_linear(args, &shape)
    }

    /// Runs [`LinearOp::upload_linear`] on checked matrices that stack to `dims` `[N, K]`.
    fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> impl Future<Output = Result<Self::Linear>>;

    /// Runs [`LinearOp::linear`] on checked arguments.
    fn run_linear(&self, args: LinearArgs<'_, Self::Tensor, Self::Linear>, shape: &[usize]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fp8Sizes, Sizes, f32s, fp8s, gives, rejects, u32s};
    use super::*;

    fn matrix(shape: &[usize]) -> HostTensor {
        HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()])
    }

    #[test]
    fn stacked_matrices_share_their_width() {
        let op = "upload_linear";
        let parts = |shapes: &[&[usize]]| shapes.iter().map(|shape| matrix(shape).into()).collect::<Vec<Weight<'_>>>();
        let two = parts(&[&[3, 5], &[2, 5]]);
        let [wide, narrow] = [matrix(&[3]), matrix(&[2])];
        gives(check_stacked(&two[..1], &[]), [3, 5]);
        gives(check_stacked(&two, &[wide.clone(), narrow.clone()]), [5, 5]);
        rejects(check_stacked(&[], &[]), op, &["no matrix"]);
        rejects(check_stacked(&parts(&[&[3]]), &[]), op, &["2 dimensions", "[3]"]);
        rejects(check_stacked(&parts(&[&[3, 5], &[2, 4]]), &[]), op, &["matrix 1", "4 wide", "5"]);
        rejects(check_stacked(&two, std::slice::from_ref(&wide)), op, &["2 matrices", "not 1"]);
        rejects(check_stacked(&two, &[narrow, wide]), op, &["the bias", "[3]", "[2]"]);
        let integers = [HostTensor::from_u32(&[1, 1], &[0]).into()];
        rejects(check_stacked(&integers, &[]), op, &["a matrix must be of a floating type, not U32"]);
    }

    #[test]
    fn the_last_dimension_is_reduced() {
        let check = |x: &[usize]| LinearArgs { x: &f32s(x), w: &Sizes([7, 5]) }.check();
        gives(check(&[2, 3, 5]), [2, 3, 7]);
        gives(check(&[5]), [7]);
        rejects(check(&[2, 3, 4]), "linear", &["[7, 5]", "[2, 3, 4]"]);
        rejects(check(&[]), "linear", &["[7, 5]", "[]"]);
        rejects(check(&[0, 5]), "linear", &["[0, 5]"]);
        let integers = LinearArgs { x: &u32s(&[5]), w: &Sizes([7, 5]) }.check();
        rejects(integers, "linear", &["x must be of a floating type, not U32"]);
    }

    #[test]
    fn both_operands_are_in_fp8_or_none() {
        let fp8 = Fp8Sizes([7, 16]);
        gives(LinearArgs { x: &fp8s(&[2, 16]), w: &fp8 }.check(), [2, 7]);
        rejects(LinearArgs { x: &f32s(&[2, 16]), w: &fp8 }.check(), "linear", &["x must be in FP8, as the matrix is"]);
        let native = LinearArgs { x: &fp8s(&[2, 16]), w: &Sizes([7, 16]) }.check();
        rejects(native, "linear", &["x must not be in FP8"]);
    }
}
