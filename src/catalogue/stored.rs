//! The storage of the matrices of cases: floats, or one of the quantised formats.

use crate::tensor::{DType, Format};

/// The factors of [`Stored::UnevenRowScales`]: more apart than the scales of FP8 blocks, and one
/// that makes zeros.
pub(super) const UNEVEN: [f32; 3] = [1.0, 4096.0, 0.0];

/// The storage of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Floats.
    Plain(DType),
    /// Blocks with their scales inside, or codes without scales.
    Blocks(Format),
    /// Codes with a scale for the tensor.
    TensorScale(Format),
    /// Codes with a scale for each row.
    RowScales(Format),
    /// As [`Stored::RowScales`], with each [`FP8_BLOCK`](crate::tensor::FP8_BLOCK) rows times the
    /// next factor of [`UNEVEN`].
    UnevenRowScales(Format),
    /// E4M3 with E8M0 scales of blocks.
    Mxfp8,
    /// E2M1 with E4M3 scales of blocks.
    Nvfp4,
}

impl From<DType> for Stored {
    fn from(dtype: DType) -> Self {
        Stored::Plain(dtype)
    }
}

/// Every quantised storage that a backend may keep, by name, and at the end two that only `cpu`
/// keeps.
pub(super) const QUANTIZED: [(&str, Stored); 12] = [
    ("q4_0", Stored::Blocks(Format::Q4_0)),
    ("q8_0", Stored::Blocks(Format::Q8_0)),
    ("q4_k", Stored::Blocks(Format::Q4K)),
    ("q5_k", Stored::Blocks(Format::Q5K)),
    ("q6_k", Stored::Blocks(Format::Q6K)),
    ("f8-e4m3", Stored::Blocks(Format::F8E4m3)),
    ("f8-e4m3-tensor-scale", Stored::TensorScale(Format::F8E4m3)),
    ("f8-e4m3-row-scales", Stored::RowScales(Format::F8E4m3)),
    ("mxfp8", Stored::Mxfp8),
    ("nvfp4", Stored::Nvfp4),
    ("q5_1", Stored::Blocks(Format::Q5_1)),
    ("i8-row-scales", Stored::RowScales(Format::I8)),
];

impl Stored {
    /// The format of the codes; `None` for floats.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Stored::Plain(_) => None,
            Stored::Blocks(format)
            | Stored::TensorScale(format)
            | Stored::RowScales(format)
            | Stored::UnevenRowScales(format) => Some(format),
            Stored::Mxfp8 => Some(Format::F8E4m3),
            Stored::Nvfp4 => Some(Format::Nvfp4),
        }
    }

    /// The type of a bias.
    pub(super) fn bias(self) -> DType {
        match self {
            Stored::Plain(dtype) => dtype,
            _ => DType::F32,
        }
    }

    /// The storage of a matrix in a file of this format, one of
    /// [`RANDOM_FORMATS`](crate::weights::RANDOM_FORMATS).
    pub(crate) fn in_file(format: Format) -> Self {
        match format {
            Format::F8E4m3 => Stored::TensorScale(format),
            Format::Nvfp4 => Stored::Nvfp4,
            _ => Stored::Blocks(format),
        }
    }

    /// Columns whose multiples this storage has.
    pub(super) fn columns(self) -> usize {
        match self {
            Stored::Mxfp8 => 32,
            Stored::Nvfp4 => 16,
            _ => self.format().map_or(1, |format| format.block().elements),
        }
    }
}
