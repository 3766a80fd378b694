//! `conv2d`: a convolution of channels-last pictures as an implicit gemm.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::sm90::{self, BOX_COLUMNS, BOX_ROWS, Sharing, Sm90Gemm, Tiles, UNSHARED_TILE_M};
use crate::backend::cuda::gemm::tile::{self, TiledGemm};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::launch::tensor_map::TensorMap;
use crate::backend::cuda::matrix::{CudaConv2d, Matrix, upload_bias};
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{Conv2d, Conv2dArgs, Conv2dOp, DeviceWeight};
use crate::error::Result;
use crate::tensor::{DType, HostTensor};
use std::ops::Range;

const TILED: File = kernel!("conv2d.cu");
const SM90: File = kernel!("sm90/conv2d.cu");

/// Columns of the picture that a tile of Hopper's kernel covers.
const SM90_TILE_WIDTH: usize = 16;

/// Threads of a CTA of `merge_taps`.
const MERGE_THREADS: usize = 128;

/// The constants of both kernels besides their tiles.
struct Constants {
    /// `[O, kh, kw, I]`.
    kernel: [usize; 4],
    has_bias: bool,
    has_residual: bool,
}

impl Constants {
    fn list(&self) -> [(&'static str, usize); 4] {
        let [_, _, kernel_width, channels] = self.kernel;
        [
            ("CHANNELS", channels),
            ("KERNEL_WIDTH", kernel_width),
            ("HAS_BIAS", usize::from(self.has_bias)),
            ("HAS_RESIDUAL", usize::from(self.has_residual)),
        ]
    }

    /// The list with the constants of the tiled kernel.
    fn tiled(&self, geometry: Conv2d) -> Vec<(&'static str, usize)> {
        let tiled = [
            ("STRIDE", geometry.stride),
            ("UPSAMPLE", usize::from(geometry.upsample)),
            ("ALIGNED_OUT", aligned(self.kernel[0])),
        ];
        [&self.list()[..], &tiled].concat()
    }
}

impl Conv2dOp for Cuda {
    type Conv2d = CudaConv2d;

    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored: [usize; 4],
    ) -> Result<CudaConv2d> {
        let op = "upload_conv2d";
        let [o, i, kh, kw] = stored;
        let matrix = Matrix::kernel(&self.gpu, op, kernel, stored)?;
        let bias = upload_bias(&self.gpu, op, bias.map_or(&[], std::slice::from_ref))?;
        Ok(CudaConv2d::new(matrix, [o, kh, kw, i], bias))
    }

    fn run_conv2d(&self, args: Conv2dArgs<'_, CudaTensor, CudaConv2d>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "conv2d";
        let gpu = &self.gpu;
        let Conv2dArgs { x, w, geometry, residual } = args;
        let [items, out_h, out_w, _] = shape;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let x = gpu.activation(x)?;
        let residual = residual.map(|residual| gpu.activation(residual)).transpose()?;
        let [top, left, ..] = geometry.pad;
        let [o, kh, kw, channels] = w.dims();
        if geometry.stride == 1 && sm90::supports(gpu, [channels, o]) {
            let hopper = Sm90Conv2d { gpu, x: &x, w, residual: residual.as_ref(), out: &out };
            if !geometry.upsample {
                hopper.plain([top, left])?;
                return Ok(out);
            }
            if [kh, kw] == [3, 3] && geometry.pad == [1; 4] && residual.is_none() {
                hopper.upsampled()?;
                return Ok(out);
            }
        }
        let constants = Constants { kernel: w.dims(), has_bias: w.bias.is_some(), has_residual: residual.is_some() };
        let [_, in_h, in_w, _] = x.dims();
        let m = items * out_h * out_w;
        let args = [
            Arg::Read(&x),
            w.matrix.arg(),
            Arg::optional(w.bias.as_ref()),
            Arg::optional(residual.as_ref()),
            Arg::Write(&out),
            Arg::U32(m),
            Arg::U32(o),
            Arg::U32(w.matrix.width),
            Arg::U32(in_h),
            Arg::U32(in_w),
            Arg::U32(out_h),
            Arg::U32(out_w),
            Arg::U32(top),
            Arg::U32(left),
        ];
        let constants = constants.tiled(geometry);
        TiledGemm { op, file: TILED, constants: &constants, m, n: o, args: &args, tiles: tile::Tiles::Any }
            .launch(gpu)?;
        Ok(out)
    }
}

/// A convolution of stride 1 on Hopper.
struct Sm90Conv2d<'a> {
    gpu: &'a Gpu,
    x: &'a CudaTensor,
    w: &'a CudaConv2d,
    residual: Option<&'a CudaTensor>,
    out: &'a CudaTensor,
}

/// One implicit gemm of a convolution: the rows of a matrix, the taps, and the padding.
struct Pass<'a> {
    weights: &'a Matrix,
    /// The rows of the matrix.
    columns: Range<usize>,
    /// The height and the width of the taps.
    taps: [usize; 2],
    /// The padding at the top and on the left.
    pad: [usize; 2],
    /// The height and the width of the output.
    size: [usize; 2],
    out: TensorMap,
}

