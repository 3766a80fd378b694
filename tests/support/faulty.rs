//! A backend that forwards everything to another one, except for one planted fault.
//!
//! Faults of arguments (a forgotten mask, another eps) are planted everywhere. Damage to results needs the host, so it is
//! done to verbs that are called; recorded ones pass unharmed, which is a difference between the two that is caught too.

mod fault;

pub(crate) use fault::{Damage, Fault};
use half::{bf16, f16};
use pollster::block_on;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use zimage::Result;
use zimage::backend::{Backend, Branch, Conv2d, DeviceTensor, Heads, Mask, Modulation, QkNormRope, RmsNorm, RopePairs};
use zimage::tensor::{DType, HostTensor, Weight};

/// A backend with a fault.
#[derive(Debug)]
pub(crate) struct Faulty<B: Backend> {
    inner: B,
    fault: Fault,
    /// What results (F32 or BF16) and weights in products (F32, F16 or BF16) are rounded to, which is no fault.
    precision: [DType; 2],
    recording: Cell<bool>,
    /// What memory of a length held last, for results that are not written.
    memory: RefCell<HashMap<(usize, &'static str), HostTensor>>,
}

/// A recording, and how often it was replayed.
#[derive(Debug)]
pub(crate) struct Replays<R>(R, Cell<usize>);

impl<B: Backend> Faulty<B> {
    pub(crate) fn new(inner: B, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            precision: [DType::F32; 2],
            recording: Cell::new(false),
            memory: RefCell::new(HashMap::new()),
        }
    }

