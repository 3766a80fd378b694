//! Random weights, made on demand, to measure a model of any size without its files.
//!
//! A tensor is a slice of one long array of normal numbers. The array is made once for each scale,
//! so a model of 20 GB is made as fast as it is uploaded. The scales keep activations finite
//! through any depth: matrices and kernels have the deviation `1/√K` for sums of `K` products,
//! weights of norms are around 1, biases around 0.

mod quantized;

use super::stored::OnTheWay;
use super::weight_format::is_block_matrix;
use crate::numbers::{fnv1a, splitmix64};
use crate::sync::lock;
use crate::tensor::{DType, Format, HostTensor, Storage, Weight};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

pub use quantized::RANDOM_FORMATS;

/// Elements of the longest array: 128 MiB of BF16. A longer tensor repeats it.
const LONGEST_ROW: usize = 1 << 26;
/// Elements of the shortest array.
const SHORTEST_ROW: usize = 1 << 21;
/// Minimum elements of an array beyond the tensor, so that tensors begin at many offsets.
const MARGIN: usize = 1 << 20;
/// Elements between two offsets: at least 16 bytes in every type.
const STEP: usize = 8;
/// The table of a text encoder, which GGUF files quantise too.
const TABLE: &str = "embed_tokens.weight";
/// Distinct values in an array: enough for BF16, which has 8 bits of precision.
const VALUES: usize = 1 << 14;
/// The spread of the weights of norms around 1, and of biases around 0.
const SPREAD: f32 = 0.05;

/// Random tensors of any name and shape, deterministic in name, shape and type.
#[derive(Clone, Default)]
pub struct RandomTensors {
    rows: Arc<Mutex<BTreeMap<Row, Bytes>>>,
    /// The format of the matrices of attention and feed-forward layers, if they are quantised.
    quantized: Option<Format>,
}

/// The key of an array: type, length, and the bits of mean and spread.
type Row = (Type, usize, u32, u32);

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Plain(usize),
    Quantized(Format),
}

/// Little-endian elements in memory that is aligned for all types.
struct Elements(Vec<u64>);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl RandomTensors {
    /// Tensors whose matrices of attention and feed-forward layers, and whose table of tokens, have
    /// a format of [`RANDOM_FORMATS`], if their rows are whole blocks.
    pub fn quantized(format: Format) -> Self {
        Self { quantized: Some(format), ..Self::default() }
    }

    /// The form of [`RandomTensors::stored`] on its way to a device.
    pub(super) fn on_the_way(&self, name: &str, shape: &[usize]) -> OnTheWay {
        let elements: usize = shape.iter().product();
        let format = self.format(name, shape).unwrap_or(Format::Bf16);
        let in_memory = Some(Storage::Plain(format).dtype());
        OnTheWay {
            format: Some(format),
            in_memory,
            bytes: format.bytes(elements).unwrap_or(0) as u64,
            is_mapped: false,
        }
    }

    /// The quantised format of a tensor, if it has one.
    fn format(&self, name: &str, shape: &[usize]) -> Option<Format> {
        let is_quantized = is_block_matrix(name, shape) || name == TABLE;
        self.quantized.filter(|format| is_quantized && format.bytes(shape[1]).is_some())
    }

    /// A weight as a file would store it: quantised, or [`RandomTensors::weight`].
    pub fn stored(&self, name: &str, shape: &[usize]) -> Weight<'static> {
        let quantized = match (self.format(name, shape), shape) {
            (Some(format), &[n, k]) => quantized::matrix(format, name, [n, k], |len, spread| {
                let key = (Type::Quantized(format), len, 0, spread.to_bits());
                self.array(key, || quantized::blocks(format, len, spread))
            }),
            _ => None,
        };
        quantized.unwrap_or_else(|| self.weight(name, shape).into())
    }

    /// A weight of a model in BF16, at the scale of its kind: a vector whose name ends in `bias` is
    /// a bias, every other vector the weight of a norm.
    pub fn weight(&self, name: &str, shape: &[usize]) -> HostTensor {
        let (mean, spread) = match shape {
            [_] if name.ends_with("bias") => (0.0, SPREAD),
            [_] => (1.0, SPREAD),
            _ => (0.0, 1.0 / (shape.iter().skip(1).product::<usize>().max(1) as f32).sqrt()),
        };
        self.normal(DType::Bf16, name, shape, mean, spread)
    }

    /// Normal numbers of a floating type, selected by `name`.
    ///
    /// # Panics
    /// If `dtype` is not a floating type.
    pub fn normal(&self, dtype: DType, name: &str, shape: &[usize], mean: f32, spread: f32) -> HostTensor {
        let size = dtype.size();
        let len: usize = shape.iter().product();
        let bytes = if len + MARGIN > LONGEST_ROW {
            let row = self.row(dtype, LONGEST_ROW, mean, spread);
            let mut bytes = Vec::with_capacity(len * size);
            while bytes.len() < len * size {
                bytes.extend_from_slice(&row[..row.len().min(len * size - bytes.len())]);
            }
            bytes.into()
        } else {
            let length = (len + MARGIN).next_power_of_two().max(SHORTEST_ROW);
            let offsets = (length - len) / STEP;
            let start = (mixed(fnv1a(name.as_bytes())) % offsets as u64) as usize * STEP;
            self.row(dtype, length, mean, spread).slice(start * size..(start + len) * size)
        };
        HostTensor::new(dtype, shape, bytes).expect("as many bytes as the shape has")
    }

    fn row(&self, dtype: DType, length: usize, mean: f32, spread: f32) -> Bytes {
        let key = (Type::Plain(dtype as usize), length, mean.to_bits(), spread.to_bits());
        self.array(key, || make(dtype, length, mean, spread))
    }

    /// The array of this key, made on first use.
    fn array(&self, key: Row, make: impl FnOnce() -> Bytes) -> Bytes {
        lock(&self.rows).entry(key).or_insert_with(make).clone()
    }
}

