//! The ops of the catalogue at the sizes of a model, with weights in BF16 or a quantised format.

use super::ops::MAX_CALLS;
use super::sizes::{BlockSizes, Sizes, UNIT, distinct};
use crate::backend::{Backend, Heads, RopePairs, SamplerRow};
use crate::catalogue::{
    AttentionCase, Case, EmbedPatchesCase, FinalLayerCase, JoinSequenceCase, Lengths, LinearCase, ModulationCase,
    OpCase, Operand, ProjectQkvCase, QkNormRopeCase, ResidualCase, ResidualNormCase, SamplerStepCase, Stored,
    SwiGluCase, TimestepEmbeddingCase, ToRgb8Case, UnscaleLatentsCase, Values,
};
use crate::model::block::{self, Computes, Wanted};
use crate::model::config::TransformerConfig;
use crate::tensor::{Compute, DType, Format};
use crate::weights::Part;

/// Every op that takes measurable time, for one picture with one caption in `runs` runs.
/// The matrices of blocks have the format `weights`, or BF16; those of the networks `fp8` are
/// operands of FP8 gemms; `fp8_attention`: those of the transformer's attention are in FP8.
pub(super) fn all<B: Backend + 'static>(
    sizes: &Sizes<'_>,
    runs: usize,
    weights: Option<Format>,
    fp8: &[Part],
    fp8_attention: bool,
) -> Vec<Case<B>> {
    let stored = weights.map_or(DType::Bf16.into(), Stored::in_file);
    let fp8_if = |is_fp8| if is_fp8 { Compute::Fp8 } else { Compute::Native };
    let wanted = |network| Wanted {
        matrices: fp8_if(fp8.contains(&network)),
        attention_in: fp8_if(fp8_attention && network == Part::Transformer),
    };
    let mut cases = block("", sizes.layer(), ResidualCase::GATED, stored, wanted(Part::Transformer));
    cases.extend(once_a_step(sizes, runs));
    let text = block("text-", sizes.text_block(), ResidualCase::PLAIN, stored, wanted(Part::TextEncoder));
    cases.extend(text);
    cases.extend(decoder(sizes));
    cases
}

/// The storage of the matrix of a gemm and its operand, if it is in FP8 with scales of rows or of
/// blocks, or the backend's own.
fn operands(compute: Compute, stored: Stored, fp8: Operand) -> (Stored, Operand) {
    match compute {
        Compute::Native => (stored, Operand::Native),
        Compute::Fp8 => (Stored::RowScales(Format::F8E4m3), fp8),
    }
}

/// The ops of a block of either transformer, with operands of the types `wanted` where its sizes
/// allow it.
fn block<B: Backend + 'static>(
    prefix: &str,
    sizes: BlockSizes,
    residual: ResidualCase,
    stored: Stored,
    wanted: Wanted,
) -> Vec<Case<B>> {
    let BlockSizes { tokens, width, hidden, heads, causal } = sizes;
    let Computes { qkv, attention_in, attention_out, ffn } = block::Sizes { width, hidden, heads }.computes(wanted);
    let named = |op: &str| format!("{prefix}{op}");
    let block = named("block");
    let linear = |name, compute, fp8, n, k| {
        let (stored, x) = operands(compute, stored, fp8);
        LinearCase { tokens, n, k, stored, scale: UNIT, x, ..LinearCase::PLAIN }.named(&named(name))
    };
    let (pair, x) = operands(ffn, stored, Operand::Fp8Rows);
    let swiglu = SwiGluCase { gate: pair, up: pair, scale: UNIT, x, ..SwiGluCase::new(tokens, width, hidden) };
    // The text encoder is causal and passes lengths.
    let lengths = if causal { Lengths::Full } else { Lengths::None };
    let attention =
        AttentionCase { causal, lengths, qkv: attention_in, output: attention_out, ..attention(tokens, heads) };
    let pairs = if causal { RopePairs::Halves } else { RopePairs::Interleaved };
    let rope = QkNormRopeCase { tokens, heads, pairs, k_norm: DType::Bf16, scale: UNIT, ..QkNormRopeCase::PLAIN };
    let residual = ResidualCase { tokens, width, scale: UNIT, branch: UNIT, ..residual };
    let (projection, x) = operands(qkv, stored, Operand::Fp8Rows);
    vec![
        linear("qkv", qkv, Operand::Fp8Rows, heads.fused_width(), width),
        linear("attention-out", attention_out, Operand::Fp8Blocks, width, heads.query * heads.dim),
        swiglu.named(&block),
        linear("w2", ffn, Operand::Fp8Blocks, width, hidden),
        attention.named(&block),
        // The networks call `project_qkv`, which fuses this op with the first linear.
        rope.named(&block),
        ProjectQkvCase { width, heads: rope, bias: false, stored: projection, x, output: attention_in }.named(&block),
        ResidualNormCase { residual, weight: DType::Bf16, output: qkv }.named(&block),
    ]
}

