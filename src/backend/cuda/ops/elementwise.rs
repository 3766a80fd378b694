//! The verbs that only move or scale values: lookups, sequences, conversions, and the two ends of the autoencoder.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::{DeviceTensor, shapes};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Threads of a block that gives every value a thread.
const BLOCK: usize = 256;
/// Threads of a block that takes a row.
const ROW: usize = 128;

/// How kernels know the type of what they read.
fn type_number(verb: &'static str, dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 => Ok(0),
        DType::Bf16 => Ok(1),
        DType::F16 => Ok(2),
        DType::U32 | DType::U8 => Err(Error::shape(verb, format!("a floating type is needed, not {dtype}"))),
    }
}

/// Refuses a table without rows: kernels clamp to the last one.
pub(crate) fn needs_rows(verb: &'static str, table: &CudaTensor) -> Result<()> {
    match table.shape().first() {
        Some(0) | None => Err(Error::shape(verb, format!("a table of shape {:?} has no rows", table.shape()))),
        Some(_) => Ok(()),
    }
}

fn gather_program(number: usize, vector: usize) -> Program {
    Program::new("gather_rows", &[kernel!("gather_rows.cu")]).with("TYPE", number).with("VECTOR", vector)
}

pub(crate) fn gather_rows(gpu: &Gpu, table: &CudaTensor, ids: &CudaTensor) -> Result<CudaTensor> {
    let verb = "gather_rows";
    let shape = shapes::gather_rows(table.shape(), ids.shape())?;
    shapes::typed(verb, "the ids", ids.dtype(), DType::U32)?;
    needs_rows(verb, table)?;
    let (rows, width) = (table.shape()[0], table.shape()[1]);
    let program = gather_program(type_number(verb, table.dtype())?, vector(width));
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let args = [Arg::Read(table), Arg::Read(ids), Arg::Write(&out), Arg::U32(rows), Arg::U32(width)];
    gpu.launch(&program, verb, Grid::row(ids.len(), ROW), &args)?;
    Ok(out)
}

fn convert_program(from: usize, to: usize) -> Program {
    Program::new("convert", &[kernel!("convert.cu")]).with("FROM", from).with("TO", to)
}

impl Gpu {
    fn converted(&self, tensor: &CudaTensor, to: DType) -> Result<CudaTensor> {
        if tensor.dtype() == to {
            return Ok(tensor.clone());
        }
        let verb = "convert";
        let program = convert_program(type_number(verb, tensor.dtype())?, type_number(verb, to)?);
        let out = self.output(verb, tensor.shape(), to)?;
        let args = [Arg::Read(tensor), Arg::Write(&out), Arg::U32(tensor.len())];
        self.launch(&program, verb, Grid::row(tensor.len().div_ceil(BLOCK), BLOCK), &args)?;
        Ok(out)
    }

    /// `tensor` as an activation: itself, or a copy of one that was uploaded in another type.
    pub(crate) fn activation(&self, tensor: &CudaTensor) -> Result<CudaTensor> {
        self.converted(tensor, DType::Bf16)
    }

    /// `tensor` as F32: itself, or a widened copy.
    pub(crate) fn float(&self, tensor: &CudaTensor) -> Result<CudaTensor> {
        self.converted(tensor, DType::F32)
    }

    /// Makes `tensor` an activation where it is none, for a verb that changes it.
    pub(crate) fn make_activation(&self, tensor: &mut CudaTensor) -> Result<()> {
        if tensor.dtype() != DType::Bf16 {
            *tensor = self.activation(tensor)?;
        }
        Ok(())
    }
}

fn rows_program(verb: &'static str, vector: usize) -> Program {
    let file = if verb == "pad_rows" { kernel!("pad_rows.cu") } else { kernel!("join_sequence.cu") };
    Program::new(verb, &[file]).with("VECTOR", vector)
}

