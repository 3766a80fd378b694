//! Tensors in device memory.

use super::allocation::Allocation;
use crate::backend::DeviceTensor;
use crate::tensor::DType;
use std::sync::Arc;

/// BF16 elements that a thread loads or stores at once.
pub(crate) const VECTOR: usize = 8;

/// 1 if rows of `width` consist of whole vectors, else 0: a constant of many kernels.
pub(crate) fn aligned(width: usize) -> usize {
    usize::from(width.is_multiple_of(VECTOR))
}

/// The elements of a row of `width` that a thread loads at once: [`VECTOR`] or 1.
pub(crate) fn vector(width: usize) -> usize {
    if width.is_multiple_of(VECTOR) { VECTOR } else { 1 }
}

/// A contiguous tensor of the `cuda` backend.
#[derive(Debug, Clone)]
pub struct CudaTensor {
    shape: Vec<usize>,
    dtype: DType,
    allocation: Arc<Allocation>,
}

impl CudaTensor {
    pub(crate) fn new(shape: &[usize], dtype: DType, allocation: Arc<Allocation>) -> Self {
        Self { shape: shape.to_vec(), dtype, allocation }
    }

    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    /// The sizes of a tensor whose rank is known.
    pub(crate) fn dims<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|axis| self.shape[axis])
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
}

impl DeviceTensor for CudaTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.allocation, &other.allocation)
    }

    fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: self.dtype, allocation: self.allocation.clone() }
    }
}
