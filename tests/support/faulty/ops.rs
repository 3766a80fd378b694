//! The ops of [`Faulty`]: each plants its faults in the arguments and forwards them to the inner
//! backend.

use super::{Fault, Faulty, Fp8Fault};
use pollster::block_on;
use zimage::backend::*;
use zimage::tensor::{Compute, FP8_VALUE_TOKENS, HostTensor, Weight, fp8_head_bound};
use zimage::{Error, MemoryKind, Result};

/// Defines an op that returns a tensor. `$change` plants the faults in its arguments.
macro_rules! op {
    ($trait:ident, $run:ident, $args:ty, $shape:ty, |$faulty:ident, $given:ident| $change:expr) => {
        impl<B: Backend> $trait for Faulty<B> {
            fn $run(&self, $given: $args, shape: $shape) -> Result<B::Tensor> {
                let $faulty = self;
                let args = $change;
                let name = stringify!($run).trim_start_matches("run_");
                self.result(name, self.inner.$run(args, shape)?)
            }
        }
    };
}

op!(ConcatRowsOp, run_concat_rows, ConcatRowsArgs<'_, B::Tensor>, [usize; 4], |_faulty, args| args);

op!(FinalLayerOp, run_final_layer, FinalLayerArgs<'_, B::Tensor, B::Linear>, [usize; 4], |faulty, args| {
    let row = if faulty.is(Fault::NextModulationRow) { 0 } else { args.scale.row };
    FinalLayerArgs { scale: Modulation { row, ..args.scale }, eps: faulty.eps(args.eps), ..args }
});

op!(GroupNormOp, run_group_norm, GroupNormArgs<'_, B::Tensor>, [usize; 4], |faulty, args| {
    let halved = faulty.is(Fault::GroupsHalved) && args.groups.is_multiple_of(2);
    let groups = if halved { args.groups / 2 } else { args.groups };
    let silu = args.silu && !faulty.is(Fault::SiluForgotten);
    GroupNormArgs { groups, eps: faulty.eps(args.eps), silu, ..args }
});

op!(GroupMomentsOp, run_group_moments, GroupMomentsArgs<'_, B::Tensor>, [usize; 3], |_faulty, args| args);

op!(ModulationOp, run_modulation, ModulationArgs<'_, B::Tensor, B::Linear>, [usize; 3], |faulty, args| {
    ModulationArgs { silu: args.silu && !faulty.is(Fault::SiluForgotten), ..args }
});

op!(NormalizeRgb8Op, run_normalize_rgb8, NormalizeRgb8Args<'_, B::Tensor>, [usize; 4], |_faulty, args| args);

impl<B: Backend> ProjectQkvOp for Faulty<B> {
    fn run_project_qkv(&self, args: ProjectQkvArgs<'_, B::Tensor, B::Linear>, shape: [usize; 3]) -> Result<B::Tensor> {
        let args = ProjectQkvArgs { how: self.norm_rope(args.how), ..args };
        let factors = match args.output {
            Compute::Fp8 if !self.recording.get() => self.wrong_scales([args.how.q_norm, args.how.k_norm])?,
            _ => None,
        };
        let Some(factors) = factors else {
            return self.result("project_qkv", self.inner.run_project_qkv(args, shape)?);
        };
        let heads = args.heads;
        let scaled = |norm: &B::Tensor, factor: f32| {
            let norm = block_on(self.inner.download(norm))?;
            let values: Vec<f32> = norm.to_f32().iter().map(|v| v * factor).collect();
            self.inner.upload(&HostTensor::from_f32(norm.shape(), &values))
        };
        let (q_norm, k_norm) = (scaled(args.how.q_norm, factors[0])?, scaled(args.how.k_norm, factors[1])?);
        let how = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, ..args.how };
        let out = self.result("project_qkv", self.inner.run_project_qkv(ProjectQkvArgs { how, ..args }, shape)?)?;
        // A value takes the scale of another one, so many heads or blocks before it.
        let [before_head, before_block] = match self.fault {
            Fault::Fp8(Fp8Fault::ValueScalesOfAnotherHead) => [1, 0],
            Fault::Fp8(Fp8Fault::ValueScalesOfAnotherBlock) => [0, 1],
            _ => return Ok(out),
        };
        self.changed(&out, |values| {
            for item in values.chunks_exact_mut(shape[1] * heads.fused_width()) {
                let scales = value_scales(item, heads);
                for (token, row) in item.chunks_exact_mut(heads.fused_width()).enumerate() {
                    let block = token / FP8_VALUE_TOKENS;
                    let first = (heads.query + heads.key_value) * heads.dim;
                    for (head, values) in row[first..].chunks_exact_mut(heads.dim).enumerate() {
                        let other = scales[block.saturating_sub(before_block)][head.saturating_sub(before_head)];
                        values.iter_mut().for_each(|v| *v *= other / scales[block][head]);
                    }
                }
            }
        })
    }
}

