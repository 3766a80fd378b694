//! The verbs that give every value a thread: lookups, sequences, and the two ends of the autoencoder.

use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{DeviceTensor, shapes};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Values of a workgroup.
const GROUP: usize = 256;

/// Refuses a table without rows: shaders clamp to the last one.
pub(crate) fn needs_rows(verb: &'static str, table: &WebGpuTensor) -> Result<()> {
    match table.shape().first() {
        Some(0) | None => Err(Error::shape(verb, format!("a table of shape {:?} has no rows", table.shape()))),
        Some(_) => Ok(()),
    }
}

fn words<const N: usize>(values: [usize; N]) -> Vec<u32> {
    values.map(|value| value as u32).to_vec()
}

fn gather_program(stored: Stored) -> Program {
    Program::new("gather_rows", &[wgsl!("common"), wgsl!("gather_rows")]).with("TYPE", stored.number())
}

pub(crate) fn gather_rows(gpu: &Gpu, table: &WebGpuTensor, ids: &WebGpuTensor) -> Result<WebGpuTensor> {
    let verb = "gather_rows";
    let shape = shapes::gather_rows(table.shape(), ids.shape())?;
    needs_rows(verb, table)?;
    let (rows, width) = (table.shape()[0], table.shape()[1]);
    if matches!(table.dtype(), DType::U32 | DType::U8) {
        return Err(Error::shape(verb, format!("a floating type is needed, not {}", table.dtype())));
    }
    let program = gather_program(Stored::from(table.dtype()));
    if ids.dtype() != DType::U32 {
        return Err(Error::shape(verb, format!("ids must be U32, not {}", ids.dtype())));
    }
    let out = gpu.output(verb, &shape, DType::F32)?;
    // Windows of a table that is larger than a binding start where every adapter allows it, on 256 bytes: every 128
    // rows do, as their elements have two bytes or four.
    let row = (width * table.dtype().size()) as u64;
    let most = gpu.device.max_binding;
    let (window, step) = if table.bytes() <= most {
        (rows, rows)
    } else {
        let fitting = (most / row.max(1)) as usize / 128 * 128;
        if fitting == 0 {
            return Err(Error::Device(format!(
                "{verb}: rows of {width} are too wide for what {} allows for one buffer",
                gpu.device.info.name
            )));
        }
        (fitting, fitting)
    };
    for first in (0..rows).step_by(step.max(1)) {
        let count = window.min(rows - first);
        let offset = first as u64 * row;
        let bytes = (count as u64 * row).next_multiple_of(16).max(16).min(table.bytes() - offset);
        let part = Binding { memory: table.memory().clone(), offset, bytes };
        let parameters = words([out.len(), width, first, count, rows]);
        gpu.dispatch(
            &program,
            &[part, Binding::from(ids), Binding::from(&out)],
            parameters,
            out.len().div_ceil(GROUP),
        )?;
    }
    Ok(out)
}

impl Gpu {
    /// `tensor`, which has to be F32, as all are but numbers, pictures and tables.
    pub(crate) fn float(&self, verb: &'static str, tensor: &WebGpuTensor) -> Result<WebGpuTensor> {
        if tensor.dtype() == DType::F32 {
            return Ok(tensor.clone());
        }
        let problem = format!("F32 is needed, not {} {:?}", tensor.dtype(), tensor.shape());
        Err(Error::shape(verb, problem))
    }
}

fn simple(name: &'static str) -> Program {
    let file = match name {
        "pad_rows" => wgsl!("pad_rows"),
        "join_sequence" => wgsl!("join_sequence"),
        "unscale_latents" => wgsl!("unscale_latents"),
        "scale_latents" => wgsl!("scale_latents"),
        "normalize_rgb8" => wgsl!("normalize_rgb8"),
        _ => wgsl!("to_rgb8"),
    };
    Program::new(name, &[wgsl!("common"), file])
}

