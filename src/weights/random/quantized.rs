//! Random matrices in a quantised format: random codes, with scales that keep the values in the
//! range of a matrix.

use super::{MARGIN, mixed};
use crate::numbers::fnv1a;
use crate::tensor::{Format, Scaled, Scales, Storage, Weight};
use bytes::Bytes;
use half::f16;
use std::sync::Arc;

/// The largest magnitudes of E4M3 and of E2M1, and the code of an E4M3 NaN without its sign.
const E4M3_MAX: f32 = 448.0;
const E2M1_MAX: f32 = 6.0;
const E4M3_NAN: u8 = 0x7f;

/// The formats that matrices of [`RandomTensors`](super::RandomTensors) may have, by name. FP8 has
/// a scale for the tensor, and NVFP4 scales of blocks.
pub const RANDOM_FORMATS: [(&str, Format); 7] = [
    ("q4_0", Format::Q4_0),
    ("q8_0", Format::Q8_0),
    ("q4_k", Format::Q4K),
    ("q5_k", Format::Q5K),
    ("q6_k", Format::Q6K),
    ("f8_e4m3", Format::F8E4m3),
    ("nvfp4", Format::Nvfp4),
];

/// Whole blocks of a format, at least `len` bytes and a margin. Scales inside have random signs, so
/// that the mean is about 0; each contributes at most ±`spread` to a value.
pub(super) fn blocks(format: Format, len: usize, spread: f32) -> Bytes {
    let block = format.block().bytes;
    let mut bytes = random_bytes((len + MARGIN).next_power_of_two() / block * block, 0);
    if format == Format::F8E4m3 {
        bytes.iter_mut().filter(|code| **code & E4M3_NAN == E4M3_NAN).for_each(|code| *code -= 1);
    }
    for &(at, multiple) in format.f16_scales() {
        for (i, block) in bytes.chunks_exact_mut(block).enumerate() {
            let sign = if mixed((i + at) as u64) & 1 == 0 { 1.0 } else { -1.0 };
            block[at..at + 2].copy_from_slice(&f16::from_f32(sign * spread / multiple).to_le_bytes());
        }
    }
    bytes.into()
}

/// The matrix `[n, k]` of this name, from the array that `blocks` makes. `None` if its rows are not
/// whole blocks.
pub(super) fn matrix(
    format: Format,
    name: &str,
    shape: [usize; 2],
    blocks: impl FnOnce(usize, f32) -> Bytes,
) -> Option<Weight<'static>> {
    let [n, k] = shape;
    let spread = (3.0 / k as f32).sqrt();
    let len = n * format.bytes(k)?;
    let all = blocks(len, spread);
    let block = format.block().bytes;
    let start = (mixed(fnv1a(name.as_bytes())) % ((all.len() - len) / block) as u64) as usize * block;
    let scales = match format {
        Format::F8E4m3 => Scales::Tensor(spread / E4M3_MAX),
        Format::Nvfp4 => {
            let mut codes =
                random_bytes(n.next_multiple_of(128) * (k / 16).next_multiple_of(4), fnv1a(name.as_bytes()));
            codes.iter_mut().for_each(|code| *code %= E4M3_NAN);
            Scales::Nvfp4 { blocks: codes.into(), tensor: spread / (E4M3_MAX * E2M1_MAX) }
        }
        _ => Scales::None,
    };
    let storage = match scales {
        Scales::None => Storage::Plain(format),
        scales => {
            let matrix = Scaled::new(format, shape, shape, scales, None).ok()?;
            Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 }
        }
    };
    Weight::quantized(storage, &shape, all.slice(start..start + len))
}

/// Random bytes.
fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let words = (0..count.div_ceil(8) as u64).map(|i| mixed(seed.wrapping_add(i)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::RandomTensors;
    use super::*;
    use crate::future::expect_ready;

    #[test]
    fn matrices_of_blocks_are_quantised_and_in_range() {
        for (_, format) in RANDOM_FORMATS {
            let random = RandomTensors::quantized(format);
            let spread = (3f32 / 512.0).sqrt();
            for name in ["layers.0.attention.to_q.weight", "layers.0.mlp.up_proj.weight"] {
                let weight = random.stored(name, &[96, 512]);
                assert_eq!(weight.storage().map(Storage::format), Some(format));
                let values = expect_ready(weight.whole()).unwrap().to_f32();
                let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
                assert!(largest <= 2.02 * spread && largest > spread / 4.0, "{format}: {largest} of {spread}");
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                assert!(mean.abs() < 0.2 * spread, "{format}: {mean} of {spread}");
            }
            for (name, shape) in [
                ("t_embedder.mlp.0.weight", &[96, 512][..]),
                ("layers.0.attention.norm_q.weight", &[128]),
                ("model.embed_tokens.weight", &[96, 512]),
            ] {
                assert!(random.stored(name, shape).storage().is_none(), "{name}");
            }
        }
    }

    #[test]
    fn rows_that_are_not_whole_blocks_stay_floats() {
        let random = RandomTensors::quantized(Format::Q4K);
        assert!(random.stored("layers.0.attention.to_q.weight", &[96, 100]).storage().is_none());
    }
}
