//! `conv2d`: a convolution over channels-last pictures, as im2col and gemm.

use super::matrix::{View, ViewMut, product};
use super::parallel::*;
use super::rows::or;
use super::tensor::floats;
use super::{Cpu, CpuTensor};
use crate::backend::{Conv2d, Conv2dArgs, Conv2dOp, DeviceTensor, DeviceWeight};
use crate::error::Result;
use crate::reserve::{self, zeros};
use crate::tensor::HostTensor;
use std::sync::Arc;

/// Values of the im2col matrix per task; they fit the cache.
const UNROLLED: usize = 1 << 17;

/// A kernel `[O, kh, kw, I]` and its bias.
#[derive(Debug, Clone)]
pub struct CpuConv2d {
    kernel: Arc<Vec<f32>>,
    dims: [usize; 4],
    bias: Option<Arc<[f32]>>,
}

impl CpuConv2d {
    /// From the stored layout `[O, I, kh, kw]`.
    fn new(kernel: &HostTensor, [o, i, kh, kw]: [usize; 4], bias: Option<&HostTensor>) -> Result<Self> {
        let stored = floats(kernel.dtype(), kernel.bytes())?;
        let mut kernel = reserve::with_room(stored.len(), "the kernel of a convolution")?;
        for out in 0..o {
            for tap in 0..kh * kw {
                kernel.extend((0..i).map(|channel| stored[(out * i + channel) * kh * kw + tap]));
            }
        }
        Ok(Self { kernel: Arc::new(kernel), dims: [o, kh, kw, i], bias: bias.map(|bias| bias.to_f32().into()) })
    }
}

impl DeviceWeight<4> for CpuConv2d {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }
}

impl Conv2dOp for Cpu {
    type Conv2d = CpuConv2d;

    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored: [usize; 4],
    ) -> Result<CpuConv2d> {
        CpuConv2d::new(kernel, stored, bias)
    }

    fn run_conv2d(&self, args: Conv2dArgs<'_, CpuTensor, CpuConv2d>, shape: [usize; 4]) -> Result<CpuTensor> {
        let Conv2dArgs { x, w, geometry, residual } = args;
        let size = [x.shape()[1], x.shape()[2]];
        let out_size = [shape[1], shape[2]];
        let w = w.clone();
        let has_residual = residual.is_some();
        self.fill(&shape, [x, or(residual, x)], move |[x, residual], out| {
            let residual = if has_residual { Some(residual.f32()?) } else { None };
            conv2d(&x.f32()?, size, &w, geometry, residual.as_deref(), out_size, out)
        })
    }
}

/// Convolves `x` `[H, W]` pixels per item to `out` `[H', W']`, as the op defines it. Each task
/// unrolls the pixels under the kernel into rows of a matrix (im2col) and multiplies it by the
/// kernel.
fn conv2d(
    x: &[f32],
    [height, width]: [usize; 2],
    w: &CpuConv2d,
    geometry: Conv2d,
    residual: Option<&[f32]>,
    [out_height, out_width]: [usize; 2],
    out: &mut [f32],
) -> Result<()> {
    let [o, kh, kw, i] = w.dims;
    let taps = kh * kw * i;
    let zoom = usize::from(geometry.upsample);
    let pointwise = kh == 1 && kw == 1 && geometry == Conv2d { stride: 1, ..Conv2d::default() };
    let pixels = (UNROLLED / taps).clamp(1, out_height * out_width);
    let item = out_height * out_width * o;

    out.par_chunks_mut(item).enumerate().try_for_each(|(b, out)| {
        let x = &x[b * height * width * i..][..height * width * i];
        out.par_chunks_mut(pixels * o).enumerate().try_for_each_init(Vec::new, |unrolled, (task, out)| {
            let first = task * pixels;
            let rows = out.len() / o;
            let input = if pointwise {
                &x[first * i..(first + rows) * i]
            } else {
                if unrolled.len() < rows * taps {
                    *unrolled = zeros(rows * taps, "the pixels under a convolution's kernel")?;
                }
                let unrolled = &mut unrolled[..rows * taps];
                for (row, pixel) in unrolled.chunks_exact_mut(taps).zip(first..) {
                    let (top, left) = (pixel / out_width * geometry.stride, pixel % out_width * geometry.stride);
                    for (tap, values) in row.chunks_exact_mut(i).enumerate() {
                        // Coordinates in the padded picture minus the padding. Positions outside
                        // the picture are 0.
                        let y = (top + tap / kw).wrapping_sub(geometry.pad[0]) >> zoom;
                        let x_ = (left + tap % kw).wrapping_sub(geometry.pad[1]) >> zoom;
                        match y < height && x_ < width {
                            true => values.copy_from_slice(&x[(y * width + x_) * i..][..i]),
                            false => values.fill(0.0),
                        }
                    }
                }
                unrolled
            };
            let product_out = ViewMut { data: out, rows, cols: o, row_stride: o };
            product(product_out, View::new(input, rows, taps, taps), View::new(&w.kernel, o, taps, taps).t(), false);
            if let Some(bias) = &w.bias {
                out.chunks_exact_mut(o).for_each(|row| row.iter_mut().zip(&bias[..]).for_each(|(out, b)| *out += b));
            }
            if let Some(residual) = residual {
                let residual = &residual[b * item + first * o..][..rows * o];
                out.iter_mut().zip(residual).for_each(|(out, r)| *out += r);
            }
            Ok(())
        })
    })
}
