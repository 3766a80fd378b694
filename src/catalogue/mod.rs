//! One catalogue of the ops: sizes, inputs, tolerances, cost and rejected arguments of each,
//! defined once.
//!
//! Each op has one file, named as in [`crate::backend`]. It holds a struct with the op's sizes,
//! from which inputs, tolerance, floating-point operations and bytes are derived; the cases of
//! [`crate::conformance`], with realistic and awkward sizes; and the arguments that every backend
//! rejects. [`mod@crate::bench`] measures the same structs at the sizes of a model, and the tests
//! that plant faults in a backend read [`ops`].
//!
//! A case whose name starts with `full` has the size of a 1024×1024 picture and is for GPUs. The
//! others have the same widths with fewer tokens, or awkward sizes: one token, ragged lengths, odd
//! widths, sizes that no tile divides.

mod attention;
mod case;
mod concat_rows;
mod conv2d;
mod embed_patches;
mod final_layer;
mod gather_rows;
mod group_moments;
mod group_norm;
mod inputs;
mod join_sequence;
mod linear;
mod modulation;
mod normalize_groups;
mod normalize_rgb8;
mod pad_rows;
mod project_qkv;
mod qk_norm_rope;
mod quantized;
mod rejection;
mod residual;
mod residual_norm;
mod rms_norm;
mod sampler_step;
mod scale_latents;
mod stored;
mod streamed;
mod swiglu;
mod timestep_embedding;
mod to_rgb8;
mod tolerance;
mod unscale_latents;
mod upload;

pub(crate) use attention::{AttentionCase, Lengths, attention_flop};
pub(crate) use case::{Call, Case, OpCase, Written};
pub(crate) use conv2d::Conv2dCase;
pub(crate) use embed_patches::EmbedPatchesCase;
pub(crate) use final_layer::FinalLayerCase;
pub(crate) use group_norm::GroupNormCase;
pub(crate) use inputs::{Inputs, Noise, Operand};
pub(crate) use join_sequence::JoinSequenceCase;
pub(crate) use linear::{LinearCase, gemm_flop};
pub(crate) use modulation::ModulationCase;
pub(crate) use project_qkv::ProjectQkvCase;
pub(crate) use qk_norm_rope::QkNormRopeCase;
pub(crate) use rejection::Rejection;
pub(crate) use residual::ResidualCase;
pub(crate) use residual_norm::ResidualNormCase;
pub(crate) use sampler_step::SamplerStepCase;
pub(crate) use stored::Stored;
pub(crate) use swiglu::SwiGluCase;
pub(crate) use timestep_embedding::TimestepEmbeddingCase;
pub(crate) use to_rgb8::{ToRgb8Case, Values};
pub(crate) use tolerance::{EQUAL, Precision, Tolerance};
pub(crate) use unscale_latents::UnscaleLatentsCase;
pub(crate) use upload::entry as upload;

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::error::Result;
use crate::future::expect_ready;
use crate::tensor::{Compute, DType};
use case::{changes, named, quantized_cases, returns};
use inputs::in_pieces;
use rejection::{
    Zeros, fp8_matrix, fp8_projection_zeros, fp8_rejection, fp8_zeros, quantized_zeros, rejections, rejections_with,
    upload_rejection, zeros,
};
use tolerance::{
    ATTENTION, COPY, FP8_ATTENTION, FP8_GATED_GEMM, FP8_GEMM, FP8_NORM, FP8_PRODUCTS, FP8_PRODUCTS_TO_FP8,
    FP8_PROJECTION, GATED_GEMM, GEMM, GEMM_FAR, LEVELS, NORM, NORM_FAR, NORMED_GEMM, PEAKED_ATTENTION,
    PEAKED_FP8_PRODUCTS, POINTWISE, STEP, TIMESTEP,
};

/// An op of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// The name, as in the trait and in reports.
    pub name: &'static str,
    /// Properties shared with other ops.
    pub features: &'static [Feature],
}

