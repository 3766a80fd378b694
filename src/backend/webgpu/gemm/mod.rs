//! Matrix products `[M, K]·[N, K]ᵀ` and the work of an op around them.

pub(crate) mod cooperative;
mod kernel;
mod tile;

use super::driver::variant::Cooperative;
use super::launch::binding::Binding;
use super::launch::gpu::Gpu;
use super::launch::program::Program;
use super::launch::shader::File;
use super::launch::uniform::{Uniform, joined, uniform};
use super::matrix::Matrix;
use super::matrix::stored::{Piece, Stored};
use super::memory::tensor::WebGpuTensor;
use crate::error::Result;
use cooperative::CooperativeTile;
use kernel::{GEMV_ROWS, Kernel};
use tile::Tile;

/// The part of a gemm that an op fixes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GemmOp {
    pub name: &'static str,
    pub shader: File,
    /// Whether the shader can read F16 operands. If not, every variant multiplies F32.
    pub f16: bool,
    /// Whether two rows of the matrix make one output column, as in swiglu.
    pub paired: bool,
    /// Whether the tile kernel must see whole rows before it reads them.
    pub prologue: bool,
    pub gemv: UseGemv,
}

/// The use of the gemv kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UseGemv {
    Never,
    /// Up to [`GEMV_ROWS`] rows.
    FewRows,
    Always,
}

/// One product and the arguments of the op around it. `P` holds the fields of `Params` behind those
/// of every gemm.
pub(crate) struct Gemm<'a, P = ()> {
    pub op: GemmOp,
    /// The input, as rows of `row` values.
    pub x: &'a WebGpuTensor,
    pub row: usize,
    pub matrix: &'a Matrix,
    /// Rows of the product, and values in each.
    pub m: usize,
    pub k: usize,
    /// Width of a row of the output.
    pub width: usize,
    pub out: &'a WebGpuTensor,
    /// The bindings after the output.
    pub extra: Vec<Binding>,
    pub params: P,
    pub constants: Vec<(&'static str, bool)>,
}

uniform! {
    /// The first fields of every gemm's `Params`.
    struct GemmParams {
        m: u32,
        n: u32,
        k: u32,
        k4: u32,
        stride: u32,
        tiles: u32,
        first: u32,
        width: u32,
        weight_scale: f32,
    }
}

/// The storage of the first operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// F32 in rows of any width.
    Scalar,
    /// F32 in rows of a multiple of four.
    Vec4,
    /// F16 with a scale, from [`Gpu::to_f16`].
    F16,
}

/// A kernel of `op` as a program.
fn program<P: Uniform>(
    op: GemmOp,
    input: Input,
    stored: Stored,
    kernel: Kernel,
    constants: &[(&'static str, bool)],
) -> Program {
    let mut program = Program::with_params(op.name, op.shader, joined::<GemmParams, P>());
    program = match (kernel, input) {
        (Kernel::Cooperative(..), _) => program.define("X_F16_VEC8"),
        (_, Input::Scalar) => program.define("X_SCALAR"),
        (_, Input::Vec4) => program,
        (_, Input::F16) => program.define("X_F16"),
    };
    program = match (kernel, stored) {
        (Kernel::Cooperative(..), _) | (_, Stored::F32) => program,
        (_, Stored::Bf16) => program.define("W_BF16"),
        (_, Stored::F16) => program.define("W_F16"),
    };
    for (name, value) in constants {
        program = program.with(name, *value);
    }
    kernel.configure(program.with("PAIRED", op.paired), op.paired)
}

impl<P: Uniform> Gemm<'_, P> {
    /// Appends a dispatch for each piece of the matrix, and before it those that dequantise the
    /// piece.
    pub(crate) fn run(self, gpu: &Gpu) -> Result<()> {
        let variant = gpu.device.variant;
        let f16 = match Kernel::choose(variant, self.op, self.m, self.matrix.rows) {
            Kernel::Gemv(_) | Kernel::Direct(_) => false,
            Kernel::Tile(_) | Kernel::Cooperative(..) => self.op.f16 && variant.f16(),
        };
        let (x, input) = if f16 {
            (gpu.to_f16(self.x, self.row, self.row.next_multiple_of(8))?, Input::F16)
        } else {
            (self.x.clone(), if self.row.is_multiple_of(4) { Input::Vec4 } else { Input::Scalar })
        };
        for rows in &self.matrix.pieces {
            let piece = self.matrix.piece(gpu, rows)?;
            let columns = if self.op.paired { 2 * piece.rows } else { piece.rows };
            let kernel = Kernel::choose(variant, self.op, self.m, columns);
            let program = program::<P>(self.op, input, self.matrix.stored, kernel, &self.constants);
            let [rows, width] = kernel.tile();
            let tiles = columns.div_ceil(width);
            let mut bindings = vec![Binding::from(&x), piece.binding(), Binding::from(self.out)];
            bindings.extend(self.extra.iter().cloned());
            let params = self.gemm_params(&piece, tiles, f16);
            let uniform = [bytemuck::bytes_of(&params), bytemuck::bytes_of(&self.params)].concat();
            gpu.dispatch_bytes(&program, &bindings, uniform, tiles * self.m.div_ceil(rows))?;
        }
        Ok(())
    }

    fn gemm_params(&self, piece: &Piece, tiles: usize, f16: bool) -> GemmParams {
        // F16 rows are padded to a multiple of eight.
        let k4 = if f16 { 2 * self.k.div_ceil(8) } else { self.k.div_ceil(4) };
        let k = if f16 { 4 * k4 } else { self.k };
        GemmParams {
            m: self.m as u32,
            n: piece.rows as u32,
            k: k as u32,
            k4: k4 as u32,
            stride: self.matrix.stride4() as u32,
            tiles: tiles as u32,
            first: piece.first as u32,
            width: self.width as u32,
            weight_scale: self.matrix.scale,
        }
    }
}

/// Every program that [`Gemm::run`] may use for an op with these constants. `aligned`: whether rows
/// of F32 input are a multiple of four wide.
pub(crate) fn programs<P: Uniform>(op: GemmOp, aligned: bool, constants: &[(&'static str, bool)]) -> Vec<Program> {
    let f32_input = if aligned { Input::Vec4 } else { Input::Scalar };
    let mut operands = Stored::ALL.map(|stored| (stored, f32_input)).to_vec();
    let mut kernels: Vec<(Stored, Input, Kernel)> = Vec::new();
    for (stored, input) in &operands {
        if op.gemv != UseGemv::Never {
            kernels.extend([1, GEMV_ROWS].map(|rows| (*stored, *input, Kernel::Gemv(rows))));
        }
        if op.gemv != UseGemv::Always && !op.prologue {
            let tiles = Tile::DIRECT.into_iter().filter(|tile| tile.fits(op.paired));
            kernels.extend(tiles.map(|tile| (*stored, *input, Kernel::Direct(tile))));
        }
    }
    if op.f16 {
        operands.push((Stored::F16, Input::F16));
        for kind in Cooperative::KNOWN {
            let tiles = CooperativeTile::all();
            kernels.extend(tiles.map(|tile| (Stored::F16, Input::F16, Kernel::Cooperative(kind, tile))));
        }
    }
    if op.gemv != UseGemv::Always {
        for (stored, input) in operands {
            let tiles = Tile::TILED.into_iter().filter(|tile| tile.fits(op.paired));
            kernels.extend(tiles.map(|tile| (stored, input, Kernel::Tile(tile))));
        }
    }
    kernels.into_iter().map(|(stored, input, kernel)| program::<P>(op, input, stored, kernel, constants)).collect()
}
