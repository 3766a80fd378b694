//! Matrices as they are stored, in pieces that a shader can be given.
//!
//! Rows start on 64 bytes, with zeros behind them, so that shaders read 16 bytes at once whatever the width, and in
//! whole steps. A matrix that is larger than a binding is cut between rows; each piece is multiplied by a dispatch of its
//! own. Variants that multiply halves have every matrix in halves: see `halves.rs`.

use super::gpu::{Gpu, Room};
use super::halves;
use super::memory::Memory;
use super::program::{File, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::{Error, Result};
use crate::reserve::zeros;
use crate::tensor::{DType, HostTensor, Weight};
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

    /// The type that matrices are stored in together: their own where they share one, else F32.
    pub(super) fn of<'w>(parts: impl IntoIterator<Item = &'w Weight<'w>>) -> Self {
        let mut types = parts.into_iter().map(|part| Self::from(part.dtype()));
        let first = types.next().unwrap_or(Stored::F32);
        if types.all(|other| other == first) { first } else { Stored::F32 }
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        if self == Stored::F32 { 4 } else { 2 }
    }

    /// How shaders know it that read words: their constant TYPE.
    pub(super) fn number(self) -> usize {
        match self {
            Stored::F32 => 0,
            Stored::Bf16 => 1,
            Stored::F16 => 2,
        }
    }

    /// A tensor's elements in this type: as they are, or widened to F32.
    fn bytes(self, tensor: &HostTensor) -> Result<Bytes> {
        let whole_numbers = matches!(tensor.dtype(), DType::U32 | DType::U8);
        if !whole_numbers && Self::from(tensor.dtype()) == self {
            return Ok(tensor.bytes().clone());
        }
        let values = tensor.try_to_f32()?;
        Ok(HostTensor::try_from_f32(tensor.shape(), &values)?.bytes().clone())
    }

    /// Elements from one row's start to the next one's, for rows of `width`.
    pub(super) fn padded(self, width: usize) -> usize {
        width.max(1).next_multiple_of(64 / self.size())
    }
}

impl From<DType> for Stored {
    /// Types that no matrix has are widened on their way.
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Stored::Bf16,
            DType::F16 => Stored::F16,
            DType::F32 | DType::U32 | DType::U8 => Stored::F32,
        }
    }
}

/// Rows of a matrix in one buffer.
#[derive(Debug)]
pub(super) struct Piece {
    pub memory: Arc<Memory>,
    pub bytes: u64,
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

/// A matrix, or the two of a swiglu, whose rows are being written.
///
/// Rows go to the device as they are stored. Where they are to be halves, the device converts them in the end, when the largest
/// of all values is known.
pub(super) struct Filling<'g> {
    gpu: &'g Gpu,
    verb: &'static str,
    stored: Stored,
    rows: usize,
    width: usize,
    pieces: Vec<(Room, Piece)>,
    /// The largest exponent so far, as F32 stores it; only kept where it is wanted.
    exponent: u32,
}

impl<'g> Filling<'g> {
    /// Room for `matrices` matrices `[rows, width]`, one or two, whose elements come as `stored`. It is cut by the size that they
    /// come in, also where they will be halves of F32 and half as large.
    pub(super) fn new(
        gpu: &'g Gpu,
        verb: &'static str,
        stored: Stored,
        [rows, width]: [usize; 2],
        matrices: usize,
    ) -> Result<Self> {
        let each = (stored.padded(width) * stored.size() * matrices) as u64;
        let most = gpu.device.max_binding;
        let at_once = usize::try_from(most / each).unwrap_or(usize::MAX);
        if at_once == 0 {
            return Err(Error::Device(format!(
                "{verb}: one row of a matrix [{rows}, {width}] takes {each} bytes, and {} allows {most} for one buffer",
                gpu.device.info.name
            )));
        }
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(at_once) {
            let rows = at_once.min(rows - first);
            let bytes = each * rows as u64;
            let room = gpu.room(verb, &[rows, width], bytes, most)?;
            let memory = room.memory().clone();
            pieces.push((room, Piece { memory, bytes, first, rows }));
        }
        Ok(Self { gpu, verb, stored, rows, width, pieces, exponent: 0 })
    }

