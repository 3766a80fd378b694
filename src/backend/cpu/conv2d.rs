//! `conv2d`: a convolution over channels-last pictures, as gemms over their pixels.
//!
//! In a channels-last picture the values under one row of the kernel are contiguous. So the pixels
//! under the kernel are the left matrix of a gemm as they lie in memory, with a segment for each
//! row of the kernel. A task copies the rows that it reads, with their padding, and multiplies them
//! by the packed kernel. The usual upsampling convolution multiplies the small picture by four
//! smaller kernels.

use super::microkernel::Left;
use super::packed::{Panels, each_panel, multiply, packed_len, packed_rows, store};
use super::parallel::*;
use super::rows::or;
use super::tensor::floats;
use super::{Cpu, CpuTensor};
use crate::backend::{Conv2d, Conv2dArgs, Conv2dOp, DeviceTensor, DeviceWeight};
use crate::error::Result;
use crate::reserve::{self, zeros};
use crate::tensor::HostTensor;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Output pixels of a task, unless fewer keep the threads busy.
const PIXELS: usize = 512;
/// Copied input values of a task; they fit the cache.
const COPIED: usize = 1 << 16;
/// The geometry of a 3×3 kernel whose upsampling is not carried out: see [`phases`].
const UPSAMPLING: Conv2d = Conv2d { stride: 1, pad: [1; 4], upsample: true };

/// A kernel `[O, kh, kw, I]` and its bias.
#[derive(Debug, Clone)]
pub struct CpuConv2d {
    /// `[kh·kw·I, O]`, packed.
    kernel: Arc<Vec<f32>>,
    /// The kernels of the [`phases`], packed by the first convolution that needs them.
    phases: Arc<OnceLock<[Vec<f32>; 4]>>,
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
        let kernel = packed_rows(&kernel, o, kh * kw * i, "the kernel of a convolution")?;
        Ok(Self {
            kernel: Arc::new(kernel),
            phases: Arc::default(),
            dims: [o, kh, kw, i],
            bias: bias.map(|bias| bias.to_f32().into()),
        })
    }

    /// The kernels of the [`phases`].
    fn phases(&self) -> Result<&[Vec<f32>; 4]> {
        if let Some(phases) = self.phases.get() {
            return Ok(phases);
        }
        let phases = phases(&self.kernel, self.dims)?;
        Ok(self.phases.get_or_init(|| phases))
    }
}

/// The kernels `[2·2·I, O]` of the four phases of an [`UPSAMPLING`] convolution, from the packed
/// kernel `[3·3·I, O]`.
///
/// Output row `2y + p` reads the rows `2y + p − 1`, `2y + p` and `2y + p + 1` of the upsampled
/// picture. They are the rows `y − 1 + p` and `y + p` of the picture, one of them twice. For `p` 0
/// the first is read by the kernel's row 0 and the second by its rows 1 and 2, for `p` 1 the
/// first by its rows 0 and 1 and the second by its row 2. The columns are alike. So each of the
/// four phases of the output is a convolution of the small picture with a 2×2 kernel, whose values
/// are sums of the kernel's.
fn phases(kernel: &[f32], [o, _, _, i]: [usize; 4]) -> Result<[Vec<f32>; 4]> {
    let len = packed_len(4 * i, o);
    let mut phases = [(); 4].map(|()| Vec::new());
    for (phase, out) in phases.iter_mut().enumerate() {
        *out = zeros(len, "the kernel of an upsampling convolution")?;
        let (down, across) = (phase / 2, phase % 2);
        let part = |offset: usize, tap: usize| (tap + 1 - offset) / 2;
        each_panel(out, 4 * i, o, |first, panel_width, out| {
            let panel = &kernel[first * 9 * i..][..9 * i * panel_width];
            for (tap, values) in panel.chunks_exact(i * panel_width).enumerate() {
                let to = part(down, tap / 3) * 2 + part(across, tap % 3);
                let out = &mut out[to * i * panel_width..][..i * panel_width];
                out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
            }
        });
    }
    Ok(phases)
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

/// The pixels of the output that one kernel makes: every `step`-th one down and across, from
/// `offset` on.
struct Phase<'a> {
    /// `[size·I, O]`.
    kernel: Panels<'a>,
    size: [usize; 2],
    offset: [usize; 2],
}

