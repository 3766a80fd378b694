//! `conv2d`: a convolution over pictures that are channels last, as a product.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::gemm::sm90::{self, Sharing};
use crate::backend::cuda::gemm::tile::{self, Product};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::launch::tensor_map::TensorMap;
use crate::backend::cuda::matrix::{CudaConv2d, Matrix};
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{Conv2d, DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;
use std::ops::Range;

/// What Hopper's kernel does.
const PLAIN: Conv2d = Conv2d { stride: 1, pad: [1; 4], upsample: false };

/// What the kernel is compiled for, besides its tile.
fn constants([o, _, kw, i]: [usize; 4], geometry: Conv2d, [bias, residual]: [bool; 2]) -> [(&'static str, usize); 7] {
    [
        ("CHANNELS", i),
        ("KERNEL_WIDTH", kw),
        ("STRIDE", geometry.stride),
        ("UPSAMPLE", usize::from(geometry.upsample)),
        ("HAS_BIAS", usize::from(bias)),
        ("HAS_RESIDUAL", usize::from(residual)),
        ("ALIGNED_OUT", aligned(o)),
    ]
}

pub(crate) fn conv2d(
    gpu: &Gpu,
    x: &CudaTensor,
    w: &CudaConv2d,
    geometry: Conv2d,
    residual: Option<&CudaTensor>,
) -> Result<CudaTensor> {
    let verb = "conv2d";
    let shape @ [items, out_h, out_w, o] = shapes::conv2d(x.shape(), w.dims, geometry, residual.map(|r| r.shape()))?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let x = gpu.activation(x)?;
    let residual = residual.map(|residual| gpu.activation(residual)).transpose()?;
    let [top, left, ..] = geometry.pad;
    let [_, kh, kw, channels] = w.dims;
    if geometry.stride == 1 && sm90::takes(gpu, [channels, o]) {
        let hopper = OnHopper { gpu, x: &x, w, residual: residual.as_ref(), out: &out };
        if !geometry.upsample {
            hopper.whole([top, left])?;
            return Ok(out);
        }
        if [kh, kw] == [3, 3] && geometry.pad == [1; 4] && residual.is_none() {
            hopper.upsampled()?;
            return Ok(out);
        }
    }
    let constants = constants(w.dims, geometry, [w.bias.is_some(), residual.is_some()]);
    let m = items * out_h * out_w;
    let args = [
        Arg::Read(&x),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::optional(residual.as_ref()),
        Arg::Write(&out),
        Arg::U32(m),
        Arg::U32(o),
        Arg::U32(w.matrix.width),
        Arg::U32(x.shape()[1]),
        Arg::U32(x.shape()[2]),
        Arg::U32(out_h),
        Arg::U32(out_w),
        Arg::U32(top),
        Arg::U32(left),
    ];
    Product { verb, file: kernel!("conv2d.cu"), m, n: o, args: &args }.tiled(gpu, &constants)?;
    Ok(out)
}

/// A convolution of stride 1 on Hopper.
struct OnHopper<'a> {
    gpu: &'a Gpu,
    x: &'a CudaTensor,
    w: &'a CudaConv2d,
    residual: Option<&'a CudaTensor>,
    out: &'a CudaTensor,
}

/// What some pixels of the output are made of: the taps, which rows of which matrix, and what stands above and to the left.
struct Taps<'a> {
    weights: &'a Matrix,
    columns: Range<usize>,
    size: [usize; 2],
    pad: [usize; 2],
}

