//! Tensor maps: descriptions of a tensor and of its boxes for TMA, which copies boxes to and from
//! shared memory.

use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::memory::allocation::{Allocation, Location};
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;
use crate::tensor::DType;
use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};
use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Bytes of a row of a box with the widest swizzle.
pub(crate) const BOX_BYTES: usize = 128;

/// Rows of a box of the kernels for Hopper: those of a consumer warpgroup.
pub(crate) const BOX_ROWS: usize = 64;

/// A map in the form that a kernel takes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Encoded(CUtensorMap);

// SAFETY: the driver defines it as a kernel argument of plain bytes.
unsafe impl DeviceRepr for Encoded {}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded")
    }
}

/// A description of a map, encoded once the address is known. It keeps no allocation alive.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    op: &'static str,
    /// BF16 or U8.
    dtype: DType,
    location: Location,
    /// Bytes from the location to the first element.
    start: u64,
    sizes: Vec<u64>,
    /// Bytes.
    strides: Vec<u64>,
    boxes: Vec<u32>,
}

/// A map and the memory that it describes.
#[derive(Debug, Clone)]
pub(crate) struct TensorMap {
    pub description: Description,
    pub allocation: Arc<Allocation>,
}

impl TensorMap {
    /// A BF16 or U8 tensor of `sizes`, innermost first, with rows `stride` elements apart and
    /// contiguous outer dimensions. TMA copies boxes of `box_sizes`, 1 in dimensions past their
    /// end. Rows of a box are 128 or 64 bytes and swizzled over their width. `stride` is a multiple
    /// of 16 bytes.
    pub(crate) fn new(
        op: &'static str,
        tensor: &CudaTensor,
        sizes: &[usize],
        stride: usize,
        box_sizes: &[usize],
    ) -> Self {
        let mut strides = vec![stride];
        for size in &sizes[1..sizes.len() - 1] {
            strides.extend(strides.last().map(|last| last * size));
        }
        Self::part(op, tensor, 0, sizes, &strides, box_sizes)
    }

    /// Maps of a fused projection in FP8: of the codes of queries and keys, with boxes of 64 tokens
    /// and `width` columns, and of the transposed values, with boxes of 64 columns and `width`
    /// tokens.
    pub(crate) fn of_projection(op: &'static str, tensor: &CudaTensor, width: usize) -> [Self; 2] {
        let Some(projection) = tensor.projection() else { unreachable!("a projection in FP8") };
        let part = |start: usize, sizes: [usize; 3]| {
            let [inner, rows, _] = sizes;
            Self::part(op, tensor, start, &sizes, &[inner, inner * rows], &[width, BOX_ROWS])
        };
        [part(0, projection.code_sizes()), part(projection.value_start(), projection.value_sizes())]
    }

    /// As [`TensorMap::new`], from element `start` on and with the strides of all dimensions but
    /// the innermost. The start and the strides are multiples of 16 bytes.
    pub(crate) fn part(
        op: &'static str,
        tensor: &CudaTensor,
        start: usize,
        sizes: &[usize],
        strides: &[usize],
        box_sizes: &[usize],
    ) -> Self {
        let (dtype, allocation) = (tensor.dtype(), tensor.allocation());
        debug_assert!(matches!(dtype, DType::Bf16 | DType::U8), "a map of {dtype}");
        let bytes = |count: usize| (count * dtype.size()) as u64;
        let mut boxes = vec![1u32; sizes.len()];
        boxes.iter_mut().zip(box_sizes).for_each(|(to, size)| *to = *size as u32);
        let description = Description {
            op,
            dtype,
            location: allocation.location(),
            start: bytes(start),
            sizes: sizes.iter().map(|&size| size as u64).collect(),
            strides: strides.iter().map(|&stride| bytes(stride)).collect(),
            boxes,
        };
        Self { description, allocation: allocation.clone() }
    }
}

impl Description {
    /// The map in the form that a kernel takes.
    pub(crate) fn encode(&self) -> Result<Encoded> {
        let Self { op, dtype, location, start, sizes, strides, boxes } = self;
        let elements = match dtype {
            DType::U8 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let swizzle = match boxes[0] as usize * dtype.size() {
            64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            _ => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let steps = vec![1u32; sizes.len()];
        let address = location.address()? + start;
        let mut map = MaybeUninit::<CUtensorMap>::uninit();
        // SAFETY: the arrays hold a number per dimension (the strides one less), and the driver
        // writes the map if it returns success.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                elements,
                sizes.len() as u32,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        encoded.result().map_err(|error| fault(op, error))?;
        // SAFETY: the driver wrote it.
        Ok(Encoded(unsafe { map.assume_init() }))
    }
}
