//! The ops, one file each: the launches and the programs of its kernels.

pub(crate) mod attention;
pub(crate) mod concat_rows;
pub(crate) mod conv2d;
pub(crate) mod embed_patches;
pub(crate) mod final_layer;
pub(crate) mod gather_rows;
pub(crate) mod group_moments;
pub(crate) mod group_norm;
pub(crate) mod join_sequence;
pub(crate) mod linear;
pub(crate) mod modulation;
pub(crate) mod normalize_groups;
pub(crate) mod normalize_rgb8;
pub(crate) mod pad_rows;
pub(crate) mod project_qkv;
pub(crate) mod qk_norm_rope;
pub(crate) mod residual;
pub(crate) mod residual_norm;
pub(crate) mod rms_norm;
pub(crate) mod sampler_step;
pub(crate) mod scale_latents;
pub(crate) mod swiglu;
pub(crate) mod timestep_embedding;
pub(crate) mod to_rgb8;
pub(crate) mod unscale_latents;

use super::driver::program::Program;
use super::launch::convert;
use super::matrix::quantized;

/// The programs of all ops for an architecture such as `sm_90a`, in many of their variants.
pub(crate) fn programs(architecture: &str) -> Vec<Program> {
    let mut programs = vec![
        attention::programs(),
        conv2d::programs(),
        convert::programs(),
        quantized::programs(),
        embed_patches::programs(),
        final_layer::programs(),
        gather_rows::programs(),
        group_norm::programs(),
        sampler_step::programs(),
        join_sequence::programs(),
        linear::programs(),
        normalize_rgb8::programs(),
        pad_rows::programs(),
        qk_norm_rope::programs(),
        residual_norm::programs(),
        scale_latents::programs(),
        swiglu::programs(),
        timestep_embedding::programs(),
        to_rgb8::programs(),
        unscale_latents::programs(),
    ];
    if !["sm_80", "sm_86"].contains(&architecture) {
        programs.extend([
            attention::fp8_programs(),
            linear::fp8_programs(),
            qk_norm_rope::fp8_programs(),
            residual_norm::fp8_programs(),
            swiglu::fp8_programs(),
        ]);
    }
    if architecture == "sm_90a" {
        programs.extend([
            attention::sm90_programs(),
            conv2d::sm90_programs(),
            linear::sm90_programs(),
            project_qkv::sm90_programs(),
            swiglu::sm90_programs(),
        ]);
    }
    programs.concat()
}
