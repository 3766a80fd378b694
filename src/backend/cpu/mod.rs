//! Plain Rust: the executable meaning of every verb, and what runs where there is no GPU.
//!
//! One file a verb, or a pair of verbs that undo each other, each a function on slices; this file checks shapes,
//! `recording` finds the memory and keeps the order. All arithmetic is F32, matrix products are the `gemm` crate's,
//! threads rayon's where there are threads.

mod activation;
mod attention;
mod conv2d;
mod gather_rows;
mod group_norm;
mod guide_and_step;
mod linear;
mod matrix;
mod parallel;
mod patches;
mod pictures;
mod qk_norm_rope;
mod recording;
mod residual_norm;
mod rms_norm;
mod sequence;
mod swiglu;
mod tensor;
#[cfg(test)]
mod tests;
mod timestep_embedding;

use super::{Backend, Branch, Conv2d, DeviceTensor, Heads, Mask, Modulation, QkNormRope, RmsNorm, shapes};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};
pub use conv2d::CpuConv2d;
pub use linear::CpuLinear;
use matrix::StoredMatrix;
use patches::Patches;
pub use recording::CpuRecording;
use recording::{apart, in_place};
use rms_norm::{Norm, Rows};
use std::sync::Mutex;
pub use tensor::CpuTensor;
use tensor::Elements;

/// The `cpu` backend.
#[derive(Debug, Default)]
pub struct Cpu {
    recording: Mutex<Option<CpuRecording>>,
}

/// The two matrices of a [`Backend::swiglu`].
#[derive(Debug)]
pub struct CpuSwiGlu {
    gate: StoredMatrix,
    up: StoredMatrix,
}

impl Cpu {
    /// The CPU this program runs on.
    pub fn new() -> Self {
        Self::default()
    }
}

/// An optional input: a verb's closure takes a fixed number of tensors, so `fallback` stands in for an absent one.
fn or<'a>(tensor: Option<&'a CpuTensor>, fallback: &'a CpuTensor) -> &'a CpuTensor {
    tensor.unwrap_or(fallback)
}

/// Where a modulation row stands, without its table, for a verb's closure to keep.
#[derive(Clone, Copy)]
struct RowOf {
    shared: bool,
    n: usize,
    row: usize,
}

impl RowOf {
    fn new(verb: &'static str, modulation: Modulation<'_, CpuTensor>, x: [usize; 3]) -> Result<Self> {
        let table = modulation.table.shape();
        shapes::modulated(verb, table, modulation.row, x)?;
        Ok(Self { shared: table[0] == 1, n: table[1], row: modulation.row })
    }

    fn in_table(self, table: &[f32]) -> Rows<'_> {
        Rows { table, shared: self.shared, n: self.n, row: self.row }
    }
}

/// The shape checks that `residual` and `residual_norm` share; returns the gate's place.
fn check_branch(verb: &'static str, x: [usize; 3], branch: &Branch<'_, CpuTensor>) -> Result<Option<RowOf>> {
    shapes::same(verb, "the branch", branch.y.shape(), &x)?;
    if let Some(norm) = branch.norm {
        shapes::norm(verb, &x, norm.shape())?;
    }
    branch.gate.map(|gate| RowOf::new(verb, gate, x)).transpose()
}

impl Backend for Cpu {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type SwiGlu = CpuSwiGlu;
    type Conv2d = CpuConv2d;
    type Recording = CpuRecording;
    type Event = ();