fn attention(tokens: usize, heads: Heads) -> AttentionCase {
    AttentionCase { tokens, heads, scale: UNIT, values: UNIT, ..AttentionCase::PLAIN }
}

/// The ops that the image transformer calls once a step.
fn once_a_step<B: Backend + 'static>(sizes: &Sizes<'_>, runs: usize) -> Vec<Case<B>> {
    let config = &sizes.config.transformer;
    let TransformerConfig { dim, patch_size: patch, in_channels: channels, .. } = *config;
    let image = sizes.image_tokens();
    let caption = sizes.caption_tokens();
    let size = sizes.latents();
    let adaln = config.adaln_dim();
    let timestep = TimestepEmbeddingCase {
        width: TransformerConfig::FREQUENCIES,
        hidden: TransformerConfig::TIMESTEP_HIDDEN,
        out: adaln,
        dtype: DType::Bf16,
        items: 1,
        times: &[300.0],
        step: 0,
    };
    let blocks = config.n_refiner_layers + config.n_layers;
    let modulation = ModulationCase { adaln, blocks, rows: 4, width: dim, scale: UNIT, ..ModulationCase::PLAIN };
    let embed = EmbedPatchesCase {
        channels,
        size,
        patch,
        tokens: image,
        dim,
        pad: DType::Bf16,
        scale: UNIT,
        ..EmbedPatchesCase::PLAIN
    };
    let join = JoinSequenceCase { image, caption, width: dim, ..JoinSequenceCase::PLAIN };
    let last =
        FinalLayerCase { tokens: image + caption, dim, channels, size, patch, scale: UNIT, ..FinalLayerCase::PLAIN };
    let step = SamplerStepCase {
        batch: 1,
        channels,
        size,
        rows: const { &[SamplerRow::euler(1e-4, 4.0, 1.0)] },
        // Every call of every replay reads the next row.
        repeats: MAX_CALLS * (runs + 12),
        scale: UNIT,
        ..SamplerStepCase::GUIDED
    };
    vec![timestep.named(""), modulation.named(""), embed.named(""), join.named(""), last.named(""), step.named("")]
}

/// The ops of the decoder, and the ops before and after it.
fn decoder<B: Backend + 'static>(sizes: &Sizes<'_>) -> Vec<Case<B>> {
    let decoder = sizes.decoder();
    let mut cases = Vec::new();
    let mut add = |mut case: Case<B>, count: usize| {
        case.sizes += &format!(", {count} in the decoder");
        cases.push(case);
    };
    for (conv, count) in distinct(&decoder.convs) {
        let [side, _] = conv.kernel;
        let [_, width] = conv.output_size();
        let up = if conv.geometry.upsample { "-up" } else { "" };
        let residual = if conv.residual { "-residual" } else { "" };
        let name = format!("{side}x{side}-{}-{}-{width}{up}{residual}", conv.input, conv.output);
        add(conv.named(&name), count);
    }
    for (norm, count) in distinct(&decoder.norms) {
        let silu = if norm.silu { "-silu" } else { "" };
        add(norm.named(&format!("{}-{}{silu}", norm.channels, norm.size[1])), count);
    }
    let latents = sizes.latents();
    let config = &sizes.config.vae;
    if config.mid_block_add_attention {
        let tokens = latents.iter().product();
        let k = sizes.decoder_width();
        let linear = |n| LinearCase { tokens, n, k, bias: true, scale: UNIT, ..LinearCase::PLAIN };
        cases.push(linear(3 * k).named("vae-qkv"));
        cases.push(linear(k).named("vae-out"));
        cases.push(attention(tokens, Heads { query: 1, key_value: 1, dim: k }).named("vae"));
    }
    let unscale =
        UnscaleLatentsCase { batch: 1, first: 0, channels: config.latent_channels, size: latents, scale: UNIT };
    cases.push(unscale.named(""));
    let [height, width] = sizes.picture;
    cases.push(ToRgb8Case { shape: [1, height, width, 3], values: Values::Within(UNIT) }.named(""));
    cases
}
