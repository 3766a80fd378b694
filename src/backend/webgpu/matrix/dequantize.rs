//! Quantised matrices as gemms read them.
//!
//! The rows of a piece are dequantised into the memory of an ordinary output before each gemm, in
//! the type and the layout that an upload of their values would have. Streamed rows are copied to
//! the device first, as they are in the file.

use super::quantized::{Segment, SegmentParams};
use super::stored::{Piece, Stored};
use crate::backend::gpu::quantized::StoredFormat;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::shader::wgsl;
use crate::backend::webgpu::launch::uniform::{joined, uniform};
use crate::error::Result;

const OP: &str = "dequantize";
/// Values that one thread writes.
const VEC: usize = 8;
/// Threads of a workgroup.
const THREADS: usize = 256;

uniform! {
    /// The fields of `gemm/dequantize.wgsl` behind those of a segment.
    struct Params {
        width: u32,
        vectors: u32,
        row: u32,
        first: u32,
        factor: f32,
    }
}

fn program(quantized: StoredFormat, stored: Stored) -> Program {
    let program = Program::with_params(OP, wgsl!("gemm/dequantize"), joined::<SegmentParams, Params>());
    quantized.configure(program).with("STORED", stored.number())
}

/// Every program of this file.
pub(crate) fn programs() -> Vec<Program> {
    let all = StoredFormat::ALL.into_iter();
    let programs = all.flat_map(|quantized| [Stored::F32, Stored::F16].map(|stored| program(quantized, stored)));
    programs.chain([program(StoredFormat::F8E4m3, Stored::Bf16)]).collect()
}

/// Quantised rows of a matrix that fit a binding once they are dequantised.
#[derive(Debug)]
pub(crate) struct QuantizedPiece {
    /// The index of the first row in the matrix.
    pub first: usize,
    /// The number of rows, of each matrix of a swiglu.
    pub rows: usize,
    /// The segments of each matrix, which together have its rows.
    pub matrices: Vec<Vec<Segment>>,
}

impl QuantizedPiece {
    /// The piece in `stored`, times `factor`, in the memory of an output.
    pub(crate) fn dequantize(&self, gpu: &Gpu, stored: Stored, width: usize, factor: f32) -> Result<Piece> {
        let stride = stored.row_stride(width);
        let bytes = Self::bytes(stored, width, self.matrices.len() * self.rows);
        let out = gpu.scratch(OP, &gpu.scratch.dequantized, bytes)?;
        for (matrix, segments) in self.matrices.iter().enumerate() {
            for segment in segments {
                let Segment { quantized, params, first, rows: count, .. } = segment;
                let row = stride / VEC;
                let vectors = count * row;
                let own = Params {
                    width: width as u32,
                    vectors: vectors as u32,
                    row: row as u32,
                    first: (matrix * self.rows + first - self.first) as u32,
                    factor,
                };
                let uniform = [bytemuck::bytes_of(params), bytemuck::bytes_of(&own)].concat();
                let [rows, scales] = segment.staged(gpu, OP)?;
                let bindings = [rows, scales, Binding::of(&out, bytes)];
                gpu.dispatch_bytes(&program(*quantized, stored), &bindings, uniform, vectors.div_ceil(THREADS))?;
            }
        }
        Ok(Piece { memory: out, bytes, first: self.first, rows: self.rows })
    }

    /// Bytes of `rows` dequantised rows.
    pub(crate) fn bytes(stored: Stored, width: usize, rows: usize) -> u64 {
        (rows * stored.row_stride(width) * stored.size()) as u64
    }
}
