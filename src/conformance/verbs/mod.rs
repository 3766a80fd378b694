//! The cases of every verb, one file a verb or a few that belong together, named as in `backend/cpu/`.
//!
//! A case whose name starts with `full` has the sizes of a 1024×1024 picture and is for GPUs; the others have its widths
//! with fewer tokens, or awkward sizes: one token, ragged lengths, odd widths, sizes that no tile divides.

mod attention;
mod conv2d;
mod gather_rows;
mod group_norm;
mod guide_and_step;
mod linear;
mod patches;
mod pictures;
mod project_qkv;
mod qk_norm_rope;
mod residual_norm;
mod rms_norm;
mod sequence;
mod swiglu;
mod timestep_embedding;
mod upload;

use super::case::Suite;
use crate::backend::Backend;

/// The cases of every verb, in the order of the trait; `full` adds those of real size.
pub(super) fn suite<B: Backend + 'static>(full: bool) -> Suite<B> {
    let mut suite = Suite::new(full);
    upload::cases(&mut suite);
    gather_rows::cases(&mut suite);
    linear::cases(&mut suite);
    swiglu::cases(&mut suite);
    rms_norm::cases(&mut suite);
    residual_norm::cases(&mut suite);
    qk_norm_rope::cases(&mut suite);
    project_qkv::cases(&mut suite);
    attention::cases(&mut suite);
    timestep_embedding::cases(&mut suite);
    patches::cases(&mut suite);
    sequence::cases(&mut suite);
    guide_and_step::cases(&mut suite);
    conv2d::cases(&mut suite);
    group_norm::cases(&mut suite);
    pictures::cases(&mut suite);
    suite
}