impl fmt::Debug for RandomTensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = lock(&self.rows);
        write!(f, "RandomTensors({} bytes)", rows.values().map(Bytes::len).sum::<usize>())
    }
}

fn make(dtype: DType, length: usize, mean: f32, spread: f32) -> Bytes {
    let values: Vec<f32> = normal_values().into_iter().map(|value| mean + spread * value).collect();
    // Two or four elements per word, drawn one by one.
    let pick = |random: u64, i: usize| values[(random >> (16 * i)) as usize % VALUES];
    let pack = |random: u64| match dtype {
        DType::F32 => (0..2).map(|i| u64::from(pick(random, i).to_bits()) << (32 * i)).sum::<u64>(),
        DType::F16 => (0..4).map(|i| u64::from(half::f16::from_f32(pick(random, i)).to_bits()) << (16 * i)).sum(),
        DType::Bf16 => (0..4).map(|i| u64::from(half::bf16::from_f32(pick(random, i)).to_bits()) << (16 * i)).sum(),
        DType::U32 | DType::U8 => panic!("normal numbers are no {dtype}"),
    };
    let words = (length * dtype.size() / size_of::<u64>()) as u64;
    let words = (0..words).map(|i| pack(mixed(i)).to_le()).collect();
    Bytes::from_owner(Elements(words))
}

/// Normally distributed values, by the Box–Muller transform.
fn normal_values() -> Vec<f32> {
    let uniform = |i: u64| ((mixed(!i) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let pair = |i: u64| {
        let radius = (-2.0 * uniform(2 * i).ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform(2 * i + 1);
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    (0..VALUES as u64 / 2).flat_map(pair).collect()
}

/// Number `i`, counted from 0, of the splitmix64 sequence.
fn mixed(i: u64) -> u64 {
    splitmix64(0, i.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(tensor: &HostTensor) -> (f64, f64) {
        let values = tensor.to_f32();
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt())
    }

    #[test]
    fn tensors_depend_on_their_name_only() {
        let fresh = RandomTensors::default();
        let used = RandomTensors::default();
        used.weight("other", &[3, 100]);
        used.weight("longer", &[30_000, 100]);
        let tensor = fresh.weight("layers.0.weight", &[300, 100]);
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::Bf16, &[300, 100][..]));
        assert_eq!(tensor.bytes(), used.weight("layers.0.weight", &[300, 100]).bytes());
        assert_ne!(tensor.bytes(), fresh.weight("layers.1.weight", &[300, 100]).bytes());
        assert_eq!(tensor.bytes().as_ptr() as usize % 16, fresh.weight("x", &[1, 100]).bytes().as_ptr() as usize % 16);
    }

    #[test]
    fn scales_follow_from_name_and_shape() {
        let random = RandomTensors::default();
        let near = |name: &str, shape: &[usize], expected: (f64, f64)| {
            let (mean, spread) = moments(&random.weight(name, shape));
            assert!(
                (mean - expected.0).abs() < 0.01 && (spread / expected.1 - 1.0).abs() < 0.05,
                "{name}: {mean} {spread}"
            );
        };
        near("q.weight", &[200, 400], (0.0, 0.05));
        near("conv.weight", &[100, 44, 3, 3], (0.0, 1.0 / 396f64.sqrt()));
        near("norm.weight", &[50_000], (1.0, f64::from(SPREAD)));
        near("q.bias", &[50_000], (0.0, f64::from(SPREAD)));
    }

    #[test]
    fn every_floating_type_and_any_length() {
        let random = RandomTensors::default();
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let (mean, spread) = moments(&random.normal(dtype, "x", &[2, 50_000], 0.0, 1.0));
            assert!(mean.abs() < 0.02 && (spread - 1.0).abs() < 0.02, "{dtype}: {mean} {spread}");
        }
        let long = random.weight("embed_tokens.weight", &[LONGEST_ROW / 64 + 5, 64]);
        assert_eq!(long.len(), LONGEST_ROW + 5 * 64);
        assert_eq!(long.bytes()[..640], long.bytes()[2 * LONGEST_ROW..], "it repeats the row");
    }
}
