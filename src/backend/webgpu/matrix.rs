//! Matrices as they are stored, in pieces that a shader can be given.
//!
//! Rows start on 64 bytes, with zeros behind them, so that shaders read 16 bytes at once whatever the width, and in
//! whole steps. A matrix that is larger than a binding is cut between rows; each piece is multiplied by a dispatch of its
//! own. Variants that multiply halves have every matrix in halves: see `halves.rs`.

use super::super::{DType, HostTensor};
use super::gpu::Gpu;
use super::halves;
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

    pub(super) fn size(self) -> usize {
        if self == Stored::F32 { 4 } else { 2 }
    }

    /// Elements from one row's start to the next one's, for rows of `width`.
    fn padded(self, width: usize) -> usize {
        width.max(1).next_multiple_of(64 / self.size())
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
    /// The power of two that it is stored with.
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

    /// The places of a kernel's `channels` in a row: shaders read four at once, or eight in halves.
    pub(super) fn channels(gpu: &Gpu, channels: usize) -> usize {
        channels.next_multiple_of(if gpu.device.variant.halves() { 8 } else { 4 })
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·P]`, where `P` is [`Source::channels`] of `I`.
    pub(super) fn kernel(gpu: &Gpu, kernel: &HostTensor, [o, i, kh, kw]: [usize; 4]) -> Source<'static> {
        let (stored, bytes) = match kernel.dtype() {
            DType::Bf16 => (Stored::Bf16, kernel.bytes().clone()),
            DType::F16 => (Stored::F16, kernel.bytes().clone()),
            DType::F32 => (Stored::F32, kernel.bytes().clone()),
            _ => (Stored::F32, kernel.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>()),
        };
        let (size, taps, padded) = (stored.size(), kh * kw, Self::channels(gpu, i));
        let width = taps * padded;
        let mut rows = vec![0; o * width * size];
        for (from, value) in bytes.chunks_exact(size).enumerate() {
            let (out, channel, tap) = (from / taps / i, from / taps % i, from % taps);
            let to = (out * width + tap * padded + channel) * size;
            rows[to..to + size].copy_from_slice(value);
        }
        Source { stored, parts: vec![(o, rows.into())], width }
    }

    /// The largest exponent of its values, as F32 stores it.
    fn exponent(&self) -> u32 {
        self.parts.iter().map(|(_, bytes)| halves::exponent(self.stored, bytes)).max().unwrap_or(0)
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|(rows, _)| rows).sum()
    }

    /// Writes `count` rows from `first` on, the first to row `to`: as they are, or in halves times `unit`.
    fn write(&self, first: usize, count: usize, to: usize, unit: Option<f32>, write: &mut dyn FnMut(usize, &[u8])) {
        let stored = if unit.is_some() { Stored::F16 } else { self.stored };
        let (row_bytes, stride) = (self.width * self.stored.size(), stored.padded(self.width) * stored.size());
        let mut start = 0;
        for (rows, bytes) in &self.parts {
            let from = first.max(start);
            let until = (first + count).min(start + rows);
            if from < until {
                let part = &bytes[(from - start) * row_bytes..(until - start) * row_bytes];
                let at = (to + from - first) * stride;
                match unit {
                    Some(unit) => halves::write(self.stored, part, row_bytes, stride, unit, |offset, rows| {
                        write(at + offset, rows);
                    }),
                    None if row_bytes == stride => write(at, part),
                    None => part
                        .chunks_exact(row_bytes.max(1))
                        .enumerate()
                        .for_each(|(row, values)| write(at + row * stride, values)),
                }
            }
            start += rows;
        }
    }
}

impl Matrix {
    /// Uploads a matrix, or with `second` the pair of matrices of a swiglu.
    pub(super) fn upload(gpu: &Gpu, verb: &str, source: &Source<'_>, second: Option<&Source<'_>>) -> Result<Self> {
        let (rows, width) = (source.rows(), source.width);
        let unit = gpu
            .device
            .variant
            .halves()
            .then(|| halves::unit(source.exponent().max(second.map_or(0, Source::exponent))));
        let stored = if unit.is_some() { Stored::F16 } else { source.stored };
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
                source.write(first, count, 0, unit, write);
                if let Some(second) = second {
                    second.write(first, count, count, unit, write);
                }
            })?;
            pieces.push(Piece { memory, bytes, first, rows: count });
        }
        Ok(Self { stored, rows, width, unit: unit.unwrap_or(1.0), pieces })
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
