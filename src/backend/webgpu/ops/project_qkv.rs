//! `project_qkv`: the two ops of its default.

use super::WebGpu;
use crate::backend::ProjectQkvOp;

impl ProjectQkvOp for WebGpu {}
