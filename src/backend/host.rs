//! A tensor in the host's memory: what goes into a backend and what comes out of it.

use bytes::Bytes;
use std::fmt;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// Unsigned 32-bit integers: token ids, lengths, step counters.
    U32,
    /// Bytes: pictures.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::U32 => "U32",
            DType::U8 => "U8",
        })
    }
}

/// Row-major little-endian elements with a shape, in memory that is shared and never changed: a slice of a mapped
/// file, of the binary itself, or bytes of its own. Cloning it copies nothing.
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl HostTensor {
    /// Takes `bytes` as elements of `dtype` in `shape`; `None` when the lengths do not agree.
    pub fn new(dtype: DType, shape: &[usize], bytes: Bytes) -> Option<Self> {
        let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
        (elements.checked_mul(dtype.size())? == bytes.len()).then(|| Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// Takes a vector over as a tensor of F32.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        Self::from_pod(DType::F32, shape, values)
    }

    /// Takes a vector over as a tensor of U32.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_u32(shape: &[usize], values: &[u32]) -> Self {
        Self::from_pod(DType::U32, shape, values)
    }

    /// Takes a vector over as a tensor of U8.
    ///
    /// # Panics
    /// When `shape` does not hold as many elements as `values`.
    pub fn from_u8(shape: &[usize], values: &[u8]) -> Self {
        Self::from_pod(DType::U8, shape, values)
    }

    fn from_pod<T: bytemuck::NoUninit>(dtype: DType, shape: &[usize], values: &[T]) -> Self {
        let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        Self::new(dtype, shape, bytes)
            .unwrap_or_else(|| panic!("{} values do not fill the shape {shape:?}", values.len()))
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

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as they are stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same elements under another shape; `None` when that shape holds another number of them.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        Self::new(self.dtype, shape, self.bytes.clone())
    }

    /// Every element as an f32: exact for the floating types and U8.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        widen(self.dtype, &self.bytes, &mut values);
        values
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

/// Stored U32 elements.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// Writes the elements stored in `bytes` to `out` as f32; both must hold the same number of them.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), out.len() * dtype.size());
    let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    let word = |quad: &[u8]| u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]);
    match dtype {
        DType::F32 => out.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(o, b)| *o = f32::from_bits(word(b))),
        DType::Bf16 => {
            out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| *o = f32::from_bits(u32::from(half(b)) << 16));
        }
        DType::F16 => {
            out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| *o = half::f16::from_bits(half(b)).to_f32());
        }
        DType::U32 => out.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(o, b)| *o = word(b) as f32),
        DType::U8 => out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = f32::from(b)),
    }
}
