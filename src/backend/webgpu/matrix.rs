//! Matrices as they are stored, in pieces that a shader can be given.
//!
//! Rows start on 16 bytes, with zeros behind them, so that shaders read four values at once whatever the width. A
//! matrix that is larger than a binding is cut between rows; each piece is multiplied by a dispatch of its own.

use super::super::{DType, HostTensor};
use super::gpu::Gpu;
use super::memory::Memory;
use super::program::{File, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;

/// The type that a matrix is stored in on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    Bf16,
    F16,
}

impl Stored {
    /// All of them.
    pub(super) const ALL: [Stored; 3] = [Stored::F32, Stored::Bf16, Stored::F16];

    /// The file that reads it.
    pub(super) fn file(self) -> File {
        match self {
            Stored::F32 => wgsl!("weights_f32"),
            Stored::Bf16 => wgsl!("weights_bf16"),
            Stored::F16 => wgsl!("weights_f16"),
        }
    }

    fn size(self) -> usize {
        if self == Stored::F32 { 4 } else { 2 }
    }

    /// Elements from one row's start to the next one's, for rows of `width`.
    fn padded(self, width: usize) -> usize {
        width.next_multiple_of(16 / self.size())
    }
}

/// Rows of a matrix in one buffer.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Arc<Memory>,
    bytes: u64,
    /// The first row of the matrix that is in here.
    pub first: usize,
    /// How many are.
    pub rows: usize,
}

impl Piece {
    pub(super) fn arg(&self) -> Arg {
        Arg { memory: self.memory.clone(), offset: 0, bytes: self.bytes }
    }
}

/// `[N, K]`, or two such matrices for swiglu, whose pieces hold the rows of the first and behind them the same rows of
/// the second.
#[derive(Debug)]
pub(super) struct Matrix {
    pub stored: Stored,
    pub rows: usize,
    pub width: usize,
    /// The power of two that brings its largest magnitude to 2¹⁴ … 2¹⁵, for products of halves.
    pub unit: f32,
    pub pieces: Vec<Piece>,
}

/// The elements of some rows, wherever they come from.
pub(super) struct Source<'a> {
    stored: Stored,
    /// Each part's rows in `stored`, tightly packed.
    parts: Vec<(usize, std::borrow::Cow<'a, [u8]>)>,
    width: usize,
}

