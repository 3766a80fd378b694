//! Compute pipelines, each compiled once.

use super::pipeline_cache::PipelineCache;
use crate::backend::gpu::lock;
use crate::error::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A compiled shader.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub label: String,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// WGSL to compile.
#[derive(Debug)]
pub(crate) struct Source {
    pub entry: &'static str,
    pub text: String,
    /// Every binding of group 0.
    pub bindings: Vec<(u32, Access)>,
}

/// A shader's access to a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Uniform,
    Read,
    ReadWrite,
}

/// The pipelines that were compiled so far, by label.
#[derive(Debug)]
pub(crate) struct Pipelines {
    compiled: Mutex<HashMap<String, Arc<Pipeline>>>,
    cache: Option<PipelineCache>,
}

impl Pipelines {
    pub(crate) fn new(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Self {
        Self { compiled: Mutex::default(), cache: PipelineCache::open(device, info) }
    }

    /// The pipeline of the shader `label`, compiled from `source` on first use. An error of the
    /// driver's compiler arrives as an uncaptured error.
    pub(crate) fn get(
        &self,
        device: &wgpu::Device,
        label: String,
        source: impl FnOnce() -> Result<Source>,
    ) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = lock(&self.compiled).get(&label) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(compile(device, source()?, label.clone(), self.cache.as_ref()));
        lock(&self.compiled).insert(label, pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(device: &wgpu::Device, source: Source, label: String, cache: Option<&PipelineCache>) -> Pipeline {
    let Source { entry, text, bindings } = source;
    let entries: Vec<_> = bindings
        .into_iter()
        .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match access {
                    Access::Uniform => wgpu::BufferBindingType::Uniform,
                    Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&label),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: the shaders are this crate's own. Each guards every index by the sizes in its
    // parameters, which the op takes from the shapes of the tensors that it binds, and such a size
    // ends each loop.
    let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(entry),
        // Every shader writes its workgroup memory before it reads it.
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        },
        cache: cache.map(PipelineCache::for_pipeline),
    });
    Pipeline { label, pipeline, layout }
}
