//! Matrices in halves, as the variants that multiply halves keep them on the device.
//!
//! A matrix is multiplied by the power of two that brings its largest magnitude to 2¹⁴ … 2¹⁵, then rounded to F16; the
//! products divide their sums by it. A power of two changes no digit, and BF16 has fewer digits than F16: nothing is lost
//! of such a matrix but what is below 2⁻²⁹ of its largest value. The host finds the largest magnitude while the rows pass, with
//! all its threads; the device converts.

use super::gpu::Gpu;
use super::matrix::{Piece, Stored};
use super::program::{Program, wgsl};
use crate::error::Result;
use half::f16;
#[cfg(not(target_family = "wasm"))]
use rayon::prelude::*;

/// Bytes that a thread looks at.
const AT_ONCE: usize = 256 << 10;
/// Values that a thread of the device converts, and threads of a workgroup.
const EIGHT: usize = 8;
const GROUP: usize = 256;

/// The largest exponent of values in `stored`, as F32 stores it.
pub(super) fn exponent(stored: Stored, bytes: &[u8]) -> u32 {
    #[cfg(not(target_family = "wasm"))]
    let parts = bytes.par_chunks(AT_ONCE);
    #[cfg(target_family = "wasm")]
    let parts = bytes.chunks(AT_ONCE);
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

/// The e that brings values of this stored exponent to 2¹⁴ … 2¹⁵: what narrow.wgsl does to activations.
pub(super) fn exponent_of_unit(exponent: u32) -> i32 {
    (14 - (exponent as i32 - 127)).clamp(-120, 120)
}

/// 2^e.
pub(super) fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((127 + e) as u32) << 23)
}

fn program(stored: Stored) -> Program {
    Program::new("narrow_matrix", &[wgsl!("common"), wgsl!("narrow_matrix")]).with("TYPE", stored.number())
}

/// Every program of this file.
pub(super) fn programs() -> Vec<Program> {
    Stored::ALL.map(program).to_vec()
}

/// Rows of `width` values in `stored` as halves times 2^e: where they are, but for F32, whose memory is let go of.
pub(super) fn narrow(gpu: &Gpu, verb: &str, stored: Stored, width: usize, from: Piece, e: i32) -> Result<Piece> {
    let (stored_row, row) = (stored.padded(width), Stored::F16.padded(width));
    let rows = from.bytes as usize / (stored_row * stored.size());
    let mut to = Piece { bytes: (rows * row * Stored::F16.size()) as u64, memory: from.memory.clone(), ..from };
    let mut stored_arg = gpu.empty();
    if stored == Stored::F32 {
        to.memory = gpu.new_memory(verb, &[rows, width], to.bytes)?;
        from.memory.let_go();
        stored_arg = from.arg();
    }
    let eights = rows * row / EIGHT;
    let parameters = [eights, row / EIGHT, stored_row / EIGHT].map(|count| count as u32);
    let parameters = [&parameters[..], &[e as u32]].concat();
    gpu.run(&program(stored), &[stored_arg, to.arg()], parameters, eights.div_ceil(GROUP))?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Filling;
    use super::super::tensor::WebGpuTensor;
    use super::super::{Adapters, Shaders};
    use super::*;
    use crate::tensor::{DType, HostTensor};
    use pollster::block_on;
    use std::io::Write;

    /// Every F16 and every BF16, and values of F32 at and around all that rounding turns on: the device makes of them what
    /// the host does, and zeros behind every row.
    #[test]
    fn the_device_rounds_as_the_host_does() {
        let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
        let Ok(gpu) = block_on(Gpu::open(Adapters::Any, Shaders::Half, u64::MAX)).map_err(skip) else { return };
        let words: Vec<u32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32().to_bits()).collect();
        // Between two halves, on either side of the middle, and in the middle.
        let between =
            words.iter().flat_map(|bits| [0, 0x0fff, 0x1000, 0x1001, 0x1fff].map(|more| bits.wrapping_add(more)));
        let f32s: Vec<u8> = between.flat_map(u32::to_le_bytes).collect();
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (stored, dtype, bytes) in
            [(Stored::F32, DType::F32, f32s), (Stored::Bf16, DType::Bf16, all.clone()), (Stored::F16, DType::F16, all)]
        {
            // No width of whole steps: rows are padded.
            let width = 37;
            let row = width * dtype.size();
            let rows = bytes.len() / row;
            let tensor = HostTensor::new(dtype, &[rows, width], bytes[..rows * row].to_vec().into()).unwrap();
            for e in [0, -3, 14] {
                let mut filling = Filling::new(&gpu, "test", stored, [rows, width], 1).unwrap();
                filling.write(0, 0, &tensor).unwrap();
                let piece = filling.written().unwrap().remove(0);
                let piece = narrow(&gpu, "test", stored, width, piece, e).unwrap();
                let stride = Stored::F16.padded(width);
                let found = WebGpuTensor::new(&[rows, stride], DType::F16, piece.memory);
                let found = block_on(gpu.download(&found)).unwrap();
                let half = |at: usize| f16::from_le_bytes([found.bytes()[2 * at], found.bytes()[2 * at + 1]]);
                for (i, value) in tensor.to_f32().into_iter().enumerate() {
                    let (expected, found) =
                        (f16::from_f32(value * power_of_two(e)), half(i / width * stride + i % width));
                    // The device may take F32 below 2^-126 for zero.
                    let same = expected.to_bits() == found.to_bits() || value.is_nan() && found.is_nan();
                    assert!(
                        same || !value.is_normal() && found == f16::ZERO,
                        "{value:e} · 2^{e} from {dtype}: {found:e}"
                    );
                }
                let behind = (0..rows).flat_map(|row| (width..stride).map(move |i| row * stride + i));
                assert!(behind.map(half).all(|half| half.to_bits() == 0), "{dtype}: zeros behind the rows");
            }
        }
    }

    #[test]
    fn the_largest_magnitude_comes_below_the_end_of_halves() {
        let values = [0.001f32, -3.25, 1.5];
        for stored in Stored::ALL {
            let bytes: Vec<u8> = match stored {
                Stored::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Stored::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                Stored::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            };
            let unit = power_of_two(exponent_of_unit(exponent(stored, &bytes)));
            assert!((16384.0..32768.0).contains(&(3.25 * unit)), "{unit}");
        }
        assert_eq!((exponent(Stored::Bf16, &[]), exponent_of_unit(0), exponent_of_unit(255)), (0, 120, -114));
    }
}