    /// Rounds activations and the operands of products to these types.
    pub(crate) fn rounding(self, activations: DType, operands: DType) -> Self {
        Self { precision: [activations, operands], ..self }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn eps(&self, eps: f32) -> f32 {
        if self.is(Fault::EpsZero) { 0.0 } else { eps }
    }

    fn row<'a>(&self, row: Modulation<'a, B::Tensor>) -> Modulation<'a, B::Tensor> {
        let next = self.is(Fault::NextModulationRow) && row.row + 1 < row.table.shape()[1];
        Modulation { row: row.row + usize::from(next), ..row }
    }

    fn norm<'a>(&self, norm: RmsNorm<'a, B::Tensor>) -> RmsNorm<'a, B::Tensor> {
        let scale = norm.scale.filter(|_| !self.is(Fault::ScaleForgotten)).map(|scale| self.row(scale));
        RmsNorm { weight: norm.weight, scale, eps: self.eps(norm.eps) }
    }

    fn norm_rope<'a>(&self, how: QkNormRope<'a, B::Tensor>) -> QkNormRope<'a, B::Tensor> {
        let pairs = match how.pairs {
            RopePairs::Interleaved if self.is(Fault::PairsSwapped) => RopePairs::Halves,
            RopePairs::Halves if self.is(Fault::PairsSwapped) => RopePairs::Interleaved,
            pairs => pairs,
        };
        let swapped = self.is(Fault::QueryAndKeyNormsSwapped);
        let (q_norm, k_norm) = if swapped { (how.k_norm, how.q_norm) } else { (how.q_norm, how.k_norm) };
        QkNormRope { q_norm, k_norm, eps: self.eps(how.eps), pairs, ..how }
    }

    fn branch<'a>(&self, branch: Branch<'a, B::Tensor>) -> Branch<'a, B::Tensor> {
        Branch {
            y: branch.y,
            norm: branch.norm.filter(|_| !self.is(Fault::BranchNormForgotten)),
            gate: branch.gate.filter(|_| !self.is(Fault::GateForgotten)).map(|gate| self.row(gate)),
            eps: self.eps(branch.eps),
        }
    }

    /// A tensor with its values changed on the host.
    fn changed(&self, tensor: &B::Tensor, change: impl FnOnce(&mut Vec<f32>)) -> Result<B::Tensor> {
        let host = block_on(self.inner.download(tensor))?;
        let mut values = host.to_f32();
        change(&mut values);
        self.inner.upload(&stored(host.dtype(), host.shape(), &values))
    }

    /// A weight of a product.
    fn operand(&self, weight: &HostTensor) -> HostTensor {
        let dtype = self.precision[1];
        if dtype == DType::F32 { weight.clone() } else { stored(dtype, weight.shape(), &weight.to_f32()) }
    }

    /// All of a weight that came.
    async fn arrived(&self, weight: &Weight<'_>) -> Result<HostTensor> {
        let whole = weight.whole().await?;
        let mut last = 0;
        let see = |row, _| {
            last = row;
            Ok(())
        };
        Weight::each_piece(std::slice::from_ref(weight), see).await?;
        if last == 0 || !self.is(Fault::LastPieceForgotten) {
            return Ok(whole);
        }
        let mut bytes = whole.bytes().to_vec();
        let start = bytes.len() / weight.rows() * last;
        bytes[start..].fill(0);
        Ok(HostTensor::new(whole.dtype(), whole.shape(), bytes.into()).expect("as many bytes"))
    }

    /// A verb's result on its way to the caller.
    fn result(&self, verb: &'static str, out: B::Tensor) -> Result<B::Tensor> {
        let damage = match self.fault {
            Fault::Result(damaged, damage) if damaged == verb => Some(damage),
            _ => None,
        };
        // Velocities, latents and pictures keep their type on every backend.
        let activation = out.dtype() == DType::F32
            && !["final_layer", "guide_and_step", "scale_latents"].contains(&verb)
            && self.precision[0] != DType::F32;
        if self.recording.get() || (damage.is_none() && !activation) {
            return Ok(out);
        }
        let true_result = block_on(self.inner.download(&out))?;
        let mut values = true_result.to_f32();
        if let Some(damage) = damage {
            let held = self.memory.borrow_mut().insert((values.len(), verb), true_result.clone());
            let held = held.map_or(vec![0.0; values.len()], |held| held.to_f32());
            let kept = values.len() - out.shape().last().copied().unwrap_or(1);
            match damage {
                Damage::Scaled => values.iter_mut().for_each(|v| *v *= 1.001),
                Damage::LastRowUnwritten => values[kept..].copy_from_slice(&held[kept..]),
                Damage::Unwritten => values = held,
                Damage::ThroughF16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
            }
        }
        let dtype = if activation { self.precision[0] } else { true_result.dtype() };
        self.inner.upload(&stored(dtype, out.shape(), &values))
    }

    /// An activation that is about to be changed in place: the backend inside may want it in F32.
    fn widen(&self, x: &mut B::Tensor) -> Result<()> {
        if x.dtype() == DType::Bf16 && !self.recording.get() {
            let host = block_on(self.inner.download(x))?;
            *x = self.inner.upload(&HostTensor::from_f32(host.shape(), &host.to_f32()))?;
        }
        Ok(())
    }

    /// As [`Faulty::result`] for a tensor that a verb has changed in place.
    fn changed_in_place(&self, verb: &'static str, x: &mut B::Tensor) -> Result<()> {
        *x = self.result(verb, x.clone())?;
        Ok(())
    }
}

/// Values as elements of `dtype`.
fn stored(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    let halves = |bits: fn(f32) -> u16| {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| bits(v).to_le_bytes()).collect();
        HostTensor::new(dtype, shape, bytes.into()).unwrap()
    };
    match dtype {
        DType::F16 => halves(|v| f16::from_f32(v).to_bits()),
        DType::Bf16 => halves(|v| bf16::from_f32(v).to_bits()),
        DType::F32 => HostTensor::from_f32(shape, values),
        DType::U32 => HostTensor::from_u32(shape, &values.iter().map(|&v| v as u32).collect::<Vec<_>>()),
        DType::U8 => HostTensor::from_u8(shape, &values.iter().map(|&v| v as u8).collect::<Vec<_>>()),
    }
}

impl<B: Backend> Backend for Faulty<B> {
    type Tensor = B::Tensor;
    type Linear = B::Linear;
    type SwiGlu = B::SwiGlu;
    type Conv2d = B::Conv2d;
    type Recording = Replays<B::Recording>;
    type Event = B::Event;