pub(crate) fn pad_rows(gpu: &Gpu, x: &mut CudaTensor, token: &CudaTensor, lengths: &CudaTensor) -> Result<()> {
    let verb = "pad_rows";
    shapes::pad_rows(x.shape(), token.shape(), lengths.shape())?;
    gpu.make_activation(x)?;
    let token = gpu.float(token)?;
    let (items, tokens, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let args = [Arg::Write(x), Arg::Read(&token), Arg::Read(lengths), Arg::U32(tokens), Arg::U32(width)];
    gpu.launch(&rows_program(verb, vector(width)), verb, Grid::row(items * tokens, ROW), &args)
}

pub(crate) fn join_sequence(
    gpu: &Gpu,
    image: &CudaTensor,
    caption: &CudaTensor,
    captions: &CudaTensor,
) -> Result<CudaTensor> {
    let verb = "join_sequence";
    let shape @ [items, tokens, width] = shapes::join_sequence(image.shape(), caption.shape(), captions.shape())?;
    needs_rows(verb, caption)?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let (image, caption) = (gpu.activation(image)?, gpu.activation(caption)?);
    let args = [
        Arg::Read(&image),
        Arg::Read(&caption),
        Arg::Read(captions),
        Arg::Write(&out),
        Arg::U32(image.shape()[0]),
        Arg::U32(image.shape()[1]),
        Arg::U32(caption.shape()[0]),
        Arg::U32(caption.shape()[1]),
        Arg::U32(width),
    ];
    gpu.launch(&rows_program(verb, vector(width)), verb, Grid::row(items * tokens, ROW), &args)?;
    Ok(out)
}

fn simple(verb: &'static str) -> Program {
    let file = match verb {
        "unscale_latents" => kernel!("unscale_latents.cu"),
        "scale_latents" => kernel!("scale_latents.cu"),
        "normalize_rgb8" => kernel!("normalize_rgb8.cu"),
        _ => kernel!("to_rgb8.cu"),
    };
    Program::new(verb, &[file])
}

pub(crate) fn unscale_latents(gpu: &Gpu, latents: &CudaTensor, scale: f32, shift: f32) -> Result<CudaTensor> {
    let verb = "unscale_latents";
    let shape @ [_, h, w, c] = shapes::unscale_latents(latents.shape())?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let latents = gpu.float(latents)?;
    let args = [
        Arg::Read(&latents),
        Arg::Write(&out),
        Arg::U32(out.len()),
        Arg::U32(c),
        Arg::U32(h * w),
        Arg::F32(scale),
        Arg::F32(shift),
    ];
    gpu.launch(&simple(verb), verb, Grid::row(out.len().div_ceil(BLOCK), BLOCK), &args)?;
    Ok(out)
}

pub(crate) fn scale_latents(gpu: &Gpu, x: &CudaTensor, channels: usize, scale: f32, shift: f32) -> Result<CudaTensor> {
    let verb = "scale_latents";
    let shape @ [_, _, h, w] = shapes::scale_latents(x.shape(), channels)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let x = gpu.activation(x)?;
    let args = [
        Arg::Read(&x),
        Arg::Write(&out),
        Arg::U32(out.len()),
        Arg::U32(channels),
        Arg::U32(x.shape()[3]),
        Arg::U32(h * w),
        Arg::F32(scale),
        Arg::F32(shift),
    ];
    gpu.launch(&simple(verb), verb, Grid::row(out.len().div_ceil(BLOCK), BLOCK), &args)?;
    Ok(out)
}

pub(crate) fn normalize_rgb8(gpu: &Gpu, pixels: &CudaTensor) -> Result<CudaTensor> {
    let verb = "normalize_rgb8";
    shapes::typed(verb, "pixels", pixels.dtype(), DType::U8)?;
    let out = gpu.output(verb, pixels.shape(), DType::Bf16)?;
    let args = [Arg::Read(pixels), Arg::Write(&out), Arg::U32(out.len())];
    gpu.launch(&simple(verb), verb, Grid::row(out.len().div_ceil(BLOCK), BLOCK), &args)?;
    Ok(out)
}

pub(crate) fn to_rgb8(gpu: &Gpu, x: &CudaTensor) -> Result<CudaTensor> {
    let verb = "to_rgb8";
    let out = gpu.output(verb, x.shape(), DType::U8)?;
    let x = gpu.activation(x)?;
    let args = [Arg::Read(&x), Arg::Write(&out), Arg::Write(&gpu.not_numbers), Arg::U32(out.len())];
    gpu.launch(&simple(verb), verb, Grid::row(out.len().div_ceil(8 * BLOCK), BLOCK), &args)?;
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for vector in [1, 8] {
        programs.extend([0, 1, 2].map(|number| gather_program(number, vector)));
        programs.extend(["pad_rows", "join_sequence"].map(|verb| rows_program(verb, vector)));
    }
    programs.extend([(0, 1), (2, 1), (1, 0), (2, 0)].map(|(from, to)| convert_program(from, to)));
    programs.extend(["unscale_latents", "scale_latents", "normalize_rgb8", "to_rgb8"].map(simple));
    programs
}