/// The scales of the values `[tokens, fused width]` of an item, by block and head.
fn value_scales(item: &[f32], heads: Heads) -> Vec<Vec<f32>> {
    let first = heads.query + heads.key_value;
    let scale = |block: &[f32], head: usize| {
        let of_head = |row: &[f32]| row[head * heads.dim..][..heads.dim].iter().fold(0f32, |max, v| max.max(v.abs()));
        let largest = block.chunks_exact(heads.fused_width()).map(of_head).fold(0f32, f32::max);
        (largest / 448.0).max(2f32.powi(-40)).log2().ceil().exp2()
    };
    let blocks = item.chunks(FP8_VALUE_TOKENS * heads.fused_width());
    blocks.map(|block| (first..first + heads.key_value).map(|head| scale(block, head)).collect()).collect()
}

impl<B: Backend> Faulty<B> {
    /// The factors of queries and of keys with wrong scales, which they have if the weights of
    /// their norms are multiplied by them. `None` for the heads of a rejected call, whose form
    /// matters and whose values nothing reads: their norms are 0.
    fn wrong_scales(&self, norms: [&B::Tensor; 2]) -> Result<Option<[f32; 2]>> {
        let mut scales = [0.0; 2];
        for (scale, norm) in scales.iter_mut().zip(norms) {
            *scale = fp8_head_bound(&block_on(self.inner.download(norm))?.to_f32()) / 448.0;
        }
        let [q, k] = scales;
        Ok((q != 0.0).then_some(match self.fault {
            Fault::Fp8(Fp8Fault::QueryAndKeyScalesSwapped) => [k / q, q / k],
            Fault::Fp8(Fp8Fault::QueryScaleForgotten) => [1.0 / q, 1.0],
            _ => [1.0; 2],
        }))
    }
}

op!(RmsNormOp, run_rms_norm, RmsNormArgs<'_, B::Tensor>, [usize; 3], |faulty, args| {
    RmsNormArgs { norm: faulty.norm(args.norm), ..args }
});

op!(ScaleLatentsOp, run_scale_latents, ScaleLatentsArgs<'_, B::Tensor>, [usize; 4], |faulty, args| {
    ScaleLatentsArgs { shift: faulty.shift(args.shift), ..args }
});

op!(UnscaleLatentsOp, run_unscale_latents, UnscaleLatentsArgs<'_, B::Tensor>, [usize; 4], |faulty, args| {
    UnscaleLatentsArgs { shift: faulty.shift(args.shift), ..args }
});

impl<B: Backend> Faulty<B> {
    fn shift(&self, shift: f32) -> f32 {
        if self.is(Fault::ShiftForgotten) { 0.0 } else { shift }
    }
}

impl<B: Backend> NormalizeGroupsOp for Faulty<B> {
    fn run_normalize_groups(&self, args: NormalizeGroupsArgs<'_, B::Tensor>, shape: [usize; 4]) -> Result<B::Tensor> {
        let groups = args.groups();
        let NormalizeGroupsArgs { x, moments, weight, bias, eps, silu } = args;
        let (eps, silu) = (self.eps(eps), silu && !self.is(Fault::SiluForgotten));
        let out = if self.is(Fault::MomentsIgnored) {
            self.inner.group_norm(x, weight, bias, groups, eps, silu)?
        } else {
            self.inner.run_normalize_groups(NormalizeGroupsArgs { x, moments, weight, bias, eps, silu }, shape)?
        };
        self.result("normalize_groups", out)
    }
}

impl<B: Backend> GatherRowsOp for Faulty<B> {
    type Table = B::Table;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<B::Table> {
        self.inner.upload_table(&self.arrived(table).await?.into()).await
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, B::Tensor, B::Table>, shape: &[usize]) -> Result<B::Tensor> {
        self.result("gather_rows", self.inner.run_gather_rows(args, shape)?)
    }
}

impl<B: Backend> LinearOp for Faulty<B> {
    type Linear = B::Linear;

    async fn run_upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor], _: [usize; 2]) -> Result<B::Linear> {
        let mut operands = Vec::new();
        for part in parts {
            operands.push(self.matrix(part).await?);
        }
        self.inner.upload_linear(&operands, if self.is(Fault::BiasForgotten) { &[] } else { biases }).await
    }

    fn linear(&self, x: &B::Tensor, w: &B::Linear) -> Result<B::Tensor> {
        let args = LinearArgs { x, w };
        match self.checked("linear", args.check())? {
            Some(shape) => self.run_linear(args, &shape),
            None => self.meaningless(),
        }
    }

    fn run_linear(&self, args: LinearArgs<'_, B::Tensor, B::Linear>, shape: &[usize]) -> Result<B::Tensor> {
        self.result("linear", self.inner.run_linear(args, shape)?)
    }
}