/// Convolves `x` `[H, W]` pixels per item to `out` `[H', W']`, as the op defines it.
fn conv2d(
    x: &[f32],
    [height, width]: [usize; 2],
    w: &CpuConv2d,
    mut geometry: Conv2d,
    residual: Option<&[f32]>,
    [out_height, out_width]: [usize; 2],
    out: &mut [f32],
) -> Result<()> {
    let [o, kh, kw, i] = w.dims;
    if [kh, kw] == [1, 1] && geometry == (Conv2d { stride: 1, ..Conv2d::default() }) {
        multiply(x, i, Panels::new(&w.kernel, i, o), w.bias.as_deref(), out);
        if let Some(residual) = residual {
            out.par_chunks_mut(PIXELS * o).zip(residual.par_chunks(PIXELS * o)).for_each(|(out, r)| add(out, r));
        }
        return Ok(());
    }
    let (phases, step) = if geometry == UPSAMPLING && [kh, kw] == [3, 3] {
        geometry.upsample = false;
        let phase = |(p, kernel)| Phase { kernel: Panels::new(kernel, 4 * i, o), size: [2; 2], offset: [p / 2, p % 2] };
        (w.phases()?.iter().map(Vec::as_slice).enumerate().map(phase).collect(), 2)
    } else {
        let kernel = Panels::new(&w.kernel, kh * kw * i, o);
        (vec![Phase { kernel, size: [kh, kw], offset: [0; 2] }], 1)
    };
    let stride = geometry.stride;

    // Rows and columns of pixels that every phase makes, and those of a task.
    let [height_of_phase, width_of_phase] = [out_height / step, out_width / step];
    let rows = (PIXELS / width_of_phase).min(height_of_phase / (4 * threads())).max(1);
    let columns = ((COPIED / (kh * i)).saturating_sub(kw) / stride).clamp(1, width_of_phase);
    let row = out_width * o;

    out.par_chunks_mut(out_height * row).enumerate().try_for_each(|(b, out)| {
        let input = Picture { data: &x[b * height * width * i..][..height * width * i], size: [height, width], i };
        out.par_chunks_mut(rows * step * row).enumerate().try_for_each_init(Vec::new, |copied, (task, out)| {
            let first = task * rows;
            let count = out.len() / (step * row);
            for column in (0..width_of_phase).step_by(columns) {
                let across = columns.min(width_of_phase - column);
                // The input under these pixels, in the padded picture.
                let (copied_rows, copied_width) = ((count - 1) * stride + kh, (across - 1) * stride + kw);
                let (top, left) = (first * stride, column * stride);
                let len = copied_rows * copied_width * i;
                if copied.len() < len {
                    *copied = zeros(len, "the pixels under a convolution's kernel")?;
                }
                let window = [top..top + copied_rows, left..left + copied_width];
                input.copy(window, geometry, &mut copied[..len]);
                for (phase, r) in phases.iter().flat_map(|phase| (0..count).map(move |r| (phase, r))) {
                    let Phase { kernel, size, offset: [down, right] } = phase;
                    let pixels = Left {
                        data: &copied[((r * stride + down) * copied_width + right) * i..len],
                        rows: across,
                        row_stride: stride * i,
                        segments: size[0],
                        segment_stride: copied_width * i,
                        length: size[1] * i,
                    };
                    let out = &mut out[(r * step + down) * row + (column * step + right) * o..];
                    kernel.product(pixels, o, |rows, channels, tile| {
                        store(tile, rows, channels, w.bias.as_deref(), out, step * o);
                    });
                }
            }
            if let Some(residual) = residual {
                let residual = &residual[b * out_height * row + first * step * row..][..out.len()];
                add(out, residual);
            }
            Ok(())
        })
    })
}

fn add(out: &mut [f32], residual: &[f32]) {
    out.iter_mut().zip(residual).for_each(|(out, r)| *out += r);
}

/// A picture `[H, W]` of `i` channels.
struct Picture<'a> {
    data: &'a [f32],
    size: [usize; 2],
    i: usize,
}

impl Picture<'_> {
    /// Copies a window of the upsampled and padded picture to `out`.
    fn copy(&self, [rows, columns]: [Range<usize>; 2], geometry: Conv2d, out: &mut [f32]) {
        let Self { data, size: [height, width], i } = *self;
        let zoom = usize::from(geometry.upsample);
        let out_rows = out.chunks_exact_mut(columns.len() * i);
        for (y, out) in rows.zip(out_rows) {
            // Coordinates in the padded picture minus the padding. Positions outside the picture
            // are 0.
            let y = y.wrapping_sub(geometry.pad[0]) >> zoom;
            if y >= height {
                out.fill(0.0);
                continue;
            }
            let line = &data[y * width * i..][..width * i];
            if zoom == 0 {
                // The columns inside the picture are contiguous.
                let left = geometry.pad[1].saturating_sub(columns.start).min(columns.len());
                let start = (columns.start + left - geometry.pad[1].min(columns.start + left)).min(width);
                let count = (columns.len() - left).min(width - start);
                let (before, rest) = out.split_at_mut(left * i);
                let (inside, after) = rest.split_at_mut(count * i);
                before.fill(0.0);
                inside.copy_from_slice(&line[start * i..][..count * i]);
                after.fill(0.0);
                continue;
            }
            for (x, out) in columns.clone().zip(out.chunks_exact_mut(i)) {
                let x = x.wrapping_sub(geometry.pad[1]) >> zoom;
                match x < width {
                    true => out.copy_from_slice(&line[x * i..][..i]),
                    false => out.fill(0.0),
                }
            }
        }
    }
}