impl<'a> Source<'a> {
    /// The rows of `parts`, one after the other: in their own type where they share one that shaders read.
    pub(super) fn new(parts: &'a [HostTensor], width: usize) -> Self {
        let stored = match parts.first().map(HostTensor::dtype) {
            Some(DType::Bf16) => Stored::Bf16,
            Some(DType::F16) => Stored::F16,
            _ => Stored::F32,
        };
        let same = parts.iter().all(|part| part.dtype() == parts[0].dtype());
        let stored = if same { stored } else { Stored::F32 };
        let bytes = |part: &'a HostTensor| -> std::borrow::Cow<'a, [u8]> {
            if part.dtype() == DType::F32 || stored != Stored::F32 {
                part.bytes().as_ref().into()
            } else {
                part.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
            }
        };
        let parts = parts.iter().map(|part| (part.len() / width.max(1), bytes(part))).collect();
        Self { stored, parts, width }
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·I₄]`, where `I₄` is `I` up to a multiple of four.
    pub(super) fn kernel(kernel: &HostTensor, [o, i, kh, kw]: [usize; 4]) -> Source<'static> {
        let (stored, bytes) = match kernel.dtype() {
            DType::Bf16 => (Stored::Bf16, kernel.bytes().clone()),
            DType::F16 => (Stored::F16, kernel.bytes().clone()),
            DType::F32 => (Stored::F32, kernel.bytes().clone()),
            _ => (Stored::F32, kernel.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>()),
        };
        let (size, taps, padded) = (stored.size(), kh * kw, i.next_multiple_of(4));
        let width = taps * padded;
        let mut rows = vec![0; o * width * size];
        for (from, value) in bytes.chunks_exact(size).enumerate() {
            let (out, channel, tap) = (from / taps / i, from / taps % i, from % taps);
            let to = (out * width + tap * padded + channel) * size;
            rows[to..to + size].copy_from_slice(value);
        }
        Source { stored, parts: vec![(o, rows.into())], width }
    }

    /// The largest magnitude, as the exponent that F32 would store it with.
    fn largest(&self) -> u32 {
        let halves = |mask: u16| {
            let words = self.parts.iter().flat_map(|(_, bytes)| bytes.chunks_exact(2));
            words.map(|word| u16::from_le_bytes([word[0], word[1]]) & mask).max().unwrap_or(0)
        };
        let bits = match self.stored {
            Stored::Bf16 => u32::from(halves(0x7fff)) << 16,
            Stored::F16 => half::f16::from_bits(halves(0x7fff)).to_f32().to_bits(),
            Stored::F32 => {
                let words = self.parts.iter().flat_map(|(_, bytes)| bytes.chunks_exact(4));
                words.map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]) & 0x7fff_ffff).max().unwrap_or(0)
            }
        };
        bits >> 23
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|(rows, _)| rows).sum()
    }

    /// Writes `count` rows from `first` on, the first to row `to`.
    fn write(&self, first: usize, count: usize, to: usize, write: &mut dyn FnMut(usize, &[u8])) {
        let (size, padded) = (self.stored.size(), self.stored.padded(self.width));
        let (row_bytes, stride) = (self.width * size, padded * size);
        let mut start = 0;
        for (rows, bytes) in &self.parts {
            let from = first.max(start);
            let until = (first + count).min(start + rows);
            if from < until && row_bytes == stride {
                let part = &bytes[(from - start) * stride..(until - start) * stride];
                write((to + from - first) * stride, part);
            } else {
                for row in from..until.max(from) {
                    let part = &bytes[(row - start) * row_bytes..][..row_bytes];
                    write((to + row - first) * stride, part);
                }
            }
            start += rows;
        }
    }
}

/// 2^e with the e that brings values of this stored exponent to 2¹⁴ … 2¹⁵: what narrow.wgsl does to activations.
fn unit(exponent: u32) -> f32 {
    let e = (14 - (exponent as i32 - 127)).clamp(-120, 120);
    f32::from_bits(((127 + e) as u32) << 23)
}

impl Matrix {
    /// Uploads a matrix, or with `second` the pair of matrices of a swiglu.
    pub(super) fn upload(gpu: &Gpu, verb: &str, source: &Source<'_>, second: Option<&Source<'_>>) -> Result<Self> {
        let (rows, width, stored) = (source.rows(), source.width, source.stored);
        let largest = source.largest().max(second.map_or(0, Source::largest));
        let stride = (stored.padded(width) * stored.size()) as u64;
        let each = stride * if second.is_some() { 2 } else { 1 };
        let most = gpu.device.max_binding;
        let at_once = usize::try_from(most / each.max(1)).unwrap_or(usize::MAX);
        if at_once == 0 {
            return Err(Error::Device(format!(
                "{verb}: one row of a matrix [{rows}, {width}] takes {each} bytes, and {} allows {most} for one buffer",
                gpu.device.info.name
            )));
        }
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let bytes = (each * count as u64).max(16);
            let memory = gpu.upload(verb, &[count, width], bytes, most, |write| {
                source.write(first, count, 0, write);
                if let Some(second) = second {
                    second.write(first, count, count, write);
                }
            })?;
            pieces.push(Piece { memory, bytes, first, rows: count });
        }
        Ok(Self { stored, rows, width, unit: unit(largest), pieces })
    }

    /// `[N, K]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// Steps of four elements from one row to the next.
    pub(super) fn stride4(&self) -> usize {
        self.stored.padded(self.width) / 4
    }
}

/// The matrix of a linear layer and its bias.
#[derive(Debug)]
pub struct WebGpuLinear {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<WebGpuTensor>,
}

/// The two matrices of a swiglu.
#[derive(Debug)]
pub struct WebGpuSwiGlu {
    pub(super) matrix: Matrix,
}

/// The kernel of a convolution `[O, kh, kw, I]` and its bias.
#[derive(Debug)]
pub struct WebGpuConv2d {
    pub(super) matrix: Matrix,
    pub(super) dims: [usize; 4],
    pub(super) bias: Option<WebGpuTensor>,
}
