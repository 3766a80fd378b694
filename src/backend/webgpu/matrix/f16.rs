//! F16 matrices with a scale, as gemms of the variants with F16 operands read them.
//!
//! A matrix is multiplied by the power of two that brings its largest magnitude to 2¹⁴ … 2¹⁵, then
//! rounded to F16. The product divides its sums by it. A power of two changes no digit, and BF16
//! has fewer digits than F16, so such a matrix loses only values below 2⁻²⁹ of its largest. The
//! host finds the largest magnitude while the rows pass, on all its threads. The device converts
//! them during the upload, or before each gemm if they are in pageable memory.

use super::stored::{Piece, Stored};
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::shader::wgsl;
use crate::backend::webgpu::launch::uniform::uniform;
use crate::error::Result;
use crate::tensor::Storage;
use half::f16;
#[cfg(not(target_family = "wasm"))]
use rayon::prelude::*;

/// Bytes that one thread of the host scans.
const SCAN_BYTES: usize = 256 << 10;
/// Values that one thread of the device converts.
const VEC: usize = 8;
/// Threads of a workgroup.
const THREADS: usize = 256;
/// The exponent of the largest magnitude after scaling, one below the largest of F16.
const TARGET_EXPONENT: i32 = 14;
/// The exponent bias of F32.
const F32_BIAS: i32 = 127;
/// Scales stay within 2^±120, so that their inverses are normal numbers too.
const MAX_SCALE_EXPONENT: i32 = 120;

/// The largest exponent of values in `stored`, as F32 stores it.
pub(crate) fn exponent(stored: Stored, bytes: &[u8]) -> u32 {
    #[cfg(not(target_family = "wasm"))]
    let parts = bytes.par_chunks(SCAN_BYTES);
    #[cfg(target_family = "wasm")]
    let parts = bytes.chunks(SCAN_BYTES);
    let largest = parts.map(|part| max_magnitude(stored, part)).max().unwrap_or(0);
    let bits = match stored {
        Stored::Bf16 => largest << 16,
        Stored::F16 => f16::from_bits(largest as u16).to_f32().to_bits(),
        Stored::F32 => largest,
    };
    bits >> 23
}

/// The largest exponent of the values of quantised rows of `width`, as F32 stores it. `first` is
/// the index of the first row in its weight.
pub(crate) fn quantized_exponent(storage: &Storage, first: usize, width: usize, bytes: &[u8]) -> u32 {
    let Some(row) = storage.bytes(1, width).map(|row| row as usize) else { return 0 };
    let height = (SCAN_BYTES / row).max(1);
    #[cfg(not(target_family = "wasm"))]
    let parts = bytes.par_chunks(height * row);
    #[cfg(target_family = "wasm")]
    let parts = bytes.chunks(height * row);
    let largest = parts.enumerate().map(|(i, part)| {
        let mut values = vec![0.0; part.len() / row * width];
        storage.dequantize_rows(first + i * height, part, &mut values);
        values.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0)
    });
    largest.max().unwrap_or(0) >> 23
}

/// The largest magnitude as it is stored: magnitudes are ordered like their bits.
fn max_magnitude(stored: Stored, part: &[u8]) -> u32 {
    if stored == Stored::F32 {
        let words = part.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]) & 0x7fff_ffff);
        words.max().unwrap_or(0)
    } else {
        let words = part.chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]]) & 0x7fff);
        words.max().unwrap_or(0).into()
    }
}

/// The e whose 2^e brings values of this stored exponent to 2¹⁴ … 2¹⁵.
/// `gemm/activations_to_f16.wgsl` computes the same.
pub(crate) fn scale_exponent(exponent: u32) -> i32 {
    (TARGET_EXPONENT - (exponent as i32 - F32_BIAS)).clamp(-MAX_SCALE_EXPONENT, MAX_SCALE_EXPONENT)
}

/// 2^e.
pub(crate) fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((F32_BIAS + e) as u32) << 23)
}

uniform! {
    /// `Params` of `gemm/matrix_to_f16.wgsl`.
    struct Params {
        vectors: u32,
        row: u32,
        stored_row: u32,
        e: i32,
    }
}

