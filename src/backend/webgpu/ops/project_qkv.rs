//! `project_qkv`: the two ops of its default.

use crate::backend::ProjectQkvOp;
use crate::backend::webgpu::WebGpu;

impl ProjectQkvOp for WebGpu {}