impl OnHopper<'_> {
    /// Every pixel of the output.
    fn whole(&self, pad: [usize; 2]) -> Result<()> {
        let ([o, kh, kw, _], [_, height, width, _]) = (self.w.dims, self.dims(self.out)?);
        let to = self.map(self.out, 0, [height, width], [1, width])?;
        self.run(Taps { weights: &self.w.matrix, columns: 0..o, size: [kh, kw], pad }, [height, width], to)
    }

    /// The four pixels that each of the picture's stands for, one after the other: of nine taps they see four pixels.
    fn upsampled(&self) -> Result<()> {
        let ([o, ..], [_, height, width, _]) = (self.w.dims, self.dims(self.x)?);
        let weights = self.w.merged(|| self.merge_taps())?;
        for (place, [y, x]) in [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().enumerate() {
            // Neighbours of one place are two pixels apart.
            let to = self.map(self.out, (y * 2 * width + x) * o, [height, width], [2, 4 * width])?;
            let columns = place * o..(place + 1) * o;
            self.run(Taps { weights, columns, size: [2, 2], pad: [1 - y, 1 - x] }, [height, width], to)?;
        }
        Ok(())
    }

    /// Runs the product for `height`×`width` pixels of the output in tiles of 8×16.
    fn run(&self, taps: Taps<'_>, [height, width]: [usize; 2], out: TensorMap) -> Result<()> {
        let Taps { weights, columns, size: [kh, kw], pad: [top, left] } = taps;
        let ([o, _, _, i], [items, x_height, x_width, _]) = (self.w.dims, self.dims(self.x)?);
        let constants = constants([o, kh, kw, i], PLAIN, [self.w.bias.is_some(), self.residual.is_some()]);
        let m = items * width.div_ceil(16) * height.div_ceil(sm90::TILE_M / 16) * sm90::TILE_M;
        let x = self.map(self.x, 0, [x_height, x_width], [1, x_width])?;
        let (verb, file, constants) = ("conv2d", kernel!("conv2d.cu"), &constants);
        let product =
            sm90::Product { verb, file, constants, m, weights, columns, left: x, out, sharing: Sharing::Alone };
        let between = [Arg::optional(self.w.bias.as_ref()), Arg::optional(self.residual)];
        product.run(self.gpu, &between, &[m, o, kh * kw, height, width, top, left].map(Arg::U32))
    }

    /// Boxes of 4×16 pixels and 64 channels of a picture, from an element on. Pixels side by side and one below the other
    /// are `apart` pixels from each other.
    fn map(&self, of: &CudaTensor, start: usize, [height, width]: [usize; 2], apart: [usize; 2]) -> Result<TensorMap> {
        let [items, rows, columns, channels] = self.dims(of)?;
        let strides = [apart[0] * channels, apart[1] * channels, rows * columns * channels];
        let sizes = [channels, width, height, items];
        Ok(TensorMap::part("conv2d", of.memory(), start, &sizes, &strides, &[64, 16, sm90::BOX / 16]))
    }

    fn dims(&self, of: &CudaTensor) -> Result<[usize; 4]> {
        shapes::dims::<4>("conv2d", "a picture", of.shape())
    }

    /// The kernels of [`OnHopper::upsampled`], made once.
    fn merge_taps(&self) -> Result<Matrix> {
        let ([o, ..], depth) = (self.w.dims, self.w.matrix.width / 9);
        self.gpu.aside(|| {
            let merged = Matrix::empty(self.gpu, "merge_taps", [4 * o, 4 * depth])?;
            let args = [Arg::Weights(&self.w.matrix), Arg::Write(merged.tensor()), Arg::U32(o), Arg::U32(depth)];
            self.gpu.launch(&merge_program(), "merge_taps", Grid::row(4 * o, 128), &args)?;
            Ok(merged)
        })
    }
}

fn merge_program() -> Program {
    Program::new("merge_taps", &[kernel!("merge_taps.cu")])
}

/// The programs of this verb that are for Hopper alone.
pub(crate) fn hopper_programs() -> Vec<Program> {
    [([512, 3, 3, 16], false), ([512, 3, 3, 512], true), ([128, 1, 1, 256], false), ([256, 2, 2, 256], false)]
        .into_iter()
        .flat_map(|(dims, residual)| {
            sm90::programs("conv2d", kernel!("conv2d.cu"), &constants(dims, PLAIN, [true, residual]), Sharing::Alone)
        })
        .collect()
}

/// Programs of this verb for convolutions of the autoencoder and for an odd one.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = vec![merge_program()];
    for (dims, geometry, residual) in [
        ([128, 3, 3, 3], PLAIN, false),
        ([3, 3, 3, 128], PLAIN, false),
        ([512, 3, 3, 16], PLAIN, false),
        ([512, 3, 3, 512], PLAIN, true),
        ([256, 1, 1, 128], PLAIN, true),
        ([256, 3, 3, 256], Conv2d { upsample: true, ..PLAIN }, false),
        ([128, 3, 3, 128], Conv2d { stride: 2, ..PLAIN }, false),
        ([13, 2, 5, 7], Conv2d { stride: 3, pad: [2, 0, 1, 3], upsample: true }, true),
    ] {
        programs.extend(tile::some_tiled("conv2d", kernel!("conv2d.cu"), &constants(dims, geometry, [true, residual])));
    }
    programs
}