fn program(stored: Stored) -> Program {
    Program::new::<Params>("matrix_to_f16", wgsl!("gemm/matrix_to_f16")).with("STORED", stored.number())
}

/// Every program of this file.
pub(crate) fn programs() -> Vec<Program> {
    Stored::ALL.map(program).to_vec()
}

impl Params {
    /// The parameters for rows of `width` values in `stored`, and the number of workgroups.
    fn new(stored: Stored, width: usize, rows: usize, e: i32) -> (Self, usize) {
        let row = Stored::F16.row_stride(width) / VEC;
        let vectors = rows * row;
        let stored_row = (stored.row_stride(width) / VEC) as u32;
        (Self { vectors: vectors as u32, row: row as u32, stored_row, e }, vectors.div_ceil(THREADS))
    }
}

/// The rows of `width` values in `bytes` bytes.
fn row_count(stored: Stored, width: usize, bytes: u64) -> usize {
    bytes as usize / (stored.row_stride(width) * stored.size())
}

/// Bytes of rows of `width` values in F16.
fn f16_bytes(width: usize, rows: usize) -> u64 {
    (rows * Stored::F16.row_stride(width) * Stored::F16.size()) as u64
}

/// Rows in pageable memory, which are converted to F16 times 2^e at each use.
#[derive(Debug)]
pub(crate) struct Unconverted {
    pub piece: Piece,
    pub stored: Stored,
    pub e: i32,
}

impl Unconverted {
    /// Bytes of the rows in F16.
    pub(crate) fn f16_bytes(&self, width: usize) -> u64 {
        f16_bytes(width, row_count(self.stored, width, self.piece.bytes))
    }

    /// The rows in device memory, converted in the copy, or from F32 to another output.
    pub(crate) fn convert(&self, gpu: &Gpu, width: usize) -> Result<Piece> {
        let op = "matrix_to_f16";
        let Self { piece, stored, e } = self;
        let copy = gpu.staged(op, &piece.memory, piece.bytes)?;
        let bytes = self.f16_bytes(width);
        let (source, memory) = match stored {
            Stored::F32 => (Binding::of(&copy, piece.bytes), gpu.scratch(op, &gpu.scratch.dequantized, bytes)?),
            Stored::Bf16 | Stored::F16 => (gpu.absent_input(), copy),
        };
        let (params, groups) = Params::new(*stored, width, row_count(*stored, width, piece.bytes), *e);
        gpu.dispatch(&program(*stored), &[source, Binding::of(&memory, bytes)], params, groups)?;
        Ok(Piece { memory, bytes, first: piece.first, rows: piece.rows })
    }
}

/// Converts rows of `width` values in `stored` to F16 times 2^e: in place, or from F32, whose
/// memory is freed. Streamed rows pass through the device once and are in host memory again.
pub(crate) fn convert(gpu: &Gpu, op: &str, stored: Stored, width: usize, from: Piece, e: i32) -> Result<Piece> {
    let rows = row_count(stored, width, from.bytes);
    let bytes = f16_bytes(width, rows);
    let is_streamed = from.memory.is_of_host();
    let source = if is_streamed { gpu.staged_now(op, &from.memory, from.bytes)? } else { from.memory.clone() };
    let memory = match (stored, is_streamed) {
        (Stored::Bf16 | Stored::F16, _) => source.clone(),
        (Stored::F32, true) => gpu.scratch_now(op, bytes)?,
        (Stored::F32, false) => {
            source.free_on_drop();
            gpu.matrix_memory(op, &[rows, width], bytes)?
        }
    };
    let source = if stored == Stored::F32 { Binding::of(&source, from.bytes) } else { gpu.absent_input() };
    let bindings = [source, Binding::of(&memory, bytes)];
    let (params, groups) = Params::new(stored, width, rows, e);
    gpu.run_now(&program(stored), &bindings, params, groups)?;
    let memory = if is_streamed { gpu.to_host_now(op, &[rows, width], &memory, from.memory, bytes)? } else { memory };
    Ok(Piece { memory, bytes, first: from.first, rows: from.rows })
}
