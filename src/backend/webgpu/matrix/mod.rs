//! Matrices as they are stored, in pieces that can be bound.
//!
//! Rows start on 64 bytes with zeros behind them, so that shaders read 16 bytes at once, in whole
//! steps, for any width. A matrix larger than a binding is cut between rows, and each piece has a
//! dispatch of its own. Variants with F16 operands convert every matrix to F16: see [`f16`].
//! Quantised matrices keep the bytes of the file, and are dequantised before each gemm: see
//! [`keeps`](crate::backend::gpu::quantized::keeps) and [`dequantize`]. Matrices of either kind may
//! be streamed: see [`streaming`](super::launch::streaming).

pub(crate) mod activations;
pub(crate) mod dequantize;
pub(crate) mod f16;
pub(crate) mod quantized;
pub(crate) mod stored;
pub(crate) mod upload;

use crate::backend::DeviceWeight;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::Result;
use dequantize::QuantizedPiece;
use f16::Unconverted;
use stored::{Piece, Stored};

/// `[N, K]`, or the two such matrices of a swiglu. A piece then holds rows of the first and, behind
/// them, the same rows of the second.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// The type that gemms read.
    pub stored: Stored,
    pub rows: usize,
    pub width: usize,
    /// The power of two that the values which gemms read are multiplied by.
    pub scale: f32,
    pub pieces: Vec<Rows>,
}

/// Rows of a [`Matrix`] that fit a binding.
#[derive(Debug)]
pub(crate) enum Rows {
    /// Rows as gemms read them; streamed ones are copied before each gemm.
    Dense(Piece),
    /// Rows in pageable memory that are converted to F16 before each gemm.
    Unconverted(Unconverted),
    /// Rows that are dequantised before each gemm.
    Quantized(QuantizedPiece),
}

impl Rows {
    /// Counts the scratch memory through which dense rows of `width` pass.
    fn count_scratch(&self, gpu: &Gpu, width: usize) {
        match self {
            Rows::Dense(piece) if piece.memory.is_of_host() => gpu.scratch.streamed.count(piece.bytes),
            Rows::Unconverted(rows) => {
                gpu.scratch.streamed.count(rows.piece.bytes);
                if rows.stored == Stored::F32 {
                    gpu.scratch.dequantized.count(rows.f16_bytes(width));
                }
            }
            Rows::Dense(_) | Rows::Quantized(_) => {}
        }
    }
}

impl Matrix {
    /// `[N, K]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// A piece as gemms read it.
    pub(crate) fn piece(&self, gpu: &Gpu, rows: &Rows) -> Result<Piece> {
        match rows {
            Rows::Dense(piece) => {
                let memory = gpu.staged("streaming", &piece.memory, piece.bytes)?;
                Ok(Piece { memory, ..*piece })
            }
            Rows::Unconverted(rows) => rows.convert(gpu, self.width),
            Rows::Quantized(piece) => piece.dequantize(gpu, self.stored, self.width, self.scale),
        }
    }

    /// Steps of four elements from one row to the next.
    pub(crate) fn stride4(&self) -> usize {
        self.stored.row_stride(self.width) / 4
    }
}

/// A convolution's input channels, rounded up to the vectors that shaders read: four elements, or
/// eight of F16.
pub(crate) fn padded_channels(gpu: &Gpu, channels: usize) -> usize {
    channels.next_multiple_of(if gpu.device.variant.f16() { 8 } else { 4 })
}

/// The matrix of a linear layer and its bias.
#[derive(Debug)]
pub struct WebGpuLinear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<WebGpuTensor>,
}

/// The two matrices of a swiglu.
#[derive(Debug)]
pub struct WebGpuSwiGlu {
    pub(crate) matrix: Matrix,
}

/// The kernel of a convolution `[O, kh, kw, I]` and its bias.
#[derive(Debug)]
pub struct WebGpuConv2d {
    pub(crate) matrix: Matrix,
    pub(crate) dims: [usize; 4],
    pub(crate) bias: Option<WebGpuTensor>,
}

impl DeviceWeight<2> for WebGpuLinear {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }
}

impl DeviceWeight<2> for WebGpuSwiGlu {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }
}

impl DeviceWeight<4> for WebGpuConv2d {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }
}
