//! Matrices as BF16, laid out as the tensor cores take them.
//!
//! Rows start on 16 bytes, with zeros behind them, so that a thread reads eight values at once whatever the width.

use crate::backend::DeviceTensor;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::memory::arena::Memory;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::error::Result;
use crate::tensor::{DType, HostTensor, Weight, widen};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// `[rows, width]`.
#[derive(Debug)]
pub(crate) struct Matrix {
    tensor: CudaTensor,
    pub rows: usize,
    pub width: usize,
}

/// Writes some elements of a tensor as BF16: as they are where they are stored so, else rounded.
fn narrow(tensor: &HostTensor, elements: Range<usize>, place: &mut [u8]) {
    let (dtype, size) = (tensor.dtype(), tensor.dtype().size());
    let bytes = &tensor.bytes()[elements.start * size..elements.end * size];
    if dtype == DType::Bf16 {
        return place.copy_from_slice(bytes);
    }
    let mut values = vec![0.0; elements.len()];
    widen(dtype, bytes, &mut values);
    for (to, value) in place.chunks_exact_mut(2).zip(values) {
        to.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
    }
}

impl Matrix {
    /// The type of its elements.
    pub(crate) const ELEMENTS: DType = DType::Bf16;

    /// `parts` `[Nᵢ, width]`, one below the other: `[rows, width]`.
    pub(crate) async fn stacked(gpu: &Gpu, verb: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        let matrix = Self::room(gpu, verb, dims)?;
        let write = |first, rows: HostTensor| {
            let count = rows.shape()[0];
            matrix.write(gpu, verb, first, count, |row| (&rows, row))
        };
        Weight::each_piece(parts, write).await?;
        Ok(matrix)
    }

    /// The rows of `first` and `second`, each `[rows, width]`, in turn.
    pub(crate) async fn alternating(
        gpu: &Gpu,
        verb: &'static str,
        pair: [&Weight<'_>; 2],
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        let matrix = Self::room(gpu, verb, [2 * rows, width])?;
        let write = |first, pieces: [HostTensor; 2]| {
            let count = pieces[0].shape()[0];
            matrix.write(gpu, verb, 2 * first, 2 * count, |row| (&pieces[row % 2], row / 2))
        };
        Weight::each_pair(pair, write).await?;
        Ok(matrix)
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·I₈]`, where `I₈` is `I` up to a multiple of eight.
    pub(crate) fn kernel(
        gpu: &Gpu,
        verb: &'static str,
        kernel: &HostTensor,
        [o, i, kh, kw]: [usize; 4],
    ) -> Result<Self> {
        let (taps, depth) = (kh * kw, i.next_multiple_of(VECTOR));
        let matrix = Self::room(gpu, verb, [o, taps * depth])?;
        let row_bytes = matrix.row_bytes();
        gpu.send_units(verb, &matrix.tensor, 0, o * row_bytes, row_bytes, |row, place| {
            let mut stored = vec![0; 2 * i * taps];
            narrow(kernel, row * i * taps..(row + 1) * i * taps, &mut stored);
            place.fill(0);
            for (at, value) in stored.chunks_exact(2).enumerate() {
                let to = 2 * (at % taps * depth + at / taps);
                place[to..to + 2].copy_from_slice(value);
            }
        })?;
        Ok(matrix)
    }

    /// A matrix that is filled at once.
    fn room(gpu: &Gpu, verb: &'static str, [rows, width]: [usize; 2]) -> Result<Self> {
        let tensor = gpu.room(verb, &[rows, width.next_multiple_of(VECTOR)], Self::ELEMENTS)?;
        Ok(Self { tensor, rows, width })
    }

    /// Bytes from one row to the next.
    fn row_bytes(&self) -> usize {
        self.stride() * Self::ELEMENTS.size()
    }

    /// Writes `count` rows from `first` on, each found in a tensor `[_, width]`.
    fn write<'t>(
        &self,
        gpu: &Gpu,
        verb: &'static str,
        first: usize,
        count: usize,
        find: impl Fn(usize) -> (&'t HostTensor, usize) + Sync,
    ) -> Result<()> {
        let (width, bytes) = (self.width, self.row_bytes());
        gpu.send_units(verb, &self.tensor, first * bytes, count * bytes, bytes, |row, place| {
            let (tensor, row) = find(row);
            let (values, padding) = place.split_at_mut(Self::ELEMENTS.size() * width);
            narrow(tensor, row * width..(row + 1) * width, values);
            padding.fill(0);
        })
    }

    /// A matrix for a kernel to fill, in memory that is no recording's where none is being made.
    pub(crate) fn empty(gpu: &Gpu, verb: &'static str, [rows, width]: [usize; 2]) -> Result<Self> {
        let tensor = gpu.output(verb, &[rows, width.next_multiple_of(VECTOR)], Self::ELEMENTS)?;
        Ok(Self { tensor, rows, width })
    }

    /// Its elements, rows with the zeros behind them.
    pub(crate) fn tensor(&self) -> &CudaTensor {
        &self.tensor
    }

    /// `[N, K]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// Elements from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.tensor.shape()[1]
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        self.tensor.memory()
    }
}

/// The matrix of a linear layer and its bias, F32.
#[derive(Debug)]
pub struct CudaLinear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<CudaTensor>,
}

/// The two matrices of a swiglu, whose rows alternate.
#[derive(Debug)]
pub struct CudaSwiGlu {
    pub(crate) matrix: Matrix,
}

/// The kernel of a convolution `[O, kh, kw, I]` and its bias, F32.
#[derive(Debug)]
pub struct CudaConv2d {
    pub(crate) matrix: Matrix,
    pub(crate) dims: [usize; 4],
    pub(crate) bias: Option<CudaTensor>,
    /// The kernel's taps merged for a picture of twice the size, once that was asked for.
    merged: OnceLock<Matrix>,
}

impl CudaConv2d {
    pub(crate) fn new(matrix: Matrix, dims: [usize; 4], bias: Option<CudaTensor>) -> Self {
        Self { matrix, dims, bias, merged: OnceLock::new() }
    }

    /// The merged taps, made by `make` the first time.
    pub(crate) fn merged(&self, make: impl FnOnce() -> Result<Matrix>) -> Result<&Matrix> {
        if let Some(merged) = self.merged.get() {
            return Ok(merged);
        }
        let made = make()?;
        Ok(self.merged.get_or_init(|| made))
    }
}

impl crate::backend::DeviceWeight<2> for CudaLinear {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }
}

impl crate::backend::DeviceWeight<2> for CudaSwiGlu {
    fn dims(&self) -> [usize; 2] {
        let [rows, width] = self.matrix.dims();
        [rows / 2, width]
    }
}

impl crate::backend::DeviceWeight<4> for CudaConv2d {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }
}
