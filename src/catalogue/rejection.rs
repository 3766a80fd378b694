//! Arguments that every backend rejects with the same error.

use crate::backend::{Backend, DeviceTensor, Runtime};
use crate::error::Result;
use crate::tensor::{DType, HostTensor};

/// A call that must fail with [`Error::Shape`](crate::Error::Shape).
pub(crate) struct Rejection<B: Backend> {
    /// The op and the wrong argument, such as `linear-width-of-x`.
    pub name: String,
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
    Rejection { name: format!("{op}-{name}"), prepare: Box::new(move |_| Ok(Box::new(call))) }
}
