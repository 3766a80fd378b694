//! A tensor in the host's memory, as input and output of a backend.

use super::dtype::{DType, widen, words};
use crate::error::Result;
use crate::reserve;
use bytes::Bytes;
use std::fmt;

/// Row-major little-endian elements with a shape, in shared immutable memory: a slice of a mapped
/// file, of the binary itself, or its own bytes. Cloning it copies nothing.
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl HostTensor {
    /// Takes `bytes` as elements of `dtype` in `shape`; `None` if the lengths disagree.
    pub fn new(dtype: DType, shape: &[usize], bytes: Bytes) -> Option<Self> {
        let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
        (elements.checked_mul(dtype.size())? == bytes.len()).then(|| Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// Copies values into a tensor of F32.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        Self::from_pod(DType::F32, shape, values)
    }

    /// Copies values into a tensor of U32.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_u32(shape: &[usize], values: &[u32]) -> Self {
        Self::from_pod(DType::U32, shape, values)
    }

    /// Copies values into a tensor of U8.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_u8(shape: &[usize], values: &[u8]) -> Self {
        Self::from_pod(DType::U8, shape, values)
    }

    /// As [`HostTensor::from_f32`]; a failed allocation is an error.
    pub(crate) fn try_from_f32(shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::try_from_pod(DType::F32, shape, values)
    }

    /// As [`HostTensor::from_u32`]; a failed allocation is an error.
    pub(crate) fn try_from_u32(shape: &[usize], values: &[u32]) -> Result<Self> {
        Self::try_from_pod(DType::U32, shape, values)
    }

    /// As [`HostTensor::from_u8`]; a failed allocation is an error.
    pub(crate) fn try_from_u8(shape: &[usize], values: &[u8]) -> Result<Self> {
        Self::try_from_pod(DType::U8, shape, values)
    }

    /// Values rounded to `dtype`, one of the floating types.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn rounded(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        let halves = |bits: &dyn Fn(f32) -> u16| {
            let halves: Vec<u16> = values.iter().map(|&v| bits(v)).collect();
            Self::from_pod(dtype, shape, &halves)
        };
        match dtype {
            DType::F16 => halves(&|v| half::f16::from_f32(v).to_bits()),
            DType::Bf16 => halves(&|v| half::bf16::from_f32(v).to_bits()),
            _ => Self::from_f32(shape, values),
        }
    }

    fn from_pod<T: bytemuck::NoUninit>(dtype: DType, shape: &[usize], values: &[T]) -> Self {
        Self::filled(dtype, shape, Bytes::copy_from_slice(bytemuck::cast_slice(values)))
    }

    fn try_from_pod<T: bytemuck::NoUninit>(dtype: DType, shape: &[usize], values: &[T]) -> Result<Self> {
        let bytes = reserve::copied(bytemuck::cast_slice::<T, u8>(values), &format!("a tensor of {shape:?}"))?;
        Ok(Self::filled(dtype, shape, bytes.into()))
    }

    /// A tensor of `bytes` that fill its shape.
    fn filled(dtype: DType, shape: &[usize], bytes: Bytes) -> Self {
        let values = bytes.len() / dtype.size();
        Self::new(dtype, shape, bytes).unwrap_or_else(|| panic!("{values} values do not fill the shape {shape:?}"))
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, outermost first; empty for a single value.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same elements under another shape; `None` if that shape has another number of elements.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        Self::new(self.dtype, shape, self.bytes.clone())
    }

    /// Every element as an f32: exact for the floating types and U8.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        widen(self.dtype, &self.bytes, &mut values);
        values
    }

    /// True if no element is infinite or NaN.
    pub fn is_finite(&self) -> bool {
        // Infinities and NaNs have an exponent of ones.
        let halves = |exponent: u16| {
            self.bytes.chunks_exact(2).all(|pair| u16::from_le_bytes([pair[0], pair[1]]) & exponent != exponent)
        };
        match self.dtype {
            DType::F32 => words(&self.bytes).all(|word| f32::from_bits(word).is_finite()),
            DType::F16 => halves(0x7c00),
            DType::Bf16 => halves(0x7f80),
            DType::U32 | DType::U8 => true,
        }
    }

    /// As [`HostTensor::to_f32`]; a failed allocation is an error.
    pub(crate) fn try_to_f32(&self) -> Result<Vec<f32>> {
        let mut values = reserve::zeros(self.len(), &format!("a tensor of {:?}", self.shape))?;
        widen(self.dtype, &self.bytes, &mut values);
        Ok(values)
    }

    /// The elements of a U32 tensor; `None` for other types.
    pub fn to_u32(&self) -> Option<Vec<u32>> {
        (self.dtype == DType::U32).then(|| words(&self.bytes).collect())
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, bytes: Vec<u8>) -> HostTensor {
        HostTensor::new(dtype, &[bytes.len() / dtype.size()], bytes.into()).unwrap()
    }

    #[test]
    fn the_bytes_must_fill_the_shape() {
        let new = |dtype, shape: &[usize], bytes: usize| HostTensor::new(dtype, shape, vec![0; bytes].into()).is_some();
        assert!(new(DType::F32, &[2, 3], 24) && new(DType::Bf16, &[2, 3], 12) && new(DType::U8, &[2, 3], 6));
        assert!(new(DType::F32, &[], 4), "a single value");
        assert!(new(DType::F32, &[0, 3], 0) && new(DType::F32, &[usize::MAX, 0], 0));
        assert!(!new(DType::F32, &[2, 3], 23) && !new(DType::F32, &[2, 3], 25) && !new(DType::F32, &[], 0));
        // The size overflows to the right length.
        assert!(!new(DType::U8, &[usize::MAX, usize::MAX], 1));
        assert!(!new(DType::U8, &[1 << 32, 1 << 32], 0));
        assert!(!new(DType::F32, &[1 << 62], 0) && !new(DType::F16, &[1 << 63], 0));
    }

    #[test]
    #[should_panic(expected = "5 values do not fill the shape [2, 3]")]
    fn values_must_fill_the_shape() {
        HostTensor::from_f32(&[2, 3], &[0.0; 5]);
    }

    #[test]
    fn reshaping_shares_the_elements() {
        let tensor = HostTensor::from_u32(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let reshaped = tensor.reshaped(&[3, 1, 2]).unwrap();
        assert_eq!((reshaped.shape(), reshaped.dtype(), reshaped.len()), (&[3, 1, 2][..], DType::U32, 6));
        assert_eq!(reshaped.bytes().as_ptr(), tensor.bytes().as_ptr());
        assert_eq!(reshaped.to_u32().unwrap(), [1, 2, 3, 4, 5, 6]);
        assert!(tensor.reshaped(&[3, 3]).is_none() && tensor.reshaped(&[]).is_none());
        assert!(tensor.reshaped(&[usize::MAX, 6]).is_none());
    }

    #[test]
    fn elements_are_read_at_any_alignment() {
        assert_eq!(HostTensor::from_u8(&[3], &[0, 7, 255]).to_f32(), [0.0, 7.0, 255.0]);
        assert_eq!(HostTensor::from_u32(&[2], &[0, 1 << 24]).to_f32(), [0.0, 16_777_216.0]);
        assert_eq!(HostTensor::from_f32(&[1], &[1.0]).to_u32(), None);
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE / 4.0, f32::INFINITY, f32::from_bits(0x7fa0_0001)];
        let mut bytes = vec![0xff];
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        let odd = HostTensor::new(DType::F32, &[5], Bytes::from(bytes).slice(1..)).unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&odd.to_f32()), bits(&values));
    }

    /// The value of sign, exponent and fraction in an IEEE format of this width.
    fn meaning(bits: u16, fraction_bits: u32) -> f64 {
        let exponent_bits = 15 - fraction_bits;
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
        let exponent = i32::from(bits >> fraction_bits & ((1 << exponent_bits) - 1));
        let bias = (1 << (exponent_bits - 1)) - 1;
        if exponent == (1 << exponent_bits) - 1 {
            return if fraction == 0.0 { sign * f64::INFINITY } else { f64::NAN };
        }
        if exponent == 0 {
            return sign * fraction * 2f64.powi(1 - bias);
        }
        sign * (1.0 + fraction) * 2f64.powi(exponent - bias)
    }

    #[test]
    fn every_f16_is_widened_exactly() {
        for (dtype, fraction_bits) in [(DType::F16, 10), (DType::Bf16, 7)] {
            let all = tensor(dtype, (0..=u16::MAX).flat_map(u16::to_le_bytes).collect());
            for (bits, value) in (0..=u16::MAX).zip(all.to_f32()) {
                let expected = meaning(bits, fraction_bits);
                let same = f64::from(value).to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
                assert!(same, "{dtype} {bits:#06x} became {value}, not {expected}");
            }
        }
    }
}
