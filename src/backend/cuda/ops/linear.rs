//! `linear`: gemv for few rows, else Hopper's or the tiled gemm, or cuBLASLt if it is faster. On
//! Hopper, a gemm with few rows dequantises its matrix itself.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::autotune::OwnKernel;
use crate::backend::cuda::gemm::gemv::{self, Gemv, MAX_ROWS};
use crate::backend::cuda::gemm::quantized::{self, QuantizedGemm};
use crate::backend::cuda::gemm::sm90::{self, BOX_BYTES, BOX_COLUMNS, Rows, Sharing, Sm90Gemm, Tiles};
use crate::backend::cuda::gemm::tile::{self, TiledGemm};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::matrix::fp8::Fp8Matrix;
use crate::backend::cuda::matrix::{CudaLinear, Matrix, Segment, StoredMatrix, upload_bias};
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::gpu::disk_cache;
use crate::backend::{DeviceTensor, DeviceWeight, LinearArgs, LinearOp};
use crate::error::Result;
use crate::tensor::{DType, HostTensor, Weight};

const GEMV: File = kernel!("linear_gemv.cu");
const TILED: File = kernel!("linear.cu");
const SM90: File = kernel!("sm90/linear.cu");
const QUANTIZED: File = kernel!("sm90/linear_quantized.cu");
const FP8_TILED: File = kernel!("linear_fp8.cu");
const FP8_SM90: File = kernel!("sm90/linear_fp8.cu");

/// `x·Wᵀ + b`, or `SiLU(x)·Wᵀ + b`, into `out` by the gemv kernel.
pub(super) fn gemv(
    gpu: &Gpu,
    op: &'static str,
    x: &CudaTensor,
    w: &CudaLinear,
    silu: bool,
    out: &CudaTensor,
) -> Result<()> {
    let [n, k] = w.dims();
    let m = out.len() / n;
    let has_bias = usize::from(w.bias.is_some());
    let constants = [("ALIGNED", aligned(k)), ("HAS_BIAS", has_bias), ("SILU", usize::from(silu))];
    let matrix = w.matrix.dense(gpu, op)?;
    let args = args(x, &matrix, w.bias.as_ref(), out, m);
    Gemv { op, file: GEMV, entry: "linear", constants: &constants, m, n, shared: 0, args: &args }.launch(gpu)
}

/// `x·Wᵀ + b` into `out` by our own gemm.
fn gemm(gpu: &Gpu, x: &CudaTensor, w: &Matrix, bias: Option<&CudaTensor>, out: &CudaTensor) -> Result<()> {
    let op = "linear";
    let [n, k] = w.dims();
    let m = out.len() / n;
    let has_bias = usize::from(bias.is_some());
    if !sm90::supports(gpu, [k, n]) {
        let constants = &[("ALIGNED", aligned(k)), ("HAS_BIAS", has_bias), ("ALIGNED_OUT", aligned(n))];
        return TiledGemm {
            op,
            file: TILED,
            constants,
            m,
            n,
            args: &args(x, w, bias, out, m),
            tiles: tile::Tiles::Any,
        }
        .launch(gpu);
    }
    let gemm = Sm90Gemm {
        op,
        file: SM90,
        constants: &[("HAS_BIAS", has_bias)],
        m,
        weights: w.into(),
        columns: 0..n,
        a: sm90::row_map(op, x, [m, k], BOX_COLUMNS),
        out: sm90::row_map(op, out, [m, n], BOX_COLUMNS),
        sharing: Sharing::WIfFaster,
        tiles: Tiles::Any,
    };
    gemm.launch(gpu, &[Arg::optional(bias)], &[m, n, k].map(Arg::U32))
}

/// `x·Wᵀ + b` into `out` by the gemm that dequantises, one launch per segment of W.
fn quantized_gemm(
    gpu: &Gpu,
    x: &CudaTensor,
    segments: &[Segment],
    bias: Option<&CudaTensor>,
    out: &CudaTensor,
    [m, n]: [usize; 2],
) -> Result<()> {
    segments.iter().try_for_each(|segment| {
        let gemm = QuantizedGemm {
            op: "linear",
            file: QUANTIZED,
            entries: ["linear_quantized", "linear_reduce"],
            constants: &[("HAS_BIAS", usize::from(bias.is_some()))],
            x,
            m,
            parts: &[&segment.rows],
            out,
            epilogue: &[Arg::optional(bias)],
            columns: &[n, segment.first].map(Arg::U32),
        };
        gemm.launch(gpu)
    })
}

