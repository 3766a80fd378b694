//! Matrices in halves, as the variants that multiply halves keep them on the device.
//!
//! A matrix is multiplied by the power of two that brings its largest magnitude to 2¹⁴ … 2¹⁵, then rounded to F16; the
//! products divide their sums by it. A power of two changes no digit, and BF16 has fewer digits than F16: nothing is lost
//! of such a matrix but what is below 2⁻²⁹ of its largest value. All threads work on it, a few rows at a time.

use super::matrix::Stored;
use half::f16;
use half::slice::HalfFloatSliceExt;
#[cfg(not(target_family = "wasm"))]
use rayon::prelude::*;

/// Bytes of rows that are converted before they are written, and of a part of a matrix that a thread looks at.
const AT_ONCE: usize = 4 << 20;
/// Values that a thread converts at a time.
const BLOCK: usize = 256;

/// The largest exponent of values in `stored`, as F32 stores it.
pub(super) fn exponent(stored: Stored, bytes: &[u8]) -> u32 {
    #[cfg(not(target_family = "wasm"))]
    let parts = bytes.par_chunks(AT_ONCE / 16);
    #[cfg(target_family = "wasm")]
    let parts = bytes.chunks(AT_ONCE / 16);
    let largest = parts.map(|part| largest(stored, part)).max().unwrap_or(0);
    let bits = match stored {
        Stored::Bf16 => largest << 16,
        Stored::F16 => f16::from_bits(largest as u16).to_f32().to_bits(),
        Stored::F32 => largest,
    };
    bits >> 23
}

/// The largest magnitude as it is stored: magnitudes order as their bits do.
fn largest(stored: Stored, bytes: &[u8]) -> u32 {
    if stored == Stored::F32 {
        let words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]) & 0x7fff_ffff);
        words.max().unwrap_or(0)
    } else {
        let words = bytes.chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]]) & 0x7fff);
        words.max().unwrap_or(0).into()
    }
}

/// 2^e with the e that brings values of this stored exponent to 2¹⁴ … 2¹⁵: what narrow.wgsl does to activations.
pub(super) fn unit(exponent: u32) -> f32 {
    let e = (14 - (exponent as i32 - 127)).clamp(-120, 120);
    f32::from_bits(((127 + e) as u32) << 23)
}

/// Hands rows of `row_bytes` bytes in `stored` to `write` as rows of `stride` bytes in halves times `unit`, zeros behind
/// them, with the offset at which they belong.
pub(super) fn write(
    stored: Stored,
    bytes: &[u8],
    row_bytes: usize,
    stride: usize,
    unit: f32,
    mut write: impl FnMut(usize, &[u8]),
) {
    if row_bytes == 0 {
        return;
    }
    let at_once = (AT_ONCE / stride).max(1);
    let mut converted = vec![0; stride * at_once.min(bytes.len() / row_bytes)];
    for (part, rows) in bytes.chunks(row_bytes * at_once).enumerate() {
        let converted = &mut converted[..rows.len() / row_bytes * stride];
        #[cfg(not(target_family = "wasm"))]
        let pairs = converted.par_chunks_mut(stride).zip(rows.par_chunks(row_bytes));
        #[cfg(target_family = "wasm")]
        let pairs = converted.chunks_mut(stride).zip(rows.chunks(row_bytes));
        pairs.for_each(|(to, row)| convert(stored, row, unit, to));
        write(part * at_once * stride, converted);
    }
}

/// The values of `row` in halves times `unit` to the front of `to`.
fn convert(stored: Stored, row: &[u8], unit: f32, to: &mut [u8]) {
    let mut values = [0.0f32; BLOCK];
    let mut halves = [f16::ZERO; BLOCK];
    for (row, to) in row.chunks(BLOCK * stored.size()).zip(to.chunks_mut(2 * BLOCK)) {
        let count = row.len() / stored.size();
        let (values, halves) = (&mut values[..count], &mut halves[..count]);
        match stored {
            Stored::F32 => {
                for (value, w) in values.iter_mut().zip(row.chunks_exact(4)) {
                    *value = f32::from_le_bytes([w[0], w[1], w[2], w[3]]);
                }
            }
            Stored::Bf16 => {
                for (value, w) in values.iter_mut().zip(row.chunks_exact(2)) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes([w[0], w[1]])) << 16);
                }
            }
            Stored::F16 => {
                for (half, w) in halves.iter_mut().zip(row.chunks_exact(2)) {
                    *half = f16::from_le_bytes([w[0], w[1]]);
                }
                halves.convert_to_f32_slice(values);
            }
        }
        values.iter_mut().for_each(|value| *value *= unit);
        halves.convert_from_f32_slice(values);
        for (to, half) in to.chunks_exact_mut(2).zip(halves) {
            to.copy_from_slice(&half.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type comes out as its values times the unit, padded, whatever the number of rows and the width.
    #[test]
    fn rows_are_scaled_rounded_and_padded() {
        for (rows, width) in [(3usize, 5usize), (1, 700), (9, 300)] {
            let values: Vec<f32> = (0..rows * width)
                .map(|i| (i as f32 - 7.0) / 1024.0)
                .map(|v| half::bf16::from_f32(v).to_f32())
                .collect();
            let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            for stored in Stored::ALL {
                let bytes: Vec<u8> = match stored {
                    Stored::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    Stored::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                    Stored::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                };
                let unit = unit(exponent(stored, &bytes));
                assert!((16384.0..32768.0).contains(&(largest * unit)), "{largest} times {unit}");
                let stride = (2 * width).next_multiple_of(64);
                let mut found = vec![0xff; rows * stride];
                write(stored, &bytes, width * stored.size(), stride, unit, |at, part| {
                    found[at..at + part.len()].copy_from_slice(part);
                });
                for (row, found) in found.chunks(stride).enumerate() {
                    for (i, half) in found.chunks(2).enumerate() {
                        let expected = if i < width { values[row * width + i] * unit } else { 0.0 };
                        assert_eq!(f16::from_le_bytes([half[0], half[1]]).to_f32(), expected, "{stored:?} {row} {i}");
                    }
                }
            }
        }
    }
}