impl<B: Backend> SwiGluOp for Faulty<B> {
    type SwiGlu = B::SwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, _: [usize; 2]) -> Result<B::SwiGlu> {
        let (gate, up) = (self.matrix(gate).await?, self.matrix(up).await?);
        if self.is(Fault::GateAndUpSwapped) {
            return self.inner.upload_swiglu(&up, &gate).await;
        }
        self.inner.upload_swiglu(&gate, &up).await
    }

    fn run_swiglu(&self, args: SwiGluArgs<'_, B::Tensor, B::SwiGlu>, shape: &[usize]) -> Result<B::Tensor> {
        self.result("swiglu", self.inner.run_swiglu(args, shape)?)
    }
}

impl<B: Backend> Conv2dOp for Faulty<B> {
    type Conv2d = B::Conv2d;

    fn run_upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>, _: [usize; 4]) -> Result<B::Conv2d> {
        self.inner.upload_conv2d(&self.operand(kernel), bias.filter(|_| !self.is(Fault::BiasForgotten)))
    }

    fn run_conv2d(&self, args: Conv2dArgs<'_, B::Tensor, B::Conv2d>, _: [usize; 4]) -> Result<B::Tensor> {
        let Conv2dArgs { x, w, geometry, residual } = args;
        let [top, left, bottom, right] = geometry.pad;
        let pad = if self.is(Fault::PaddedAtTheOtherSide) { [bottom, right, top, left] } else { geometry.pad };
        let residual = residual.filter(|_| !self.is(Fault::ConvResidualForgotten));
        let out = self.inner.conv2d(x, w, Conv2d { pad, ..geometry }, residual)?;
        match self.fault {
            Fault::NoMemoryPast(most) if out.shape().iter().product::<usize>() > most => {
                let problem = format!("conv2d: no memory for {:?}", out.shape());
                Err(Error::OutOfMemory { memory: MemoryKind::Activations, problem })
            }
            _ => self.result("conv2d", out),
        }
    }
}

impl<B: Backend> ResidualOp for Faulty<B> {
    fn residual(&self, x: &mut B::Tensor, branch: Branch<'_, B::Tensor>) -> Result<()> {
        let args = ResidualArgs { x, branch };
        match self.checked("residual", args.check(self.activations()))? {
            Some(shape) => self.run_residual(args, shape),
            None => Ok(()),
        }
    }

    fn run_residual(&self, args: ResidualArgs<'_, B::Tensor>, _: [usize; 3]) -> Result<()> {
        let ResidualArgs { x, branch } = args;
        self.widen(x)?;
        if !self.is(Fault::ResidualNotAdded) {
            self.inner.residual(x, self.branch(branch))?;
        }
        self.changed_in_place("residual", x)
    }
}

impl<B: Backend> ResidualNormOp for Faulty<B> {
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, B::Tensor>, _: [usize; 3]) -> Result<B::Tensor> {
        let ResidualNormArgs { x, branch, norm } = args;
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
}

impl<B: Backend> QkNormRopeOp for Faulty<B> {
    fn run_qk_norm_rope(&self, args: QkNormRopeArgs<'_, B::Tensor>, _: [usize; 2]) -> Result<()> {
        let QkNormRopeArgs { qkv, heads, how } = args;
        self.widen(qkv)?;
        self.inner.qk_norm_rope(qkv, heads, self.norm_rope(how))?;
        self.changed_in_place("qk_norm_rope", qkv)
    }
}

impl<B: Backend> AttentionOp for Faulty<B> {
    fn run_attention(&self, args: AttentionArgs<'_, B::Tensor>, shape: [usize; 3]) -> Result<B::Tensor> {
        let AttentionArgs { qkv, heads, mask, output } = args;
        let tokens = shape[1] as f32;
        let longer = match mask.lengths.filter(|_| self.is(Fault::OneKeyTooMany) && !self.recording.get()) {
            Some(lengths) => Some(self.changed(lengths, |v| v.iter_mut().for_each(|v| *v = (*v + 1.0).min(tokens)))?),
            None => None,
        };
        let lengths = longer.as_ref().or(mask.lengths).filter(|_| !self.is(Fault::LengthsIgnored));
        let mask = Mask { causal: mask.causal && !self.is(Fault::MaskSkipped), lengths };
        self.result("attention", self.inner.attention(qkv, heads, mask, output)?)
    }
}

