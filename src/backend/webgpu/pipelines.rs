//! Programs to pipelines, each once.

use super::cache::Cache;
use super::memory::lock;
use super::program::{Access, Program};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A compiled program.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub label: String,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// All pipelines that were asked for so far, by [`Program::label`].
#[derive(Debug)]
pub(super) struct Pipelines {
    made: Mutex<HashMap<String, Arc<Pipeline>>>,
    cache: Option<Cache>,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Self {
        Self { made: Mutex::default(), cache: Cache::open(device, info) }
    }

    /// The pipeline of `program`, compiled when it is asked for the first time. What the device says about a shader
    /// that it cannot compile comes as an uncaptured error.
    pub(super) fn get(&self, device: &wgpu::Device, program: &Program) -> Arc<Pipeline> {
        let label = program.label();
        if let Some(pipeline) = lock(&self.made).get(&label) {
            return pipeline.clone();
        }
        let pipeline = Arc::new(compile(device, program, label.clone(), self.cache.as_ref()));
        lock(&self.made).insert(label, pipeline.clone());
        pipeline
    }
}

fn compile(device: &wgpu::Device, program: &Program, label: String, cache: Option<&Cache>) -> Pipeline {
    let entries: Vec<_> = program
        .bindings()
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
    let source = wgpu::ShaderSource::Wgsl(program.source().into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&label), source };
    // SAFETY: the shaders are this crate's own. Each guards every index by the sizes in its parameters, which the verb
    // takes from the shapes of the very tensors that it binds, and each loop ends by such a size.
    let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(program.entry),
        // Every shader writes its workgroup memory before it reads it.
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        },
        cache: cache.map(Cache::for_pipeline),
    });
    Pipeline { label, pipeline, layout }
}
