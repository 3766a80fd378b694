//! Tensor maps: what Hopper's copy engine knows of a tensor, and of the boxes that it copies to shared memory.

use crate::backend::cuda::driver::device::fault;
use crate::backend::cuda::memory::arena::Memory;
use crate::backend::cuda::memory::layout::Place;
use crate::error::Result;
use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};
use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Bytes of an element.
const ELEMENT: u64 = 2;

/// The map as a kernel takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Encoded(CUtensorMap);

// SAFETY: it is what the driver defines as a kernel's argument, plain bytes.
unsafe impl DeviceRepr for Encoded {}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded")
    }
}

/// What a map says: encoded when it is known where the tensor is.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    verb: &'static str,
    place: Place,
    /// Bytes between the place and the first element.
    start: u64,
    sizes: Vec<u64>,
    /// Bytes.
    strides: Vec<u64>,
    boxes: Vec<u32>,
}

/// A map with the memory that it is of.
#[derive(Debug, Clone)]
pub(crate) struct TensorMap {
    pub description: Description,
    pub memory: Arc<Memory>,
}

impl TensorMap {
    /// A BF16 tensor of `sizes`, innermost first, whose rows are `stride` elements apart and whose other parts follow each
    /// other; the engine copies `box_sizes` of it at a time, 1 where they end. Rows of a box are 64 elements, or 32, and
    /// swizzled as wide as they are. `stride` is a multiple of eight.
    pub(crate) fn new(
        verb: &'static str,
        memory: &Arc<Memory>,
        sizes: &[usize],
        stride: usize,
        box_sizes: &[usize],
    ) -> Self {
        let mut strides = vec![stride];
        for size in &sizes[1..sizes.len() - 1] {
            strides.extend(strides.last().map(|last| last * size));
        }
        Self::part(verb, memory, 0, sizes, &strides, box_sizes)
    }

    /// As [`TensorMap::new`], of what starts `start` elements into the memory and whose parts are `strides` elements apart,
    /// those of rows first. All of them are multiples of eight.
    pub(crate) fn part(
        verb: &'static str,
        memory: &Arc<Memory>,
        start: usize,
        sizes: &[usize],
        strides: &[usize],
        box_sizes: &[usize],
    ) -> Self {
        let mut boxes = vec![1u32; sizes.len()];
        boxes.iter_mut().zip(box_sizes).for_each(|(to, size)| *to = *size as u32);
        let description = Description {
            verb,
            place: memory.place(),
            start: start as u64 * ELEMENT,
            sizes: sizes.iter().map(|&size| size as u64).collect(),
            strides: strides.iter().map(|&stride| stride as u64 * ELEMENT).collect(),
            boxes,
        };
        Self { description, memory: memory.clone() }
    }
}

impl Description {
    /// The map as a kernel takes it.
    pub(crate) fn encode(&self) -> Result<Encoded> {
        let Self { verb, place, start, sizes, strides, boxes } = self;
        let swizzle = match u64::from(boxes[0]) * ELEMENT {
            64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            _ => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let steps = vec![1u32; sizes.len()];
        let address = place.address()? + start;
        let mut map = MaybeUninit::<CUtensorMap>::uninit();
        // SAFETY: the arrays hold as many numbers as the tensor has dimensions (the strides one less), and the map is
        // written where the driver returns success.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
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
        encoded.result().map_err(|error| fault(verb, error))?;
        // SAFETY: the driver wrote it.
        Ok(Encoded(unsafe { map.assume_init() }))
    }
}
