//! Stored types that no backend reads, and their types in memory. The reference casts every
//! floating type; a conversion here is exact, except that F64 is rounded to F32.

use super::StoredType;
use crate::tensor::DType;
use bytes::Bytes;
use half::{bf16, f16};

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
    let eights = |value: fn(u8) -> f32| {
        let table: Vec<[u8; 2]> = (0..=u8::MAX).map(|byte| bf16::from_f32(value(byte)).to_le_bytes()).collect();
        bytes.iter().flat_map(|&byte| table[usize::from(byte)]).collect()
    };
    match stored {
        StoredType::F64 => {
            bytes.as_chunks().0.iter().flat_map(|&b| (f64::from_le_bytes(b) as f32).to_le_bytes()).collect()
        }
        StoredType::F8_E4M3 => eights(e4m3),
        StoredType::F8_E5M2 => eights(e5m2),
        _ => bytes,
    }
}

/// A float with 4 exponent bits and 3 mantissa bits, without infinities (`float8_e4m3fn`).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

/// The upper half of an F16 (`float8_e5m2`).
fn e5m2(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(stored: StoredType, bytes: &[u8]) -> Vec<f32> {
        let bytes = convert(stored, Bytes::copy_from_slice(bytes));
        bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect()
    }

    /// The expected values are those of the OCP's 8-bit floating-point specification.
    #[test]
    fn eight_bit_floats_have_their_published_values() {
        let bytes = [0x00, 0x80, 0x01, 0x07, 0x08, 0x38, 0xb8, 0x7e, 0xfe];
        let e4m3 = [0.0, -0.0, 2f32.powi(-9), 7.0 * 2f32.powi(-9), 2f32.powi(-6), 1.0, -1.0, 448.0, -448.0];
        assert_eq!(values(StoredType::F8_E4M3, &bytes), e4m3);
        assert!(values(StoredType::F8_E4M3, &[0x7f, 0xff]).iter().all(|value| value.is_nan()));
        let bytes = [0x00, 0x01, 0x03, 0x04, 0x3c, 0xbc, 0x7b, 0x7c, 0xfc];
        let [small, large] = [2f32.powi(-16), 57344.0];
        let infinity = f32::INFINITY;
        let e5m2 = [0.0, small, 3.0 * small, 4.0 * small, 1.0, -1.0, large, infinity, -infinity];
        assert_eq!(values(StoredType::F8_E5M2, &bytes), e5m2);
        assert!(values(StoredType::F8_E5M2, &[0x7d]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn doubles_are_rounded_to_singles() {
        let bytes: Vec<u8> = [1.0f64, 0.1, -1e-300, 1e300].iter().flat_map(|value| value.to_le_bytes()).collect();
        let found = convert(StoredType::F64, bytes.into());
        let found: Vec<f32> = found.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(found, [1.0, 0.1, -0.0, f32::INFINITY]);
    }
}
