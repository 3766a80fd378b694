//! The ops.

pub(crate) mod attention;
pub(crate) mod conv2d;
pub(crate) mod elementwise;
pub(crate) mod embed_patches;
pub(crate) mod guide_and_step;
pub(crate) mod linear;
pub(crate) mod residual_norm;