impl<B: Backend> TimestepEmbeddingOp for Faulty<B> {
    fn run_timestep_embedding(
        &self,
        args: TimestepEmbeddingArgs<'_, B::Tensor, B::Linear>,
        shape: [usize; 2],
    ) -> Result<B::Tensor> {
        let first = self.inner.upload(&HostTensor::from_u32(&[1], &[0]))?;
        let step = if self.is(Fault::StepZeroAlways) { &first } else { args.step };
        let args = TimestepEmbeddingArgs { step, ..args };
        self.result("timestep_embedding", self.inner.run_timestep_embedding(args, shape)?)
    }
}

impl<B: Backend> EmbedPatchesOp for Faulty<B> {
    fn run_embed_patches(
        &self,
        args: EmbedPatchesArgs<'_, B::Tensor, B::Linear>,
        shape: [usize; 3],
    ) -> Result<B::Tensor> {
        let zeros = self.inner.upload(&HostTensor::from_f32(args.pad.shape(), &vec![0.0; args.pad.shape()[0]]))?;
        let pad = if self.is(Fault::PadForgotten) { &zeros } else { args.pad };
        self.result("embed_patches", self.inner.run_embed_patches(EmbedPatchesArgs { pad, ..args }, shape)?)
    }
}

impl<B: Backend> PadRowsOp for Faulty<B> {
    fn run_pad_rows(&self, args: PadRowsArgs<'_, B::Tensor>, _: [usize; 3]) -> Result<()> {
        let PadRowsArgs { x, token, lengths } = args;
        self.widen(x)?;
        if !self.is(Fault::PaddingSkipped) {
            self.inner.pad_rows(x, token, lengths)?;
        }
        self.changed_in_place("pad_rows", x)
    }
}

impl<B: Backend> JoinSequenceOp for Faulty<B> {
    fn run_join_sequence(&self, args: JoinSequenceArgs<'_, B::Tensor>, shape: [usize; 3]) -> Result<B::Tensor> {
        let count = args.captions.shape()[0];
        let first = self.inner.upload(&HostTensor::from_u32(&[count], &vec![0; count]))?;
        let captions = if self.is(Fault::FirstCaptionForAll) { &first } else { args.captions };
        self.result("join_sequence", self.inner.run_join_sequence(JoinSequenceArgs { captions, ..args }, shape)?)
    }
}

impl<B: Backend> SamplerStepOp for Faulty<B> {
    fn run_sampler_step(&self, args: SamplerStepArgs<'_, B::Tensor>, _: usize) -> Result<()> {
        let SamplerStepArgs { latents, prediction, sampler, step } = args;
        let SamplerState { table, history, noise } = sampler;
        let columns = table.shape()[1];
        let forgotten = match self.fault {
            Fault::GuidanceForgotten => 0..1,
            Fault::CapForgotten => 1..2,
            Fault::NoiseForgotten => 4..5,
            Fault::HistoryForgotten => SamplerRow::COLUMNS..columns,
            _ => 0..0,
        };
        let without = match !forgotten.is_empty() && !self.recording.get() {
            true => {
                let forget = |row: &mut [f32]| row[forgotten.clone()].fill(0.0);
                Some(self.changed(table, |v| v.chunks_mut(columns).for_each(forget))?)
            }
            false => None,
        };
        let table = without.as_ref().unwrap_or(table);
        let copy = |of: &B::Tensor, fault| match self.is(fault) && !self.recording.get() {
            true => self.changed(of, |_| ()).map(Some),
            false => Ok(None),
        };
        let mut stale = history.as_deref().map(|history| copy(history, Fault::HistoryNotStored)).transpose()?.flatten();
        let mut stopped = copy(step, Fault::StepNotAdvanced)?;
        let history = if stale.is_some() { stale.as_mut() } else { history };
        let sampler = SamplerState { table, history, noise };
        self.inner.sampler_step(latents, prediction, sampler, stopped.as_mut().unwrap_or(step))?;
        self.changed_in_place("sampler_step", latents)
    }
}

impl<B: Backend> ToRgb8Op for Faulty<B> {
    fn run_to_rgb8(&self, args: ToRgb8Args<'_, B::Tensor>, shape: [usize; 4]) -> Result<B::Tensor> {
        let finite: Option<fn(&mut f32)> = match self.fault {
            Fault::NanIsBlack => Some(|v| *v = if v.is_nan() { -1.0 } else { *v }),
            Fault::InfinityIsClamped => Some(|v| *v = v.clamp(-1.0, 1.0)),
            _ => None,
        };
        match finite {
            Some(finite) => self.inner.to_rgb8(&self.changed(args.x, |values| values.iter_mut().for_each(finite))?),
            None => self.result("to_rgb8", self.inner.run_to_rgb8(args, shape)?),
        }
    }
}
