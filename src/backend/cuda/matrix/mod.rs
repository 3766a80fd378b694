//! Matrices as BF16, in the layout of the gemm kernels, quantised ones that become such, and FP8.
//!
//! Rows are padded with zeros to multiples of 16 bytes, so that a thread loads eight values at once
//! at any width.

pub(crate) mod fp8;
pub(crate) mod quantized;
mod stored;

use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::{DeviceTensor, DeviceWeight};
use crate::error::Result;
use crate::tensor::{Compute, DType, HostTensor, Weight, widen};
use std::ops::Range;
use std::sync::OnceLock;
pub(crate) use stored::{Segment, StoredMatrix};

/// A matrix `[rows, width]`. Cloning it shares the memory.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    tensor: CudaTensor,
    pub rows: usize,
    pub width: usize,
}

/// Writes some elements of a tensor as BF16: copied if they are stored so, else rounded.
fn write_bf16(tensor: &HostTensor, elements: Range<usize>, out: &mut [u8]) {
    let dtype = tensor.dtype();
    let size = dtype.size();
    let bytes = &tensor.bytes()[elements.start * size..elements.end * size];
    if dtype == DType::Bf16 {
        return out.copy_from_slice(bytes);
    }
    let mut values = vec![0.0; elements.len()];
    widen(dtype, bytes, &mut values);
    for (to, value) in out.chunks_exact_mut(Matrix::DTYPE.size()).zip(values) {
        to.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
    }
}

impl Matrix {
    /// The type of its elements.
    pub(crate) const DTYPE: DType = DType::Bf16;

    /// The rows of `parts`, each `[Nᵢ, width]`, one part after the other: `dims` is `[ΣNᵢ, width]`.
    pub(crate) async fn stacked(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        let matrix = Self::upload_target(gpu, op, dims, Home::of(parts))?;
        Weight::each_piece(parts, |first, rows| matrix.write(gpu, op, first, [rows])).await?;
        Ok(matrix)
    }

    /// The rows of two matrices `[rows, width]`, alternating.
    pub(crate) async fn alternating(
        gpu: &Gpu,
        op: &'static str,
        pair: [&Weight<'_>; 2],
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        let matrix = Self::upload_target(gpu, op, [2 * rows, width], Home::of(pair))?;
        Weight::each_pair(pair, |first, rows| matrix.write(gpu, op, 2 * first, rows)).await?;
        Ok(matrix)
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·I₈]`, where `I₈` is `I` rounded up to
    /// a multiple of eight.
    pub(crate) fn kernel(gpu: &Gpu, op: &'static str, kernel: &HostTensor, [o, i, kh, kw]: [usize; 4]) -> Result<Self> {
        let taps = kh * kw;
        let depth = i.next_multiple_of(VECTOR);
        let size = Self::DTYPE.size();
        let matrix = Self::upload_target(gpu, op, [o, taps * depth], Home::Device)?;
        let row_bytes = matrix.row_bytes();
        gpu.upload_chunks(op, &matrix.tensor, 0, o * row_bytes, row_bytes, |row, out| {
            let mut stored = vec![0; size * i * taps];
            write_bf16(kernel, row * i * taps..(row + 1) * i * taps, &mut stored);
            out.fill(0);
            for (at, value) in stored.chunks_exact(size).enumerate() {
                let to = size * (at % taps * depth + at / taps);
                out[to..to + size].copy_from_slice(value);
            }
        })?;
        Ok(matrix)
    }

    /// A matrix for an upload to fill.
    fn upload_target(gpu: &Gpu, op: &'static str, [rows, width]: [usize; 2], home: Home) -> Result<Self> {
        let tensor = gpu.upload_target(op, &[rows, width.next_multiple_of(VECTOR)], Self::DTYPE, home)?;
        Ok(Self { tensor, rows, width })
    }

    /// The distance of rows in bytes.
    fn row_bytes(&self) -> usize {
        self.stride() * Self::DTYPE.size()
    }

    /// Writes the rows of N tensors `[_, width]` of one shape, alternating, from row `first` on.
    fn write<const N: usize>(&self, gpu: &Gpu, op: &'static str, first: usize, tensors: [HostTensor; N]) -> Result<()> {
        let count = N * tensors[0].shape()[0];
        let width = self.width;
        let bytes = self.row_bytes();
        gpu.upload_owned_chunks(op, &self.tensor, first * bytes, count * bytes, bytes, move |row, out| {
            let (values, padding) = out.split_at_mut(Self::DTYPE.size() * width);
            write_bf16(&tensors[row % N], row / N * width..(row / N + 1) * width, values);
            padding.fill(0);
        })
    }

    /// A matrix for a kernel to fill.
    pub(crate) fn output(gpu: &Gpu, op: &'static str, [rows, width]: [usize; 2]) -> Result<Self> {
        let tensor = gpu.output(op, &[rows, width.next_multiple_of(VECTOR)], Self::DTYPE)?;
        Ok(Self { tensor, rows, width })
    }

    /// Its elements `[rows, stride]`, padding included.
    pub(crate) fn tensor(&self) -> &CudaTensor {
        &self.tensor
    }

    /// `[N, K]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// The distance of rows in elements.
    pub(crate) fn stride(&self) -> usize {
        self.tensor.shape()[1]
    }

    /// The matrix as an argument of a kernel that reads it.
    pub(crate) fn arg(&self) -> Arg<'_> {
        Arg::Read(&self.tensor)
    }
}