impl Sm90Conv2d<'_> {
    /// Computes a convolution without upsampling in one pass.
    fn plain(&self, pad: [usize; 2]) -> Result<()> {
        let [o, kh, kw, _] = self.w.dims();
        let [_, height, width, _] = self.out.dims();
        let size = [height, width];
        let out = self.map(self.out, 0, size, [1, width]);
        self.run(Pass { weights: &self.w.matrix, columns: 0..o, taps: [kh, kw], pad, size, out })
    }

    /// Computes a 3×3 convolution of an upsampled picture in four passes, one for each of the
    /// output pixels of an input pixel: the nine taps of an output pixel see four input pixels.
    fn upsampled(&self) -> Result<()> {
        let [o, ..] = self.w.dims();
        let [_, height, width, _] = self.x.dims();
        let weights = self.w.merged(|| self.merge_taps())?;
        for (pass, [y, x]) in [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().enumerate() {
            let size = [height, width];
            // The output pixels of a pass are two pixels apart.
            let out = self.map(self.out, (y * 2 * width + x) * o, size, [2, 4 * width]);
            let columns = pass * o..(pass + 1) * o;
            self.run(Pass { weights, columns, taps: [2, 2], pad: [1 - y, 1 - x], size, out })?;
        }
        Ok(())
    }

    fn run(&self, pass: Pass<'_>) -> Result<()> {
        let Pass { weights, columns, taps: [kh, kw], pad: [top, left], size: [height, width], out } = pass;
        let [o, _, _, channels] = self.w.dims();
        let [items, x_height, x_width, _] = self.x.dims();
        let constants = Constants {
            kernel: [o, kh, kw, channels],
            has_bias: self.w.bias.is_some(),
            has_residual: self.residual.is_some(),
        };
        let tile_height = UNSHARED_TILE_M / SM90_TILE_WIDTH;
        let m = items * width.div_ceil(SM90_TILE_WIDTH) * height.div_ceil(tile_height) * UNSHARED_TILE_M;
        let gemm = Sm90Gemm {
            op: "conv2d",
            file: SM90,
            constants: &constants.list(),
            m,
            weights: weights.into(),
            columns,
            a: self.map(self.x, 0, [x_height, x_width], [1, x_width]),
            out,
            sharing: Sharing::None,
            tiles: Tiles::Any,
        };
        let epilogue = [Arg::optional(self.w.bias.as_ref()), Arg::optional(self.residual)];
        gemm.launch(self.gpu, &epilogue, &[m, o, kh * kw, height, width, top, left].map(Arg::U32))
    }

    /// The map of `height`×`width` pixels from element `start` on, with boxes of 4×16 pixels and 64
    /// channels. Neighbours in a row and in a column are `pixel_strides` pixels apart.
    fn map(
        &self,
        picture: &CudaTensor,
        start: usize,
        [height, width]: [usize; 2],
        pixel_strides: [usize; 2],
    ) -> TensorMap {
        let [items, rows, columns, channels] = picture.dims();
        let strides = [pixel_strides[0] * channels, pixel_strides[1] * channels, rows * columns * channels];
        let sizes = [channels, width, height, items];
        let boxes = [BOX_COLUMNS, SM90_TILE_WIDTH, BOX_ROWS / SM90_TILE_WIDTH];
        TensorMap::part("conv2d", picture, start, &sizes, &strides, &boxes)
    }

    /// The kernels of [`Sm90Conv2d::upsampled`], made once.
    fn merge_taps(&self) -> Result<Matrix> {
        let op = "merge_taps";
        let [o, kh, kw, _] = self.w.dims();
        let depth = self.w.matrix.width / (kh * kw);
        self.gpu.outside_recording(|| {
            let merged = Matrix::output(self.gpu, op, [4 * o, 4 * depth])?;
            let args = [self.w.matrix.arg(), Arg::Write(merged.tensor()), Arg::U32(o), Arg::U32(depth)];
            self.gpu.launch(&merge_program(), op, Grid::linear(4 * o, MERGE_THREADS), &args)?;
            Ok(merged)
        })
    }
}

fn merge_program() -> Program {
    Program::new("merge_taps", kernel!("merge_taps.cu"))
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    [([512, 3, 3, 16], false), ([512, 3, 3, 512], true), ([128, 1, 1, 256], false), ([256, 2, 2, 256], false)]
        .into_iter()
        .flat_map(|(kernel, has_residual)| {
            let constants = Constants { kernel, has_bias: true, has_residual };
            sm90::programs("conv2d", SM90, &constants.list(), Sharing::None, Tiles::Any)
        })
        .collect()
}

/// Programs for convolutions of the autoencoder and for an odd one.
pub(crate) fn programs() -> Vec<Program> {
    let plain = Conv2d { stride: 1, pad: [1; 4], upsample: false };
    let mut programs = vec![merge_program()];
    for (kernel, geometry, has_residual) in [
        ([128, 3, 3, 3], plain, false),
        ([3, 3, 3, 128], plain, false),
        ([512, 3, 3, 16], plain, false),
        ([512, 3, 3, 512], plain, true),
        ([256, 1, 1, 128], plain, true),
        ([256, 3, 3, 256], Conv2d { upsample: true, ..plain }, false),
        ([128, 3, 3, 128], Conv2d { stride: 2, ..plain }, false),
        ([13, 2, 5, 7], Conv2d { stride: 3, pad: [2, 0, 1, 3], upsample: true }, true),
    ] {
        let constants = Constants { kernel, has_bias: true, has_residual };
        programs.extend(tile::extreme_programs("conv2d", TILED, &constants.tiled(geometry)));
    }
    programs
}