/// A property that several ops share and that a backend can get wrong in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// A weight is uploaded with a bias.
    Bias,
    /// A weight is uploaded in pieces.
    Pieces,
    /// A mean square or a variance has an eps.
    Eps,
    /// An RMSNorm has a scale from a modulation table.
    NormScale,
    /// A row of a modulation table is read.
    ModulationRow,
    /// A branch is added to the residual stream.
    Branch,
    /// Heads are normed and rotated.
    QkNormRope,
    /// SiLU is optional.
    Silu,
    /// Latents are shifted.
    Shift,
    /// A second call changes an in-place tensor again.
    Accumulates,
    /// The result is F32 on every backend: latents, velocities and moments.
    F32Result,
    /// A matrix may be the operand of an FP8 gemm.
    Fp8Matrix,
    /// A case has results beyond the range of F16.
    BeyondF16,
}

/// The catalogue's data on one op.
pub(crate) struct Entry<B: Backend> {
    pub op: Op,
    pub cases: Vec<Case<B>>,
    pub rejections: Vec<Rejection<B>>,
}

/// The catalogue, in the order in which a picture first needs the ops.
pub(crate) fn entries<B: Backend + 'static>() -> Vec<Entry<B>> {
    vec![
        gather_rows::entry(),
        linear::entry(),
        swiglu::entry(),
        rms_norm::entry(),
        residual::entry(),
        residual_norm::entry(),
        qk_norm_rope::entry(),
        project_qkv::entry(),
        attention::entry(),
        timestep_embedding::entry(),
        modulation::entry(),
        embed_patches::entry(),
        final_layer::entry(),
        pad_rows::entry(),
        join_sequence::entry(),
        sampler_step::entry(),
        conv2d::entry(),
        group_norm::entry(),
        group_moments::entry(),
        normalize_groups::entry(),
        concat_rows::entry(),
        unscale_latents::entry(),
        scale_latents::entry(),
        normalize_rgb8::entry(),
        to_rgb8::entry(),
    ]
}

/// Every op, in the order of the rows of a conformance report.
pub fn ops() -> impl Iterator<Item = Op> {
    entries::<Cpu>().into_iter().map(|entry| entry.op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const MAX_F16: f32 = 65504.0;

    #[test]
    fn names_are_unique() {
        let entries = entries::<Cpu>();
        let cases: Vec<&str> = entries.iter().flat_map(|entry| &entry.cases).map(|case| &*case.name).collect();
        let rejections = entries.iter().flat_map(|entry| &entry.rejections).map(|rejection| &*rejection.name);
        let names: Vec<&str> = cases.into_iter().chain(rejections).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for entry in &entries {
            assert!(entry.cases.iter().all(|case| case.op == entry.op.name), "{}", entry.op.name);
            assert!(entry.cases.len() >= 3 && entry.rejections.len() >= 2, "{}", entry.op.name);
        }
    }

    #[test]
    fn features_mark_results_beyond_f16() {
        let b = Cpu::new();
        let precision = Precision { activations: DType::F32, operands: DType::F32 };
        for entry in entries::<Cpu>() {
            let exceeds = |case: &Case<Cpu>| {
                let mut inputs = Inputs::of_noise(&b, &case.name, Noise { seed: 0, precision, poison: false });
                let Written { changed, new } = case.prepare(&mut inputs).unwrap()(&b).unwrap();
                let exceeds = |tensor| {
                    let values = expect_ready(crate::backend::Runtime::download(&b, tensor)).unwrap().to_f32();
                    values.iter().any(|value| value.abs() > MAX_F16)
                };
                changed.iter().chain(&new).any(exceeds)
            };
            let found = entry.cases.iter().filter(|case| !case.is_full()).any(exceeds);
            assert_eq!(found, entry.op.features.contains(&Feature::BeyondF16), "{}", entry.op.name);
        }
    }
}