    const IN_FLIGHT: usize = B::IN_FLIGHT;

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn device(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn operands(&self) -> DType {
        self.precision[1]
    }

    fn largest_activation(&self) -> usize {
        self.inner.largest_activation()
    }

    fn free_memory(&self) -> Option<u64> {
        if let Fault::FreeMemory(bytes) = self.fault { Some(bytes) } else { None }
    }

    fn trim(&self) {
        self.inner.trim();
    }

    fn upload(&self, tensor: &HostTensor) -> Result<B::Tensor> {
        self.inner.upload(tensor)
    }

    async fn download(&self, tensor: &B::Tensor) -> Result<HostTensor> {
        self.inner.download(tensor).await
    }

    async fn upload_table(&self, table: &Weight<'_>) -> Result<B::Tensor> {
        self.inner.upload_table(&self.arrived(table).await?.into()).await
    }

    async fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> Result<B::Linear> {
        let mut operands = Vec::new();
        for part in parts {
            operands.push(self.operand(&self.arrived(part).await?).into());
        }
        self.inner.upload_linear(&operands, if self.is(Fault::BiasForgotten) { &[] } else { biases }).await
    }

    async fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> Result<B::SwiGlu> {
        let (gate, up) = (self.arrived(gate).await?, self.arrived(up).await?);
        let (gate, up) = (self.operand(&gate).into(), self.operand(&up).into());
        let (gate, up) = if self.is(Fault::GateAndUpSwapped) { (up, gate) } else { (gate, up) };
        self.inner.upload_swiglu(&gate, &up).await
    }

    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<B::Conv2d> {
        self.inner.upload_conv2d(&self.operand(kernel), bias.filter(|_| !self.is(Fault::BiasForgotten)))
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<Self::Recording> {
        let recording = self.inner.record(|_| {
            self.recording.set(true);
            let done = steps(self);
            self.recording.set(false);
            done
        })?;
        if self.is(Fault::RunsWhileRecording) {
            self.inner.replay(&recording)?;
        }
        Ok(Replays(recording, Cell::new(0)))
    }

    fn replay(&self, recording: &Self::Recording) -> Result<()> {
        let count = recording.1.replace(recording.1.get() + 1);
        if self.is(Fault::FirstReplaySkipped) && count == 0 {
            return Ok(());
        }
        self.inner.replay(&recording.0)
    }

    fn event(&self) -> Result<B::Event> {
        self.inner.event()
    }

    async fn wait(&self, event: B::Event) -> Result<()> {
        self.inner.wait(event).await
    }

    fn gather_rows(&self, table: &B::Tensor, ids: &B::Tensor) -> Result<B::Tensor> {
        self.result("gather_rows", self.inner.gather_rows(table, ids)?)
    }

    fn linear(&self, x: &B::Tensor, w: &B::Linear) -> Result<B::Tensor> {
        self.result("linear", self.inner.linear(x, w)?)
    }

    fn swiglu(&self, x: &B::Tensor, w: &B::SwiGlu) -> Result<B::Tensor> {
        self.result("swiglu", self.inner.swiglu(x, w)?)
    }

    fn rms_norm(&self, x: &B::Tensor, norm: RmsNorm<'_, B::Tensor>) -> Result<B::Tensor> {
        self.result("rms_norm", self.inner.rms_norm(x, self.norm(norm))?)
    }

    fn residual(&self, x: &mut B::Tensor, branch: Branch<'_, B::Tensor>) -> Result<()> {
        self.widen(x)?;
        if !self.is(Fault::ResidualNotAdded) {
            self.inner.residual(x, self.branch(branch))?;
        }
        self.changed_in_place("residual", x)
    }

    fn residual_norm(
        &self,
        x: &mut B::Tensor,
        branch: Branch<'_, B::Tensor>,
        norm: RmsNorm<'_, B::Tensor>,
    ) -> Result<B::Tensor> {
        self.widen(x)?;
        let norm = self.norm(norm);
        let h = if self.is(Fault::ResidualNotAdded) {
            self.inner.rms_norm(x, norm)?
        } else if self.is(Fault::NormsTheOldStream) {
            let h = self.inner.rms_norm(x, norm)?;
            self.inner.residual(x, self.branch(branch))?;
            h
        } else {
            self.inner.residual_norm(x, self.branch(branch), norm)?
        };
        self.changed_in_place("residual_norm", x)?;
        self.result("residual_norm", h)
    }

    fn qk_norm_rope(&self, qkv: &mut B::Tensor, heads: Heads, how: QkNormRope<'_, B::Tensor>) -> Result<()> {
        self.widen(qkv)?;
        self.inner.qk_norm_rope(qkv, heads, self.norm_rope(how))?;
        self.changed_in_place("qk_norm_rope", qkv)
    }

    fn project_qkv(
        &self,
        x: &B::Tensor,
        w: &B::Linear,
        heads: Heads,
        how: QkNormRope<'_, B::Tensor>,
    ) -> Result<B::Tensor> {
        self.result("project_qkv", self.inner.project_qkv(x, w, heads, self.norm_rope(how))?)
    }

    fn attention(&self, qkv: &B::Tensor, heads: Heads, mask: Mask<'_, B::Tensor>) -> Result<B::Tensor> {
        let tokens = qkv.shape()[1] as f32;
        let longer = match mask.lengths.filter(|_| self.is(Fault::OneKeyTooMany) && !self.recording.get()) {
            Some(lengths) => Some(self.changed(lengths, |v| v.iter_mut().for_each(|v| *v = (*v + 1.0).min(tokens)))?),
            None => None,
        };
        let lengths = longer.as_ref().or(mask.lengths).filter(|_| !self.is(Fault::LengthsIgnored));
        let mask = Mask { causal: mask.causal && !self.is(Fault::MaskSkipped), lengths };
        self.result("attention", self.inner.attention(qkv, heads, mask)?)
    }

    fn timestep_embedding(
        &self,
        times: &B::Tensor,
        step: &B::Tensor,
        w1: &B::Linear,
        w2: &B::Linear,
    ) -> Result<B::Tensor> {
        let first = self.inner.upload(&HostTensor::from_u32(&[1], &[0]))?;
        let step = if self.is(Fault::StepZeroAlways) { &first } else { step };
        self.result("timestep_embedding", self.inner.timestep_embedding(times, step, w1, w2)?)
    }

    fn modulation(&self, t: &B::Tensor, w: &B::Linear, silu: bool, width: usize) -> Result<B::Tensor> {
        let silu = silu && !self.is(Fault::SiluForgotten);
        self.result("modulation", self.inner.modulation(t, w, silu, width)?)
    }

    fn embed_patches(
        &self,
        latents: &B::Tensor,
        patch: usize,
        w: &B::Linear,
        pad: &B::Tensor,
        tokens: usize,
        copies: usize,
    ) -> Result<B::Tensor> {
        let zeros = self.inner.upload(&HostTensor::from_f32(pad.shape(), &vec![0.0; pad.shape()[0]]))?;
        let pad = if self.is(Fault::PadForgotten) { &zeros } else { pad };
        self.result("embed_patches", self.inner.embed_patches(latents, patch, w, pad, tokens, copies)?)
    }

    fn pad_rows(&self, x: &mut B::Tensor, token: &B::Tensor, lengths: &B::Tensor) -> Result<()> {
        self.widen(x)?;
        if !self.is(Fault::PaddingSkipped) {
            self.inner.pad_rows(x, token, lengths)?;
        }
        self.changed_in_place("pad_rows", x)
    }

    fn join_sequence(&self, image: &B::Tensor, caption: &B::Tensor, captions: &B::Tensor) -> Result<B::Tensor> {
        let count = captions.shape()[0];
        let first = self.inner.upload(&HostTensor::from_u32(&[count], &vec![0; count]))?;
        let captions = if self.is(Fault::FirstCaptionForAll) { &first } else { captions };
        self.result("join_sequence", self.inner.join_sequence(image, caption, captions)?)
    }

    fn final_layer(
        &self,
        x: &B::Tensor,
        scale: Modulation<'_, B::Tensor>,
        eps: f32,
        w: &B::Linear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<B::Tensor> {
        let scale = Modulation { row: if self.is(Fault::NextModulationRow) { 0 } else { scale.row }, ..scale };
        self.result("final_layer", self.inner.final_layer(x, scale, self.eps(eps), w, patch, size)?)
    }

    fn guide_and_step(
        &self,
        latents: &mut B::Tensor,
        prediction: &B::Tensor,
        table: &B::Tensor,
        step: &mut B::Tensor,
    ) -> Result<()> {
        let column = match self.fault {
            Fault::GuidanceForgotten => Some(1),
            Fault::CapForgotten => Some(2),
            _ => None,
        };
        let without = match column.filter(|_| !self.recording.get()) {
            Some(column) => Some(self.changed(table, |v| v.chunks_mut(3).for_each(|row| row[column] = 0.0))?),
            None => None,
        };
        let table = without.as_ref().unwrap_or(table);
        if self.is(Fault::StepNotAdvanced) && !self.recording.get() {
            self.inner.guide_and_step(latents, prediction, table, &mut self.changed(step, |_| ())?)?;
        } else {
            self.inner.guide_and_step(latents, prediction, table, step)?;
        }
        self.changed_in_place("guide_and_step", latents)
    }

    fn conv2d(
        &self,
        x: &B::Tensor,
        w: &B::Conv2d,
        geometry: Conv2d,
        residual: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        let [top, left, bottom, right] = geometry.pad;
        let pad = if self.is(Fault::PaddedAtTheOtherSide) { [bottom, right, top, left] } else { geometry.pad };
        let residual = residual.filter(|_| !self.is(Fault::ConvResidualForgotten));
        let out = self.inner.conv2d(x, w, Conv2d { pad, ..geometry }, residual)?;
        match self.fault {
            Fault::NoMemoryPast(most) if out.shape().iter().product::<usize>() > most => {
                Err(zimage::Error::OutOfMemory(format!("conv2d: no memory for {:?}", out.shape())))
            }
            _ => self.result("conv2d", out),
        }
    }

    fn group_norm(
        &self,
        x: &B::Tensor,
        weight: &B::Tensor,
        bias: &B::Tensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<B::Tensor> {
        let groups = if self.is(Fault::GroupsHalved) && groups.is_multiple_of(2) { groups / 2 } else { groups };
        let silu = silu && !self.is(Fault::SiluForgotten);
        self.result("group_norm", self.inner.group_norm(x, weight, bias, groups, self.eps(eps), silu)?)
    }

    fn unscale_latents(&self, latents: &B::Tensor, scale: f32, shift: f32) -> Result<B::Tensor> {
        let shift = if self.is(Fault::ShiftForgotten) { 0.0 } else { shift };
        self.result("unscale_latents", self.inner.unscale_latents(latents, scale, shift)?)
    }

    fn scale_latents(&self, x: &B::Tensor, channels: usize, scale: f32, shift: f32) -> Result<B::Tensor> {
        let shift = if self.is(Fault::ShiftForgotten) { 0.0 } else { shift };
        self.result("scale_latents", self.inner.scale_latents(x, channels, scale, shift)?)
    }

    fn normalize_rgb8(&self, pixels: &B::Tensor) -> Result<B::Tensor> {
        self.result("normalize_rgb8", self.inner.normalize_rgb8(pixels)?)
    }

    fn to_rgb8(&self, x: &B::Tensor) -> Result<B::Tensor> {
        if self.is(Fault::NanIsBlack) {
            let x =
                self.changed(x, |values| values.iter_mut().for_each(|v| *v = if v.is_nan() { -1.0 } else { *v }))?;
            return self.inner.to_rgb8(&x);
        }
        if self.is(Fault::InfinityIsClamped) {
            let x = self.changed(x, |values| values.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0)))?;
            return self.inner.to_rgb8(&x);
        }
        self.result("to_rgb8", self.inner.to_rgb8(x)?)
    }
}