/// `x·Wᵀ + b` into `out` by the FP8 gemm.
fn fp8_gemm(gpu: &Gpu, x: &CudaTensor, w: &Fp8Matrix, bias: Option<&CudaTensor>, out: &CudaTensor) -> Result<()> {
    let op = "linear";
    let w = w.staged(gpu, op)?;
    let dims @ [n, k] = w.codes().dims();
    let m = out.len() / n;
    let constants = [("HAS_BIAS", usize::from(bias.is_some())), ("BLOCK_SCALES", usize::from(has_blocks(x)))];
    let factors = [Arg::read_scales(x), w.scales(), Arg::optional(bias)];
    if !sm90::supports(gpu, [k, n]) {
        let sizes = [m, n, k, k].map(Arg::U32);
        let args = [&[Arg::Read(x), Arg::Read(w.codes())], &factors[..], &[Arg::Write(out)], &sizes].concat();
        let constants = &[&constants[..], &[("ALIGNED_OUT", aligned(n))]].concat();
        return TiledGemm { op, file: FP8_TILED, constants, m, n, args: &args, tiles: tile::Tiles::Any }.launch(gpu);
    }
    let gemm = Sm90Gemm {
        op,
        file: FP8_SM90,
        constants: &constants,
        m,
        weights: Rows { tensor: w.codes(), dims },
        columns: 0..n,
        a: sm90::row_map(op, x, [m, k], BOX_BYTES),
        out: sm90::row_map(op, out, [m, n], BOX_COLUMNS),
        sharing: Sharing::WIfFaster,
        tiles: Tiles::Any,
    };
    gemm.launch(gpu, &factors, &[m, n, k].map(Arg::U32))
}

/// True if each block of a row of an FP8 operand has a scale.
fn has_blocks(x: &CudaTensor) -> bool {
    x.scales().is_some_and(|scales| scales.shape()[0] > 1)
}

/// The arguments of the gemv and of the tiled gemm.
fn args<'a>(
    x: &'a CudaTensor,
    w: &'a Matrix,
    bias: Option<&'a CudaTensor>,
    out: &'a CudaTensor,
    m: usize,
) -> [Arg<'a>; 8] {
    let [n, k] = w.dims();
    [
        Arg::Read(x),
        w.arg(),
        Arg::optional(bias),
        Arg::Write(out),
        Arg::U32(m),
        Arg::U32(n),
        Arg::U32(k),
        Arg::U32(w.stride()),
    ]
}

impl LinearOp for Cuda {
    type Linear = CudaLinear;

    async fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> Result<CudaLinear> {
        let op = "upload_linear";
        let matrix = StoredMatrix::stacked(&self.gpu, op, parts, dims).await?;
        Ok(CudaLinear { matrix, bias: upload_bias(&self.gpu, op, biases)? })
    }

    fn run_linear(&self, args: LinearArgs<'_, CudaTensor, CudaLinear>, shape: &[usize]) -> Result<CudaTensor> {
        let gpu = &self.gpu;
        let LinearArgs { x, w } = args;
        let [n, _] = w.dims();
        let out = gpu.output("linear", shape, DType::Bf16)?;
        if let Some(matrix) = w.matrix.as_fp8() {
            fp8_gemm(gpu, x, matrix, w.bias.as_ref(), &out)?;
            return Ok(out);
        }
        let x = gpu.activation(x)?;
        let m = out.len() / n;
        if let Some(segments) = quantized::segments(gpu, &w.matrix, m) {
            quantized_gemm(gpu, &x, segments, w.bias.as_ref(), &out, [m, n])?;
        } else if m <= MAX_ROWS {
            gemv(gpu, "linear", &x, w, false, &out)?;
        } else if w.bias.is_some() {
            gemm(gpu, &x, &*w.matrix.dense(gpu, "linear")?, w.bias.as_ref(), &out)?;
        } else {
            let run = |x: &CudaTensor, w: &Matrix, out: &CudaTensor| gemm(gpu, x, w, None, out);
            self.autotuner.matmul(gpu, &x, &w.matrix, &out, OwnKernel { run, source_hash })?;
        }
        Ok(out)
    }
}

/// A hash of the sources of all kernels of this op.
fn source_hash() -> u64 {
    let programs = [programs(), sm90_programs()].concat();
    disk_cache::hash(programs.iter().map(Program::source).collect::<String>().as_bytes())
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    let programs = |bias| sm90::programs("linear", SM90, &[("HAS_BIAS", bias)], Sharing::WIfFaster, Tiles::Any);
    let quantized = quantized::programs("linear", QUANTIZED, &[("HAS_BIAS", 1)]);
    let fp8 = |blocks| {
        let constants = [("HAS_BIAS", 1), ("BLOCK_SCALES", blocks)];
        sm90::programs("linear", FP8_SM90, &constants, Sharing::WIfFaster, Tiles::Any)
    };
    [0, 1].into_iter().flat_map(programs).chain(quantized).chain([0, 1].into_iter().flat_map(fp8)).collect()
}

/// The FP8 gemm of devices other than Hopper.
pub(crate) fn fp8_programs() -> Vec<Program> {
    let programs = |flag| {
        let constants = [("HAS_BIAS", flag), ("BLOCK_SCALES", flag), ("ALIGNED_OUT", flag)];
        tile::programs("linear", FP8_TILED, &constants, tile::Tiles::Any)
    };
    [0, 1].into_iter().flat_map(programs).collect()
}

/// Programs of every tile, with and without alignment.
pub(crate) fn programs() -> Vec<Program> {
    let programs = |flag| {
        let tiled = [("ALIGNED", flag), ("HAS_BIAS", flag), ("ALIGNED_OUT", flag)];
        let few = [("ALIGNED", flag), ("HAS_BIAS", flag), ("SILU", flag)];
        [tile::programs("linear", TILED, &tiled, tile::Tiles::Any), gemv::programs("linear", GEMV, &few)].concat()
    };
    [0, 1].into_iter().flat_map(programs).collect()
}