pub(crate) fn pad_rows(gpu: &Gpu, x: &mut WebGpuTensor, token: &WebGpuTensor, lengths: &WebGpuTensor) -> Result<()> {
    shapes::pad_rows(x.shape(), token.shape(), lengths.shape())?;
    gpu.float("pad_rows", x)?;
    let token = gpu.float("pad_rows", token)?;
    let parameters = words([x.len(), x.shape()[1], x.shape()[2]]);
    let args = [Binding::from(&*x), Binding::from(&token), Binding::from(lengths)];
    gpu.dispatch(&simple("pad_rows"), &args, parameters, x.len().div_ceil(GROUP))
}

pub(crate) fn join_sequence(
    gpu: &Gpu,
    image: &WebGpuTensor,
    caption: &WebGpuTensor,
    captions: &WebGpuTensor,
) -> Result<WebGpuTensor> {
    let verb = "join_sequence";
    let shape = shapes::join_sequence(image.shape(), caption.shape(), captions.shape())?;
    needs_rows(verb, caption)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let (image, caption) = (gpu.float(verb, image)?, gpu.float(verb, caption)?);
    let item = |tensor: &WebGpuTensor| tensor.shape()[1] * tensor.shape()[2];
    let parameters = words([out.len(), image.shape()[0], item(&image), caption.shape()[0], item(&caption)]);
    let args = [Binding::from(&image), Binding::from(&caption), Binding::from(captions), Binding::from(&out)];
    gpu.dispatch(&simple(verb), &args, parameters, out.len().div_ceil(GROUP))?;
    Ok(out)
}

pub(crate) fn unscale_latents(gpu: &Gpu, latents: &WebGpuTensor, scale: f32, shift: f32) -> Result<WebGpuTensor> {
    let verb = "unscale_latents";
    let shape @ [_, h, w, c] = shapes::unscale_latents(latents.shape())?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let latents = gpu.float(verb, latents)?;
    let mut parameters = words([out.len(), c, h * w]);
    parameters.extend([scale.to_bits(), shift.to_bits()]);
    gpu.dispatch(
        &simple(verb),
        &[Binding::from(&latents), Binding::from(&out)],
        parameters,
        out.len().div_ceil(GROUP),
    )?;
    Ok(out)
}

pub(crate) fn scale_latents(
    gpu: &Gpu,
    x: &WebGpuTensor,
    channels: usize,
    scale: f32,
    shift: f32,
) -> Result<WebGpuTensor> {
    let verb = "scale_latents";
    let shape @ [_, _, h, w] = shapes::scale_latents(x.shape(), channels)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let x = gpu.float(verb, x)?;
    let mut parameters = words([out.len(), channels, x.shape()[3], h * w]);
    parameters.extend([scale.to_bits(), shift.to_bits()]);
    gpu.dispatch(&simple(verb), &[Binding::from(&x), Binding::from(&out)], parameters, out.len().div_ceil(GROUP))?;
    Ok(out)
}

pub(crate) fn normalize_rgb8(gpu: &Gpu, pixels: &WebGpuTensor) -> Result<WebGpuTensor> {
    let verb = "normalize_rgb8";
    if pixels.dtype() != DType::U8 {
        return Err(Error::shape(verb, format!("pixels must be U8, not {}", pixels.dtype())));
    }
    let out = gpu.output(verb, pixels.shape(), DType::F32)?;
    let args = [Binding::from(pixels), Binding::from(&out)];
    gpu.dispatch(&simple(verb), &args, words([out.len()]), out.len().div_ceil(GROUP))?;
    Ok(out)
}

pub(crate) fn to_rgb8(gpu: &Gpu, x: &WebGpuTensor) -> Result<WebGpuTensor> {
    let verb = "to_rgb8";
    let out = gpu.output(verb, x.shape(), DType::U8)?;
    let x = gpu.float(verb, x)?;
    let args = [Binding::from(&x), Binding::from(&out), gpu.non_finite()];
    gpu.dispatch(&simple(verb), &args, words([out.len()]), out.len().div_ceil(4 * GROUP))?;
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    programs.extend(Stored::ALL.map(gather_program));
    let names = ["pad_rows", "join_sequence", "unscale_latents", "scale_latents", "normalize_rgb8", "to_rgb8"];
    programs.extend(names.map(simple));
    programs
}
