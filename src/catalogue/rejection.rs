//! Arguments that every backend rejects with the same error.

use crate::backend::{Backend, DeviceTensor, Heads, QkNormRope, RmsNorm, RopePairs, Runtime};
use crate::error::Result;
use crate::future::expect_ready;
use crate::tensor::{Compute, DType, Format, HostTensor, Storage, Weight};

/// A call that must fail with [`Error::Shape`](crate::Error::Shape).
pub(crate) struct Rejection<B: Backend> {
    /// The op and the wrong argument, such as `linear-width-of-x`.
    pub name: String,
    /// [`Compute::Fp8`] for a call that only a backend with FP8 operands can be asked.
    pub compute: Compute,
    prepare: Box<Prepare<B>>,
}

type Prepare<B> = dyn Fn(&B) -> Result<Attempt<B>>;

/// Makes the call on uploaded tensors.
pub(super) type Attempt<B> = Box<dyn Fn(&B) -> Result<()>>;

impl<B: Backend> Rejection<B> {
    /// Uploads the tensors of the call.
    pub(crate) fn prepare(&self, b: &B) -> Result<Attempt<B>> {
        (self.prepare)(b)
    }
}

/// A tensor of zeros: a rejected call reads none of its values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zeros {
    /// An activation of the backend.
    Activation(&'static [usize]),
    F32(&'static [usize]),
    U32(&'static [usize]),
    U8(&'static [usize]),
    /// The memory of the first tensor, the in-place target, under another shape.
    Alias(&'static [usize]),
}

impl Zeros {
    fn upload<B: Backend>(self, b: &B, first: Option<&B::Tensor>) -> Result<B::Tensor> {
        let (dtype, shape) = match self {
            Zeros::Activation(shape) => (b.activations(), shape),
            Zeros::F32(shape) => (DType::F32, shape),
            Zeros::U32(shape) => (DType::U32, shape),
            Zeros::U8(shape) => (DType::U8, shape),
            Zeros::Alias(shape) => return Ok(first.expect("the first tensor is no alias").with_shape(shape)),
        };
        b.upload(&zeros(dtype, shape))
    }
}

/// A tensor of zeros on the host.
pub(super) fn zeros(dtype: DType, shape: &[usize]) -> HostTensor {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    HostTensor::new(dtype, shape, vec![0; bytes].into()).expect("as many bytes as the shape has")
}

/// The rejections of an op that is called with `N` tensors and a weight from `weight`.
pub(super) fn rejections_with<B: Backend + 'static, W: 'static, const N: usize>(
    op: &'static str,
    weight: impl Fn(&B) -> Result<W> + Copy + 'static,
    call: impl Fn(&B, &W, [<B as Runtime>::Tensor; N]) -> Result<()> + Copy + 'static,
    cases: impl IntoIterator<Item = (&'static str, [Zeros; N])>,
) -> Vec<Rejection<B>> {
    let rejection = |(name, tensors): (&str, [Zeros; N])| Rejection {
        name: format!("{op}-{name}"),
        compute: Compute::Native,
        prepare: Box::new(move |b: &B| {
            let weight = weight(b)?;
            let mut uploaded = Vec::with_capacity(N);
            for tensor in tensors {
                uploaded.push(tensor.upload(b, uploaded.first())?);
            }
            let uploaded: [B::Tensor; N] = uploaded.try_into().expect("one tensor each");
            Ok(Box::new(move |b: &B| call(b, &weight, uploaded.clone())) as Attempt<B>)
        }),
    };
    cases.into_iter().map(rejection).collect()
}

/// The rejections of an op that is called with `N` tensors.
pub(super) fn rejections<B: Backend + 'static, const N: usize>(
    op: &'static str,
    call: impl Fn(&B, [<B as Runtime>::Tensor; N]) -> Result<()> + Copy + 'static,
    cases: impl IntoIterator<Item = (&'static str, [Zeros; N])>,
) -> Vec<Rejection<B>> {
    rejections_with(op, |_| Ok(()), move |b, (), tensors| call(b, tensors), cases)
}

/// The rejection of an upload.
pub(super) fn upload_rejection<B: Backend + 'static>(
    op: &'static str,
    name: &str,
    call: impl Fn(&B) -> Result<()> + Copy + 'static,
) -> Rejection<B> {
    let prepare = Box::new(move |_: &B| Ok(Box::new(call) as Attempt<B>));
    Rejection { name: format!("{op}-{name}"), compute: Compute::Native, prepare }
}

/// An FP8 operand `[B, T, D]` of zeros.
pub(super) fn fp8_zeros<B: Backend>(b: &B, shape: [usize; 3]) -> Result<B::Tensor> {
    let x = b.upload(&zeros(b.activations(), &shape))?;
    let weight = b.upload(&zeros(DType::F32, &shape[2..]))?;
    b.rms_norm(&x, RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Fp8 })
}

/// A fused projection of zeros `[1, 2, fused width]` in FP8.
pub(super) fn fp8_projection_zeros<B: Backend>(b: &B, heads: Heads) -> Result<B::Tensor> {
    let x = b.upload(&zeros(b.activations(), &[1, 2, 16]))?;
    let w = expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[heads.fused_width(), 16]).into()], &[]))?;
    let norm = b.upload(&zeros(DType::F32, &[heads.dim]))?;
    let rotation = b.upload(&zeros(DType::F32, &[1, 2, heads.dim / 2, 2]))?;
    let pairs = RopePairs::Interleaved;
    let how = QkNormRope { q_norm: &norm, k_norm: &norm, eps: 1e-5, rotation: &rotation, pairs };
    b.project_qkv(&x, &w, heads, how, Compute::Fp8)
}

/// A matrix of zeros in E4M3 without scales, for FP8 gemms.
pub(super) fn fp8_matrix(shape: [usize; 2]) -> Weight<'static> {
    quantized_zeros(Format::F8E4m3, shape).computed_in(Compute::Fp8)
}

/// A matrix of zeros in this format.
pub(super) fn quantized_zeros(format: Format, shape: [usize; 2]) -> Weight<'static> {
    let bytes = shape[0] * format.bytes(shape[1]).expect("whole blocks");
    Weight::quantized(Storage::Plain(format), &shape, vec![0; bytes].into()).expect("whole rows")
}

/// The rejection of a call on a backend with FP8 operands. `prepare` uploads its tensors.
pub(super) fn fp8_rejection<B: Backend + 'static>(
    op: &'static str,
    name: &str,
    prepare: impl Fn(&B) -> Result<Attempt<B>> + 'static,
) -> Rejection<B> {
    Rejection { name: format!("{op}-{name}"), compute: Compute::Fp8, prepare: Box::new(prepare) }
}
