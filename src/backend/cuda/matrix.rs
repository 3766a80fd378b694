//! Matrices as BF16, laid out as the tensor cores take them.
//!
//! Rows start on 16 bytes, with zeros behind them, so that a thread reads eight values at once whatever the width.

use super::super::{DType, DeviceTensor, HostTensor};
use super::gpu::Gpu;
use super::memory::Memory;
use super::tensor::{CudaTensor, VECTOR};
use crate::error::Result;
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;

/// `[rows, width]`.
#[derive(Debug)]
pub(super) struct Matrix {
    tensor: CudaTensor,
    pub rows: usize,
    pub width: usize,
}

/// The elements of a tensor as BF16: its own bytes where it is stored so, else rounded.
fn narrowed(tensor: &HostTensor) -> Cow<'_, [u8]> {
    if tensor.dtype() == DType::Bf16 {
        return Cow::Borrowed(tensor.bytes());
    }
    let values = tensor.to_f32();
    let mut bytes = vec![0; 2 * values.len()];
    bytes.par_chunks_mut(2).zip(&values).for_each(|(to, value)| {
        to.copy_from_slice(&half::bf16::from_f32(*value).to_le_bytes());
    });
    Cow::Owned(bytes)
}

impl Matrix {
    /// The type of its elements.
    pub(super) const ELEMENTS: DType = DType::Bf16;

    /// `parts` `[Nᵢ, width]`, one below the other.
    pub(super) fn stacked(gpu: &Gpu, verb: &'static str, parts: &[HostTensor], width: usize) -> Result<Self> {
        let narrow: Vec<Cow<'_, [u8]>> = parts.iter().map(narrowed).collect();
        let rows: Vec<&[u8]> = narrow.iter().flat_map(|part| part.chunks_exact(2 * width)).collect();
        Self::of_rows(gpu, verb, &rows, width)
    }

    /// The rows of `first` and `second` in turn.
    pub(super) fn alternating(gpu: &Gpu, verb: &'static str, first: &HostTensor, second: &HostTensor) -> Result<Self> {
        let width = first.shape()[1];
        let narrow = [narrowed(first), narrowed(second)];
        let [first, second] = narrow.each_ref().map(|part| part.chunks_exact(2 * width));
        let rows: Vec<&[u8]> = first.zip(second).flat_map(|(first, second)| [first, second]).collect();
        Self::of_rows(gpu, verb, &rows, width)
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·I₈]`, where `I₈` is `I` up to a multiple of eight.
    pub(super) fn kernel(
        gpu: &Gpu,
        verb: &'static str,
        kernel: &HostTensor,
        [o, i, kh, kw]: [usize; 4],
    ) -> Result<Self> {
        let (taps, depth) = (kh * kw, i.next_multiple_of(VECTOR));
        let stored = narrowed(kernel);
        let mut elements = vec![0; 2 * o * taps * depth];
        let rows = elements.par_chunks_exact_mut(2 * taps * depth).zip(stored.par_chunks_exact(2 * i * taps));
        rows.for_each(|(to, from)| {
            for (at, value) in from.chunks_exact(2).enumerate() {
                let place = 2 * (at % taps * depth + at / taps);
                to[place..place + 2].copy_from_slice(value);
            }
        });
        let tensor = gpu.upload(verb, &[o, taps * depth], Self::ELEMENTS, &elements)?;
        Ok(Self { tensor, rows: o, width: taps * depth })
    }

    fn of_rows(gpu: &Gpu, verb: &'static str, rows: &[&[u8]], width: usize) -> Result<Self> {
        let stride = width.next_multiple_of(VECTOR);
        let mut elements = vec![0; 2 * rows.len() * stride];
        let places = elements.par_chunks_exact_mut(2 * stride).zip(rows);
        places.for_each(|(to, from)| to[..2 * width].copy_from_slice(from));
        let tensor = gpu.upload(verb, &[rows.len(), stride], Self::ELEMENTS, &elements)?;
        Ok(Self { tensor, rows: rows.len(), width })
    }

    /// `[N, K]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.tensor.shape()[1]
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        self.tensor.memory()
    }
}

/// The matrix of a linear layer and its bias, F32.
#[derive(Debug)]
pub struct CudaLinear {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<CudaTensor>,
}

/// The two matrices of a swiglu, whose rows alternate.
#[derive(Debug)]
pub struct CudaSwiGlu {
    pub(super) matrix: Matrix,
}

/// The kernel of a convolution `[O, kh, kw, I]` and its bias, F32.
#[derive(Debug)]
pub struct CudaConv2d {
    pub(super) matrix: Matrix,
    pub(super) dims: [usize; 4],
    pub(super) bias: Option<CudaTensor>,
}
