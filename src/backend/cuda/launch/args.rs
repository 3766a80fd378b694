//! Arguments of kernels, checked against the parameters that a kernel declares.

use super::tensor_map::{Description, Encoded, TensorMap};
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::program::Parameter;
use crate::backend::cuda::memory::allocation::{Allocation, Location};
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;
use std::ffi::c_void;
use std::sync::Arc;

/// An argument of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Read(&'a CudaTensor),
    Write(&'a CudaTensor),
    Map(&'a TensorMap),
    /// A null pointer, for a tensor that the kernel was compiled to ignore.
    Absent,
    U32(usize),
    F32(f32),
}

impl<'a> Arg<'a> {
    /// An input that may be absent.
    pub(crate) fn optional(tensor: Option<&'a CudaTensor>) -> Self {
        tensor.map_or(Arg::Absent, Arg::Read)
    }

    /// The scales of an FP8 operand that the kernel reads.
    pub(crate) fn read_scales(operand: &'a CudaTensor) -> Self {
        Self::optional(operand.scales())
    }

    /// The scales of an operand that the kernel writes, if it is in FP8.
    pub(crate) fn write_scales(operand: &'a CudaTensor) -> Self {
        operand.scales().map_or(Arg::Absent, Arg::Write)
    }

    /// The memory that the kernel accesses through the argument.
    pub(crate) fn allocation(self) -> Option<&'a Arc<Allocation>> {
        match self {
            Arg::Read(tensor) | Arg::Write(tensor) => Some(tensor.allocation()),
            Arg::Map(map) => Some(&map.allocation),
            Arg::Absent | Arg::U32(_) | Arg::F32(_) => None,
        }
    }

    /// The argument's value, if it has the type of the parameter.
    pub(crate) fn bind(self, parameter: Parameter) -> Option<Bound> {
        match (self, parameter) {
            (Arg::Read(tensor), Parameter::Tensor { elements, mutable: false })
            | (Arg::Write(tensor), Parameter::Tensor { elements, mutable: true }) => {
                let fits = elements.is_none_or(|dtype| dtype == tensor.dtype());
                fits.then(|| Bound::Pointer(tensor.allocation().location()))
            }
            (Arg::Map(map), Parameter::Map) => Some(Bound::Map(map.description.clone())),
            (Arg::Absent, Parameter::Tensor { .. }) => Some(Bound::Pointer(Location::Address(0))),
            (Arg::U32(value), Parameter::U32) => u32::try_from(value).ok().map(Bound::U32),
            (Arg::F32(value), Parameter::F32) => Some(Bound::F32(value)),
            _ => None,
        }
    }
}

/// An argument that has its parameter's type. Its address may not be known yet, and it keeps no
/// allocation alive.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    Pointer(Location),
    Map(Description),
    U32(u32),
    F32(f32),
}

impl Bound {
    /// The value with its address; an error in a recording that is still being made.
    pub(crate) fn value(&self) -> Result<Value> {
        Ok(match self {
            Bound::Pointer(location) => Value::Address(location.address()?),
            Bound::Map(description) => Value::Map(description.encode()?),
            Bound::U32(value) => Value::U32(*value),
            Bound::F32(value) => Value::F32(*value),
        })
    }
}

/// A value in the form that the driver copies.
pub(crate) enum Value {
    Address(u64),
    Map(Encoded),
    U32(u32),
    F32(f32),
}

impl Value {
    /// The address of the value for the driver.
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        let value: *const c_void = match self {
            Value::Address(value) => (&raw const *value).cast(),
            Value::Map(value) => (&raw const *value).cast(),
            Value::U32(value) => (&raw const *value).cast(),
            Value::F32(value) => (&raw const *value).cast(),
        };
        value.cast_mut()
    }
}