    const IN_FLIGHT: usize = 1;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        format!("{} threads, {}", parallel::threads(), std::env::consts::ARCH)
    }

    fn upload(&self, tensor: &HostTensor) -> Result<CpuTensor> {
        Ok(CpuTensor::stored(tensor))
    }

    async fn upload_table(&self, table: &Weight<'_>) -> Result<CpuTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        Ok(CpuTensor::stored(&table.whole().await?))
    }

    async fn download(&self, tensor: &CpuTensor) -> Result<HostTensor> {
        self.not_recording("download")?;
        tensor.to_host()
    }

    async fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> Result<CpuLinear> {
        let dims = shapes::stacked("upload_linear", parts, biases)?;
        let bias = (!biases.is_empty()).then(|| biases.iter().flat_map(HostTensor::to_f32).collect());
        Ok(CpuLinear { matrix: StoredMatrix::upload(parts, dims).await?, bias })
    }

    async fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> Result<CpuSwiGlu> {
        let dims = shapes::pair("upload_swiglu", gate, up)?;
        let matrix = async |part| StoredMatrix::upload(std::slice::from_ref(part), dims).await;
        Ok(CpuSwiGlu { gate: matrix(gate).await?, up: matrix(up).await? })
    }

    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<CpuConv2d> {
        let dims @ [o, ..] = shapes::dims::<4>("upload_conv2d", "the kernel", kernel.shape())?;
        if let Some(bias) = bias {
            shapes::same("upload_conv2d", "the bias", bias.shape(), &[o])?;
        }
        CpuConv2d::new(kernel, dims, bias)
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CpuRecording> {
        self.keep(steps)
    }

    fn replay(&self, recording: &CpuRecording) -> Result<()> {
        self.not_recording("replay")?;
        recording.run()
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    async fn wait(&self, (): ()) -> Result<()> {
        parallel::turn().await;
        Ok(())
    }

    fn gather_rows(&self, table: &CpuTensor, ids: &CpuTensor) -> Result<CpuTensor> {
        let shape = shapes::gather_rows(table.shape(), ids.shape())?;
        shapes::typed("gather_rows", "the ids", ids.dtype(), DType::U32)?;
        let (rows, width) = (table.shape()[0], table.shape()[1]);
        self.fill(&shape, [table, ids], move |[table, ids], out| {
            gather_rows::gather_rows(table, rows, width, &ids.u32(), out)
        })
    }

    fn linear(&self, x: &CpuTensor, w: &CpuLinear) -> Result<CpuTensor> {
        let shape = shapes::linear("linear", x.shape(), w.dims())?;
        let w = w.clone();
        self.fill(&shape, [x], move |[x], out| w.apply(&x.f32()?, out))
    }

    fn swiglu(&self, x: &CpuTensor, w: &CpuSwiGlu) -> Result<CpuTensor> {
        let shape = shapes::linear("swiglu", x.shape(), w.gate.dims())?;
        let (gate, up) = (w.gate.clone(), w.up.clone());
        self.fill(&shape, [x], move |[x], out| swiglu::swiglu(&x.f32()?, &gate, &up, out))
    }

    fn rms_norm(&self, x: &CpuTensor, norm: RmsNorm<'_, CpuTensor>) -> Result<CpuTensor> {
        let dims @ [_, tokens, _] = shapes::norm("rms_norm", x.shape(), norm.weight.shape())?;
        let scale = norm.scale.map(|scale| RowOf::new("rms_norm", scale, dims)).transpose()?;
        let table = or(norm.scale.map(|scale| scale.table), norm.weight);
        let eps = norm.eps;
        self.fill(&dims, [x, norm.weight, table], move |[x, weight, table], out| {
            let (weight, table) = (weight.f32()?, table.f32()?);
            let norm = Norm { weight: &weight, scale: scale.map(|scale| scale.in_table(&table)), eps };
            rms_norm::rms_norm(&x.f32()?, tokens, norm, out);
            Ok(())
        })
    }

    fn residual(&self, x: &mut CpuTensor, branch: Branch<'_, CpuTensor>) -> Result<()> {
        let dims @ [_, tokens, width] = shapes::dims::<3>("residual", "x", x.shape())?;
        let gate = check_branch("residual", dims, &branch)?;
        let (has_norm, eps) = (branch.norm.is_some(), branch.eps);
        let inputs = [branch.y, or(branch.norm, branch.y), or(branch.gate.map(|gate| gate.table), branch.y)];
        self.update("residual", x, inputs, move |[y, norm, table], x| {
            let (y, norm, table) = (y.f32()?, norm.f32()?, table.f32()?);
            let gate = gate.map(|gate| gate.in_table(&table));
            let branch = residual_norm::Branch { y: &y, norm: has_norm.then_some(&norm), gate, eps };
            residual_norm::residual(x, width, tokens, branch);
            Ok(())
        })
    }

    fn residual_norm(
        &self,
        x: &mut CpuTensor,
        branch: Branch<'_, CpuTensor>,
        norm: RmsNorm<'_, CpuTensor>,
    ) -> Result<CpuTensor> {
        let verb = "residual_norm";
        let dims @ [_, tokens, _] = shapes::norm(verb, x.shape(), norm.weight.shape())?;
        let gate = check_branch(verb, dims, &branch)?;
        let scale = norm.scale.map(|scale| RowOf::new(verb, scale, dims)).transpose()?;
        let (has_norm, eps, next_eps) = (branch.norm.is_some(), branch.eps, norm.eps);
        let inputs = [
            branch.y,
            or(branch.norm, branch.y),
            or(branch.gate.map(|gate| gate.table), branch.y),
            norm.weight,
            or(norm.scale.map(|scale| scale.table), norm.weight),
        ];
        in_place(verb, x, &inputs)?;
        let residual = x.memory();
        self.fill(&dims, inputs, move |[y, norm, gates, weight, scales], out| {
            let (y, norm, gates, weight, scales) = (y.f32()?, norm.f32()?, gates.f32()?, weight.f32()?, scales.f32()?);
            let gate = gate.map(|gate| gate.in_table(&gates));
            let branch = residual_norm::Branch { y: &y, norm: has_norm.then_some(&norm), gate, eps };
            let norm = Norm { weight: &weight, scale: scale.map(|scale| scale.in_table(&scales)), eps: next_eps };
            residual_norm::residual_norm(residual.write().f32_mut()?, tokens, branch, norm, out);
            Ok(())
        })
    }

    fn qk_norm_rope(&self, qkv: &mut CpuTensor, heads: Heads, how: QkNormRope<'_, CpuTensor>) -> Result<()> {
        let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
        shapes::qk_norm_rope(qkv.shape(), heads, q_norm.shape(), k_norm.shape(), rotation.shape())?;
        self.update("qk_norm_rope", qkv, [q_norm, k_norm, rotation], move |[q_norm, k_norm, rotation], qkv| {
            let (q_norm, k_norm, table) = (q_norm.f32()?, k_norm.f32()?, rotation.f32()?);
            let rotation = qk_norm_rope::Rotation { q_norm: &q_norm, k_norm: &k_norm, eps, table: &table, pairs };
            qk_norm_rope::qk_norm_rope(qkv, heads, rotation);
            Ok(())
        })
    }

    fn attention(&self, qkv: &CpuTensor, heads: Heads, mask: Mask<'_, CpuTensor>) -> Result<CpuTensor> {
        let shape @ [_, tokens, _] = shapes::attention(qkv.shape(), heads, mask.lengths.map(|l| l.shape()))?;
        if let Some(lengths) = mask.lengths {
            shapes::typed("attention", "the key lengths", lengths.dtype(), DType::U32)?;
        }
        let (causal, ragged) = (mask.causal, mask.lengths.is_some());
        self.fill(&shape, [qkv, or(mask.lengths, qkv)], move |[qkv, lengths], out| {
            let lengths = ragged.then(|| lengths.u32());
            attention::attention(&qkv.f32()?, heads, tokens, causal, lengths.as_deref(), out)
        })
    }

    fn timestep_embedding(
        &self,
        times: &CpuTensor,
        step: &CpuTensor,
        w1: &CpuLinear,
        w2: &CpuLinear,
    ) -> Result<CpuTensor> {
        let shape = shapes::timestep_embedding(times.shape(), step.shape(), w1.dims(), w2.dims())?;
        shapes::typed("timestep_embedding", "the step", step.dtype(), DType::U32)?;
        let (w1, w2) = (w1.clone(), w2.clone());
        self.fill(&shape, [times, step], move |[times, step], out| {
            let times = times.f32()?;
            timestep_embedding::timestep_embedding(
                table_row("timestep_embedding", &times, shape[0], step)?,
                &w1,
                &w2,
                out,
            )
        })
    }

    fn modulation(&self, t: &CpuTensor, w: &CpuLinear, silu: bool, width: usize) -> Result<CpuTensor> {
        let shape = shapes::modulation(t.shape(), w.dims(), width)?;
        let w = w.clone();
        self.fill(&shape, [t], move |[t], out| linear::modulation(&t.f32()?, &w, silu, out))
    }

    fn embed_patches(
        &self,
        latents: &CpuTensor,
        patch: usize,
        w: &CpuLinear,
        pad: &CpuTensor,
        tokens: usize,
        copies: usize,
    ) -> Result<CpuTensor> {
        let shape = shapes::embed_patches(latents.shape(), patch, w.dims(), pad.shape(), tokens, copies)?;
        let [_, channels, height, width] = shapes::dims::<4>("embed_patches", "the latents", latents.shape())?;
        let w = w.clone();
        self.fill(&shape, [latents, pad], move |[latents, pad], out| {
            let grid = Patches { channels, height, width, patch };
            patches::embed_patches(&latents.f32()?, grid, &w, &pad.f32()?, tokens, out)
        })
    }

    fn pad_rows(&self, x: &mut CpuTensor, token: &CpuTensor, lengths: &CpuTensor) -> Result<()> {
        shapes::pad_rows(x.shape(), token.shape(), lengths.shape())?;
        shapes::typed("pad_rows", "the lengths", lengths.dtype(), DType::U32)?;
        let tokens = x.shape()[1];
        self.update("pad_rows", x, [token, lengths], move |[token, lengths], x| {
            sequence::pad_rows(x, tokens, &token.f32()?, &lengths.u32());
            Ok(())
        })
    }

    fn join_sequence(&self, image: &CpuTensor, caption: &CpuTensor, captions: &CpuTensor) -> Result<CpuTensor> {
        let shape = shapes::join_sequence(image.shape(), caption.shape(), captions.shape())?;
        shapes::typed("join_sequence", "the caption of each item", captions.dtype(), DType::U32)?;
        let size = |t: &CpuTensor| t.shape()[1] * t.shape()[2];
        let (image_item, caption_item) = (size(image), size(caption));
        self.fill(&shape, [image, caption, captions], move |[image, caption, captions], out| {
            sequence::join_sequence((&image.f32()?, image_item), (&caption.f32()?, caption_item), &captions.u32(), out)
        })
    }

    fn final_layer(
        &self,
        x: &CpuTensor,
        scale: Modulation<'_, CpuTensor>,
        eps: f32,
        w: &CpuLinear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<CpuTensor> {
        let shape @ [_, channels, height, width] =
            shapes::final_layer(x.shape(), scale.table.shape(), scale.row, w.dims(), patch, size)?;
        let dims @ [_, tokens, _] = shapes::dims::<3>("final_layer", "x", x.shape())?;
        let row = RowOf::new("final_layer", scale, dims)?;
        let w = w.clone();
        self.fill(&shape, [x, scale.table], move |[x, table], out| {
            let grid = Patches { channels, height, width, patch };
            patches::final_layer(&x.f32()?, tokens, row.in_table(&table.f32()?), eps, &w, grid, out)
        })
    }

    fn guide_and_step(
        &self,
        latents: &mut CpuTensor,
        prediction: &CpuTensor,
        table: &CpuTensor,
        step: &mut CpuTensor,
    ) -> Result<()> {
        shapes::guide_and_step(latents.shape(), prediction.shape(), table.shape(), step.shape())?;
        shapes::typed("guide_and_step", "the step", step.dtype(), DType::U32)?;
        let item = latents.shape()[1..].iter().product();
        apart("guide_and_step", step, &[latents, prediction, table])?;
        let counter = step.memory();
        self.update("guide_and_step", latents, [prediction, table], move |[prediction, table], latents| {
            let table = table.f32()?;
            let row = table_row("guide_and_step", &table, 3, &counter.read())?.try_into().unwrap_or([0.0; 3]);
            guide_and_step::guide_and_step(latents, &prediction.f32()?, row, item);
            counter.write().u32_mut().iter_mut().for_each(|step| *step += 1);
            Ok(())
        })
    }

    fn conv2d(
        &self,
        x: &CpuTensor,
        w: &CpuConv2d,
        geometry: Conv2d,
        residual: Option<&CpuTensor>,
    ) -> Result<CpuTensor> {
        let shape = shapes::conv2d(x.shape(), w.dims, geometry, residual.map(|r| r.shape()))?;
        let (size, out_size) = ([x.shape()[1], x.shape()[2]], [shape[1], shape[2]]);
        let (w, has_residual) = (w.clone(), residual.is_some());
        self.fill(&shape, [x, or(residual, x)], move |[x, residual], out| {
            let residual = if has_residual { Some(residual.f32()?) } else { None };
            conv2d::conv2d(&x.f32()?, size, &w, geometry, residual.as_deref(), out_size, out)
        })
    }

    fn group_norm(
        &self,
        x: &CpuTensor,
        weight: &CpuTensor,
        bias: &CpuTensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<CpuTensor> {
        let shape = shapes::group_norm(x.shape(), weight.shape(), bias.shape(), groups)?;
        let item: usize = shape[1..].iter().product();
        self.fill(&shape, [x, weight, bias], move |[x, weight, bias], out| {
            let (x, weight, bias) = (x.f32()?, weight.f32()?, bias.f32()?);
            for (x, out) in x.chunks_exact(item).zip(out.chunks_exact_mut(item)) {
                group_norm::group_norm(x, &weight, &bias, groups, eps, silu, out);
            }
            Ok(())
        })
    }

    fn unscale_latents(&self, latents: &CpuTensor, scale: f32, shift: f32) -> Result<CpuTensor> {
        let shape @ [_, h, w, c] = shapes::unscale_latents(latents.shape())?;
        self.fill(&shape, [latents], move |[latents], out| {
            pictures::unscale_latents(&latents.f32()?, c, h * w, scale, shift, out);
            Ok(())
        })
    }

    fn scale_latents(&self, x: &CpuTensor, channels: usize, scale: f32, shift: f32) -> Result<CpuTensor> {
        let shape @ [_, _, h, w] = shapes::scale_latents(x.shape(), channels)?;
        let stored = x.shape()[3];
        self.fill(&shape, [x], move |[x], out| {
            pictures::scale_latents(&x.f32()?, stored, channels, h * w, scale, shift, out);
            Ok(())
        })
    }

    fn normalize_rgb8(&self, pixels: &CpuTensor) -> Result<CpuTensor> {
        shapes::dims::<4>("normalize_rgb8", "the pixels", pixels.shape())?;
        shapes::typed("normalize_rgb8", "the pixels", pixels.dtype(), DType::U8)?;
        self.fill(pixels.shape(), [pixels], |[pixels], out| {
            pictures::normalize_rgb8(pixels.u8(), out);
            Ok(())
        })
    }

    fn to_rgb8(&self, x: &CpuTensor) -> Result<CpuTensor> {
        shapes::dims::<4>("to_rgb8", "the picture", x.shape())?;
        let out = CpuTensor::uninit_u8(x.shape())?;
        let (input, pixels) = (x.memory(), out.memory());
        self.run(move || pictures::to_rgb8(&input.read().f32()?, pixels.write().u8_mut()?))?;
        Ok(out)
    }
}

/// Row `step` of a table with rows of `width`.
fn table_row<'a>(verb: &'static str, table: &'a [f32], width: usize, step: &Elements) -> Result<&'a [f32]> {
    let step = step.u32().first().copied().unwrap_or(u32::MAX) as usize;
    table
        .chunks_exact(width)
        .nth(step)
        .ok_or_else(|| Error::shape(verb, format!("step {step} is past the table's {} rows", table.len() / width)))
}
