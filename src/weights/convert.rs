//! Stored types that no backend reads, and their types in memory. The reference casts every
//! floating type; a conversion here is exact, except that F64 is rounded to F32.

use super::StoredType;
use crate::tensor::{DType, Format};
use bytes::Bytes;
use half::bf16;

/// The type in memory of elements stored as `stored`; `None` for types that are not floating.
pub(super) fn in_memory(stored: StoredType) -> Option<DType> {
    match stored {
        StoredType::F32 | StoredType::F64 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::BF16 | StoredType::F8_E4M3 | StoredType::F8_E5M2 => Some(DType::Bf16),
        _ => None,
    }
}

/// True if the type in memory differs from the stored one.
pub(super) fn is_converted(stored: StoredType) -> bool {
    matches!(stored, StoredType::F64 | StoredType::F8_E4M3 | StoredType::F8_E5M2)
}

/// Elements of `stored`, converted to the type of [`in_memory`]; shared, not copied, if the types
/// are equal.
pub(super) fn convert(stored: StoredType, bytes: Bytes) -> Bytes {
    let eights = |format: Format| {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let mut values = [0.0; 256];
        format.dequantize(&codes, &mut values);
        let table = values.map(|value| bf16::from_f32(value).to_le_bytes());
        bytes.iter().flat_map(|&byte| table[usize::from(byte)]).collect()
    };
    match stored {
        StoredType::F64 => {
            bytes.as_chunks().0.iter().flat_map(|&b| (f64::from_le_bytes(b) as f32).to_le_bytes()).collect()
        }
        StoredType::F8_E4M3 => eights(Format::F8E4m3),
        StoredType::F8_E5M2 => eights(Format::F8E5m2),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(stored: StoredType, bytes: &[u8]) -> Vec<f32> {
        let bytes = convert(stored, Bytes::copy_from_slice(bytes));
        bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect()
    }

    #[test]
    fn eight_bit_floats_are_exact_in_bf16() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        for (stored, format) in [(StoredType::F8_E4M3, Format::F8E4m3), (StoredType::F8_E5M2, Format::F8E5m2)] {
            let mut expected = [0.0; 256];
            format.dequantize(&codes, &mut expected);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&values(stored, &codes)), bits(&expected), "{format}");
        }
    }

    #[test]
    fn doubles_are_rounded_to_singles() {
        let bytes: Vec<u8> = [1.0f64, 0.1, -1e-300, 1e300].iter().flat_map(|value| value.to_le_bytes()).collect();
        let found = convert(StoredType::F64, bytes.into());
        let found: Vec<f32> = found.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(found, [1.0, 0.1, -0.0, f32::INFINITY]);
    }
}
