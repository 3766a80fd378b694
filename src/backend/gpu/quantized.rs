//! The quantised layouts that both GPU backends keep.

use crate::tensor::{Format, Scales, Storage};

/// The layout of quantised rows; the value is the `StoredFormat` of
/// `kernels/common/quantized.cuh` and the `FORMAT` of `shaders/shared/quantized.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredFormat {
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    /// E4M3, without scales or with one for the tensor.
    F8E4m3,
    /// E4M3 with a scale for each row.
    F8E4m3Rows,
    Mxfp8,
    Nvfp4,
}

impl StoredFormat {
    pub(crate) const ALL: [Self; 9] = [
        Self::Q4_0,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::F8E4m3,
        Self::F8E4m3Rows,
        Self::Mxfp8,
        Self::Nvfp4,
    ];

    /// The layout of a storage; `None` if no kernel reads it.
    pub(crate) fn of(storage: &Storage) -> Option<Self> {
        let scales = match storage {
            Storage::Plain(_) => &Scales::None,
            Storage::Scaled { matrix, .. } => matrix.scales(),
        };
        Some(match (storage.format(), scales) {
            (Format::Q4_0, Scales::None) => Self::Q4_0,
            (Format::Q8_0, Scales::None) => Self::Q8_0,
            (Format::Q4K, Scales::None) => Self::Q4K,
            (Format::Q5K, Scales::None) => Self::Q5K,
            (Format::Q6K, Scales::None) => Self::Q6K,
            (Format::F8E4m3, Scales::None | Scales::Tensor(_)) => Self::F8E4m3,
            (Format::F8E4m3, Scales::Rows(_)) => Self::F8E4m3Rows,
            (Format::F8E4m3, Scales::Mxfp8(_)) => Self::Mxfp8,
            (Format::Nvfp4, Scales::Nvfp4 { .. }) => Self::Nvfp4,
            _ => return None,
        })
    }
}

/// True for the formats whose weights stay quantised on the device.
pub(crate) fn keeps(format: Format) -> bool {
    use Format::{F8E4m3, Nvfp4, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    matches!(format, Q4_0 | Q8_0 | Q4K | Q5K | Q6K | F8E4m3 | Nvfp4)
}
