//! Quantised matrices of cases: random codes, with scales that keep the values in the range of a
//! matrix.

use super::inputs::Inputs;
use super::stored::{Stored, UNEVEN};
use crate::backend::Backend;
use crate::tensor::{FP8_BLOCK, Format, Scaled, Scales, Storage, Weight};
use half::f16;
use std::sync::Arc;

/// The largest magnitude of E4M3 and of E2M1, and the code of an E4M3 NaN without its sign.
const E4M3_MAX: f32 = 448.0;
const E2M1_MAX: f32 = 6.0;
const E4M3_NAN: u8 = 0x7f;
/// The E8M0 code of 2⁰.
const E8M0_ONE: u8 = 127;

impl<B: Backend> Inputs<'_, B> {
    /// A matrix `[n, k]` in any storage, whose gemm preserves the scale of its input.
    pub(super) fn stored(&mut self, stored: Stored, n: usize, k: usize) -> Weight<'static> {
        self.stored_within(stored, n, k, (3.0 / k as f32).sqrt())
    }

    /// A matrix `[n, k]` in any storage, within ±`spread`; FP8 without scales is within ±448.
    pub(super) fn stored_within(&mut self, stored: Stored, n: usize, k: usize, spread: f32) -> Weight<'static> {
        let Some(format) = stored.format() else {
            let Stored::Plain(dtype) = stored else { unreachable!("a storage without a format is of floats") };
            return self.weights(dtype, &[n, k], 0.0, spread).into();
        };
        let len = n * format.bytes(k).expect("a case has whole blocks");
        let mut bytes = self.bytes_of(len);
        if format == Format::F8E4m3 && self.poison() {
            bytes.fill(E4M3_NAN);
        } else if format == Format::F8E4m3 {
            bytes.iter_mut().filter(|code| **code & E4M3_NAN == E4M3_NAN).for_each(|code| *code -= 1);
        }
        for &(at, multiple) in format.f16_scales() {
            let block = format.block();
            let scales = self.draw(len / block.bytes);
            for (bytes, scale) in bytes.chunks_exact_mut(block.bytes).zip(scales) {
                let scale = f16::from_f32(self.or_poison(scale * spread / multiple));
                bytes[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let storage = self.storage(stored, format, [n, k], spread);
        self.count(bytes.len());
        Weight::quantized(storage, &[n, k], bytes.into()).expect("whole rows of the shape")
    }

    /// The storage, with its scales beside the matrix.
    fn storage(&mut self, stored: Stored, format: Format, shape: [usize; 2], spread: f32) -> Storage {
        let [n, k] = shape;
        let largest = if format == Format::I8 { 128.0 } else { E4M3_MAX };
        // A row or a block has a scale between a half and the whole of the largest.
        let part = |v: f32| 0.75 + v / 4.0;
        let tiles = |columns: usize| n.next_multiple_of(128) * columns.next_multiple_of(4);
        let scales = match stored {
            Stored::Plain(_) | Stored::Blocks(_) => return Storage::Plain(format),
            Stored::TensorScale(_) => Scales::Tensor(self.or_poison(spread / largest)),
            Stored::RowScales(_) | Stored::UnevenRowScales(_) => {
                let uneven = |row: usize| match stored {
                    Stored::UnevenRowScales(_) => UNEVEN[row / FP8_BLOCK % UNEVEN.len()],
                    _ => 1.0,
                };
                let scales = self.draw(n).into_iter().enumerate();
                Scales::Rows(scales.map(|(i, v)| self.or_poison(uneven(i) * part(v) * spread / largest)).collect())
            }
            Stored::Mxfp8 => {
                // The powers of two from the one below spread / 448 down.
                let highest = (spread / E4M3_MAX).log2().floor() as i32 + i32::from(E8M0_ONE);
                let codes = self.bytes_of(tiles(k / 32));
                Scales::Mxfp8(codes.into_iter().map(|byte| (highest - i32::from(byte % 8)) as u8).collect())
            }
            Stored::Nvfp4 => {
                let codes = self.bytes_of(tiles(k / 16));
                // Positive, and not NaN.
                let blocks = codes.into_iter().map(|code| code % E4M3_NAN).collect();
                Scales::Nvfp4 { blocks, tensor: self.or_poison(spread / (E4M3_MAX * E2M1_MAX)) }
            }
        };
        let matrix = Scaled::new(format, shape, shape, scales, None).expect("scales of the shape");
        Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 }
    }

    /// Random bytes.
    fn bytes_of(&mut self, count: usize) -> Vec<u8> {
        self.draw(count).into_iter().map(|v| ((v + 1.0) * 127.99) as u8).collect()
    }

    fn or_poison(&self, value: f32) -> f32 {
        if self.poison() { f32::NAN } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::Noise;
    use super::super::stored::QUANTIZED;
    use super::super::tolerance::Precision;
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::future::expect_ready;
    use crate::tensor::DType;

    #[test]
    fn quantised_matrices_are_in_range_or_poison() {
        let b = Cpu::new();
        let precision = Precision { activations: DType::F32, operands: DType::F32 };
        for (name, stored) in QUANTIZED {
            let k = stored.columns().max(96).next_multiple_of(32);
            let values = |poison| {
                let mut inputs = Inputs::of_noise(&b, name, Noise { seed: 1, precision, poison });
                let weight = inputs.stored_within(stored, 37, k, 0.5);
                assert!(weight.storage().is_some(), "{name}");
                expect_ready(weight.whole()).unwrap().to_f32()
            };
            let found = values(false);
            let limit = if stored == Stored::Blocks(Format::F8E4m3) { E4M3_MAX } else { 1.01 };
            let largest = found.iter().fold(0f32, |max, v| max.max(v.abs()));
            assert!(largest <= limit && largest > limit / 10.0, "{name}: {largest}");
            let zeros = found.iter().filter(|v| **v == 0.0).count();
            assert!(zeros * 4 < found.len(), "{name}: {zeros} zeros");
            assert!(values(true).iter().filter(|v| v.is_nan()).count() * 10 > found.len() * 9, "{name}");
        }
    }
}