    /// Writes rows of the first matrix (0) or the second (1), from row `first` on.
    pub(super) fn write(&mut self, first: usize, matrix: usize, rows: &HostTensor) -> Result<()> {
        self.write_bytes(first, matrix, self.stored.bytes(rows)?.as_ref());
        self.gpu.device.faults.check()
    }

    fn write_bytes(&mut self, first: usize, matrix: usize, bytes: &[u8]) {
        if self.gpu.device.variant.halves() {
            self.exponent = self.exponent.max(halves::exponent(self.stored, bytes));
        }
        let (row, stride) = (self.width * self.stored.size(), self.stored.padded(self.width) * self.stored.size());
        let end = first + bytes.len() / row;
        for (room, piece) in &mut self.pieces {
            let (from, until) = (first.max(piece.first), end.min(piece.first + piece.rows));
            if from >= until {
                continue;
            }
            let part = &bytes[(from - first) * row..(until - first) * row];
            let at = (matrix * piece.rows + from - piece.first) * stride;
            // Rows without zeros behind them at once.
            let at_once = if row == stride { part.len() } else { row };
            for (i, values) in part.chunks_exact(at_once).enumerate() {
                self.gpu.write(room, at + i * stride, values);
            }
        }
    }

    /// The rows as they were written.
    pub(super) fn written(self) -> Result<Vec<Piece>> {
        let Self { gpu, pieces, .. } = self;
        pieces.into_iter().map(|(room, piece)| gpu.written(room).map(|_| piece)).collect()
    }

    /// The matrix, once all rows are written.
    pub(super) fn finish(self) -> Result<Matrix> {
        let Self { gpu, verb, stored, rows, width, exponent, .. } = self;
        let pieces = self.written()?;
        if !gpu.device.variant.halves() {
            return Ok(Matrix { stored, rows, width, unit: 1.0, pieces });
        }
        let e = halves::exponent_of_unit(exponent);
        let pieces = pieces.into_iter().map(|piece| halves::narrow(gpu, verb, stored, width, piece, e));
        let pieces = pieces.collect::<Result<_>>()?;
        Ok(Matrix { stored: Stored::F16, rows, width, unit: halves::power_of_two(e), pieces })
    }
}

impl Matrix {
    /// The places of a kernel's `channels` in a row: shaders read four at once, or eight in halves.
    pub(super) fn channels(gpu: &Gpu, channels: usize) -> usize {
        channels.next_multiple_of(if gpu.device.variant.halves() { 8 } else { 4 })
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·P]`, where `P` is [`Matrix::channels`] of `I`.
    pub(super) fn kernel(
        gpu: &Gpu,
        verb: &'static str,
        kernel: &HostTensor,
        [o, i, kh, kw]: [usize; 4],
    ) -> Result<Self> {
        let stored = Stored::from(kernel.dtype());
        let (size, taps, padded) = (stored.size(), kh * kw, Self::channels(gpu, i));
        let width = taps * padded;
        let mut rows = zeros(o * width * size, "the kernel of a convolution")?;
        for (from, value) in stored.bytes(kernel)?.chunks_exact(size).enumerate() {
            let (out, channel, tap) = (from / taps / i, from / taps % i, from % taps);
            let to = (out * width + tap * padded + channel) * size;
            rows[to..to + size].copy_from_slice(value);
        }
        let mut filling = Filling::new(gpu, verb, stored, [o, width], 1)?;
        filling.write_bytes(0, 0, &rows);
        filling.finish()
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

impl super::super::DeviceWeight<2> for WebGpuLinear {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }
}

impl super::super::DeviceWeight<2> for WebGpuSwiGlu {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }
}

impl super::super::DeviceWeight<4> for WebGpuConv2d {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }
}
