//! Element types, and their conversion to F32.

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
    /// True for the floating-point types.
    pub fn is_floating(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
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

/// Stored U32 elements.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// Writes the elements stored in `bytes` to `out` as f32. Both must have the same number of
/// elements.
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
