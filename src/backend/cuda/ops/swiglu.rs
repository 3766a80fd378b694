//! `swiglu`: a gemv or a gemm with alternating rows of both matrices, whose epilogue joins each
//! pair of columns. On Hopper, a gemm with few rows dequantises matrices of one format itself.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::gemv::{self, Gemv, MAX_ROWS};
use crate::backend::cuda::gemm::quantized::{self, QuantizedGemm};
use crate::backend::cuda::gemm::sm90::{self, BOX_BYTES, BOX_COLUMNS, Rows, Sharing, Sm90Gemm, Tiles};
use crate::backend::cuda::gemm::tile::{self, TiledGemm};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::matrix::fp8::Fp8Matrix;
use crate::backend::cuda::matrix::{CudaSwiGlu, StoredMatrix};
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{DeviceWeight, SwiGluArgs, SwiGluOp};
use crate::error::Result;
use crate::tensor::{Compute, DType, FP8_BLOCK, Weight};

const GEMV: File = kernel!("swiglu_gemv.cu");
const TILED: File = kernel!("swiglu.cu");
const SM90: File = kernel!("sm90/swiglu.cu");
const QUANTIZED: File = kernel!("sm90/swiglu_quantized.cu");
const FP8_TILED: File = kernel!("swiglu_fp8.cu");
const FP8_SM90: File = kernel!("sm90/swiglu_fp8.cu");

/// `SiLU(x·Gᵀ) ⊙ (x·Uᵀ)` by the FP8 gemm.
fn fp8_gemm(gpu: &Gpu, x: &CudaTensor, w: &Fp8Matrix, shape: &[usize]) -> Result<CudaTensor> {
    let op = "swiglu";
    let w = w.staged(gpu, op)?;
    let dims @ [n, k] = w.codes().dims();
    let hidden = n / 2;
    let out = gpu.output_operand(op, shape, Compute::Fp8, hidden.div_ceil(FP8_BLOCK))?;
    let m = out.len() / hidden;
    let factors = [Arg::read_scales(x), w.scales()];
    if !gpu.device.sm90 {
        let (pointers, outs) = ([Arg::Read(x), Arg::Read(w.codes())], [Arg::Write(&out), Arg::write_scales(&out)]);
        let args = [&pointers[..], &factors, &outs, &[m, n, k, k].map(Arg::U32)].concat();
        TiledGemm {
            op,
            file: FP8_TILED,
            constants: &[("ALIGNED_OUT", 1)],
            m,
            n,
            args: &args,
            tiles: tile::Tiles::Widest,
        }
        .launch(gpu)?;
        return Ok(out);
    }
    let gemm = Sm90Gemm {
        op,
        file: FP8_SM90,
        constants: &[],
        m,
        weights: Rows { tensor: w.codes(), dims },
        columns: 0..n,
        a: sm90::row_map(op, x, [m, k], BOX_BYTES),
        out: sm90::row_map(op, &out, [m, hidden], BOX_BYTES),
        sharing: Sharing::WIfFaster,
        tiles: Tiles::Widest,
    };
    gemm.launch(gpu, &[&factors[..], &[Arg::write_scales(&out)]].concat(), &[m, n, k].map(Arg::U32))?;
    Ok(out)
}

impl SwiGluOp for Cuda {
    type SwiGlu = CudaSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<CudaSwiGlu> {
        Ok(CudaSwiGlu { matrix: StoredMatrix::alternating(&self.gpu, "upload_swiglu", [gate, up], dims).await? })
    }

    fn run_swiglu(&self, args: SwiGluArgs<'_, CudaTensor, CudaSwiGlu>, shape: &[usize]) -> Result<CudaTensor> {
        let op = "swiglu";
        let gpu = &self.gpu;
        let SwiGluArgs { x, w } = args;
        if let Some(matrix) = w.matrix.as_fp8() {
            return fp8_gemm(gpu, x, matrix, shape);
        }
        let [hidden, k] = w.dims();
        let n = 2 * hidden;
        let out = gpu.output(op, shape, DType::Bf16)?;
        let x = gpu.activation(x)?;
        let m = out.len() / hidden;
        if let Some([gate, up]) = quantized::segments(gpu, &w.matrix, m)
            && gate.rows.format() == up.rows.format()
        {
            let gemm = QuantizedGemm {
                op,
                file: QUANTIZED,
                entries: ["swiglu_quantized", "swiglu_reduce"],
                constants: &[],
                x: &x,
                m,
                parts: &[&gate.rows, &up.rows],
                out: &out,
                epilogue: &[],
                columns: &[],
            };
            gemm.launch(gpu)?;
            return Ok(out);
        }
        let matrix = w.matrix.dense(gpu, op)?;
        let args = [
            Arg::Read(&x),
            matrix.arg(),
            Arg::Write(&out),
            Arg::U32(m),
            Arg::U32(n),
            Arg::U32(k),
            Arg::U32(matrix.stride()),
        ];
        if m <= MAX_ROWS {
            let constants = &[("ALIGNED", aligned(k))];
            Gemv { op, file: GEMV, entry: op, constants, m, n, shared: 0, args: &args }.launch(gpu)?;
        } else if sm90::supports(gpu, [k, hidden]) {
            let gemm = Sm90Gemm {
                op,
                file: SM90,
                constants: &[],
                m,
                weights: (&*matrix).into(),
                columns: 0..n,
                a: sm90::row_map(op, &x, [m, k], BOX_COLUMNS),
                // A box of the output has half of the gemm's columns.
                out: sm90::row_map(op, &out, [m, hidden], BOX_COLUMNS / 2),
                sharing: Sharing::WIfFaster,
                tiles: Tiles::Any,
            };
            gemm.launch(gpu, &[], &[m, n, k].map(Arg::U32))?;
        } else {
            let constants = &[("ALIGNED", aligned(k)), ("ALIGNED_OUT", aligned(hidden))];
            TiledGemm { op, file: TILED, constants, m, n, args: &args, tiles: tile::Tiles::Any }.launch(gpu)?;
        }
        Ok(out)
    }
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    let quantized = quantized::programs("swiglu", QUANTIZED, &[]);
    let fp8 = sm90::programs("swiglu", FP8_SM90, &[], Sharing::WIfFaster, Tiles::Widest);
    [sm90::programs("swiglu", SM90, &[], Sharing::WIfFaster, Tiles::Any), quantized, fp8].concat()
}

/// The FP8 gemm of devices other than Hopper.
pub(crate) fn fp8_programs() -> Vec<Program> {
    tile::programs("swiglu", FP8_TILED, &[("ALIGNED_OUT", 1)], tile::Tiles::Widest)
}

/// Programs of every tile, with and without alignment.
pub(crate) fn programs() -> Vec<Program> {
    let programs = |flag| {
        let constants = [("ALIGNED", flag), ("ALIGNED_OUT", flag)];
        [tile::programs("swiglu", TILED, &constants, tile::Tiles::Any), gemv::programs("swiglu", GEMV, &constants[..1])]
            .concat()
    };
    [0, 1].into_iter().flat_map(programs).collect()
}
