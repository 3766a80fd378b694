//! The fused ops, one file each: the formula, the arguments, their check, and the trait.
//!
//! A trait's provided method checks its arguments and calls the required `run_…` method, which a
//! backend implements. The check is shared by all backends, so every backend rejects the same
//! tensors with the same message, and a `run_…` method relies on it.
//!
//! # Conventions
//! - Tensors are row-major. `[B, T, D]` is batch, tokens, width. Pictures are channels last, `[B,
//!   H, W, C]`. Latents and velocities are channels first, `[B, C, H, W]`, as in diffusers.
//! - *Activations* have one floating type that the backend chooses ([`Runtime::activations`]).
//!   Latents, velocities, rotations and step tables are F32 everywhere, ids, lengths and counters
//!   U32, pictures U8.
//! - A floating tensor of another type is accepted as an activation or as the weight of a norm, and
//!   converted. A tensor that is changed in place must be an activation.
//! - Accumulators, norms and softmax are F32.
//! - No dimension is 0.
//!
//! # Errors
//! Every op returns [`Error::Shape`](crate::Error::Shape) for tensors with wrong shapes or types
//! and for a tensor that is changed in place and also read,
//! [`Error::OutOfMemory`](crate::Error::OutOfMemory) when an allocation fails, after which the
//! backend remains usable, and [`Error::Device`](crate::Error::Device) for other failures of the
//! device. A value inside a tensor that names a missing row (an id, a caption, a step past its
//! table) is an error if the host can see it (for a recording: at replay), else undefined
//! behaviour.

mod attention;
mod check;
mod concat_rows;
mod conv2d;
mod embed_patches;
mod final_layer;
mod gather_rows;
mod group_moments;
mod group_norm;
mod join_sequence;
mod linear;
mod modulation;
mod normalize_groups;
mod normalize_rgb8;
mod pad_rows;
mod project_qkv;
mod qk_norm_rope;
mod residual;
mod residual_norm;
mod rms_norm;
mod sampler_step;
mod scale_latents;
mod swiglu;
mod timestep_embedding;
mod to_rgb8;
mod unscale_latents;

pub use attention::{AttentionArgs, AttentionOp, Heads, Mask};
pub use concat_rows::{ConcatRowsArgs, ConcatRowsOp};
pub use conv2d::{Conv2d, Conv2dArgs, Conv2dOp};
pub use embed_patches::{EmbedPatchesArgs, EmbedPatchesOp};
pub use final_layer::{FinalLayerArgs, FinalLayerOp};
pub use gather_rows::{GatherRowsArgs, GatherRowsOp};
pub use group_moments::{GroupMomentsArgs, GroupMomentsOp};
pub use group_norm::{GroupNormArgs, GroupNormOp};
pub use join_sequence::{JoinSequenceArgs, JoinSequenceOp};
pub use linear::{LinearArgs, LinearOp};
pub use modulation::{ModulationArgs, ModulationOp};
pub use normalize_groups::{NormalizeGroupsArgs, NormalizeGroupsOp};
pub use normalize_rgb8::{NormalizeRgb8Args, NormalizeRgb8Op};
pub use pad_rows::{PadRowsArgs, PadRowsOp};
pub(super) use project_qkv::project_in_two_ops;
pub use project_qkv::{ProjectQkvArgs, ProjectQkvOp};
pub use qk_norm_rope::{QkNormRope, QkNormRopeArgs, QkNormRopeOp, RopePairs};
pub use residual::{Branch, ResidualArgs, ResidualOp};
pub use residual_norm::{ResidualNormArgs, ResidualNormOp};
pub use rms_norm::{Modulation, RmsNorm, RmsNormArgs, RmsNormOp};
pub use sampler_step::{MAX_HISTORY, SamplerRow, SamplerState, SamplerStepArgs, SamplerStepOp};
pub use scale_latents::{ScaleLatentsArgs, ScaleLatentsOp};
pub use swiglu::{SwiGluArgs, SwiGluOp};
pub(crate) use timestep_embedding::MAX_PERIOD;
pub use timestep_embedding::{TimestepEmbeddingArgs, TimestepEmbeddingOp};
pub(crate) use to_rgb8::level;
pub use to_rgb8::{ToRgb8Args, ToRgb8Op};
pub use unscale_latents::{UnscaleLatentsArgs, UnscaleLatentsOp};

use super::runtime::{DeviceTensor, DeviceWeight, Fp8Form, Runtime};
use crate::error::Result;