/// Uploads `biases`, one after the other, as F32; `None` without any.
pub(crate) fn upload_bias(gpu: &Gpu, op: &'static str, biases: &[HostTensor]) -> Result<Option<CudaTensor>> {
    if biases.is_empty() {
        return Ok(None);
    }
    let values: Vec<f32> = biases.iter().flat_map(HostTensor::to_f32).collect();
    gpu.upload(op, &[values.len()], DType::F32, bytemuck::cast_slice(&values)).map(Some)
}

/// The matrix of a linear layer and its bias, F32.
#[derive(Debug)]
pub struct CudaLinear {
    pub(crate) matrix: StoredMatrix,
    pub(crate) bias: Option<CudaTensor>,
}

/// The two matrices of a swiglu, whose rows alternate.
#[derive(Debug)]
pub struct CudaSwiGlu {
    pub(crate) matrix: StoredMatrix,
}

/// The kernel of a convolution `[O, kh, kw, I]` and its bias, F32.
#[derive(Debug)]
pub struct CudaConv2d {
    pub(crate) matrix: Matrix,
    dims: [usize; 4],
    pub(crate) bias: Option<CudaTensor>,
    /// The taps merged for an upsampled picture, made on first use.
    merged: OnceLock<Matrix>,
}

impl CudaConv2d {
    pub(crate) fn new(matrix: Matrix, dims: [usize; 4], bias: Option<CudaTensor>) -> Self {
        Self { matrix, dims, bias, merged: OnceLock::new() }
    }

    /// The merged taps, which `make` makes on first use.
    pub(crate) fn merged(&self, make: impl FnOnce() -> Result<Matrix>) -> Result<&Matrix> {
        if let Some(merged) = self.merged.get() {
            return Ok(merged);
        }
        let made = make()?;
        Ok(self.merged.get_or_init(|| made))
    }
}

impl DeviceWeight<2> for CudaLinear {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }

    fn compute(&self) -> Compute {
        self.matrix.compute()
    }
}

impl DeviceWeight<2> for CudaSwiGlu {
    fn dims(&self) -> [usize; 2] {
        let [rows, width] = self.matrix.dims();
        [rows / 2, width]
    }

    fn compute(&self) -> Compute {
        self.matrix.compute()
    }
}

impl DeviceWeight<4> for CudaConv2d {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }
}
