//! The storage formats of matrices on the device.

use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::memory::pool::Memory;
use crate::error::Result;
use crate::tensor::{DType, HostTensor, Weight};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes that rows are padded to with zeros.
const ROW_ALIGNMENT: usize = 64;

/// The type that a matrix is stored in on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    Bf16,
    F16,
}

impl Stored {
    pub(crate) const ALL: [Stored; 3] = [Stored::F32, Stored::Bf16, Stored::F16];

    /// The common type of matrices that are stored together: their own if they share one, else F32.
    pub(crate) fn of<'w>(parts: impl IntoIterator<Item = &'w Weight<'w>>) -> Self {
        let mut types = parts.into_iter().map(|part| Self::from(part.dtype()));
        let first = types.next().unwrap_or(Stored::F32);
        if types.all(|other| other == first) { first } else { Stored::F32 }
    }

    /// Bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::Bf16 | Stored::F16 => 2,
        }
    }

    /// The same type of tensors.
    #[cfg(test)]
    pub(crate) fn dtype(self) -> DType {
        match self {
            Stored::F32 => DType::F32,
            Stored::Bf16 => DType::Bf16,
            Stored::F16 => DType::F16,
        }
    }

    /// The constant `STORED` of shaders that read words.
    pub(crate) fn number(self) -> usize {
        match self {
            Stored::F32 => 0,
            Stored::Bf16 => 1,
            Stored::F16 => 2,
        }
    }

    /// A tensor's elements in this type: as they are, or widened to F32.
    pub(super) fn bytes(self, tensor: &HostTensor) -> Result<Bytes> {
        let integers = matches!(tensor.dtype(), DType::U32 | DType::U8);
        if !integers && Self::from(tensor.dtype()) == self {
            return Ok(tensor.bytes().clone());
        }
        let values = tensor.try_to_f32()?;
        Ok(HostTensor::try_from_f32(tensor.shape(), &values)?.bytes().clone())
    }

    /// Elements from one row to the next, for rows of `width`.
    pub(crate) fn row_stride(self, width: usize) -> usize {
        width.max(1).next_multiple_of(ROW_ALIGNMENT / self.size())
    }
}

impl From<DType> for Stored {
    /// Types that matrices are not stored in are widened to F32 during the upload.
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Stored::Bf16,
            DType::F16 => Stored::F16,
            DType::F32 | DType::U32 | DType::U8 => Stored::F32,
        }
    }
}

/// Rows of a matrix in one buffer.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub memory: Arc<Memory>,
    pub bytes: u64,
    /// The index of the first row in the matrix.
    pub first: usize,
    /// The number of rows.
    pub rows: usize,
}

impl Piece {
    pub(crate) fn binding(&self) -> Binding {
        Binding::of(&self.memory, self.bytes)
    }
}
