//! An open device with its limits and its variant of the shaders.

use super::adapters::{self, Adapters};
use super::faults::Faults;
use super::pipeline_cache::PipelineCache;
use super::variant::{Shaders, Variant};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The feature that streaming needs: buffers in host memory that the device copies and shaders
/// read. No browser has it. wgpu logs a warning about its speed when it is requested; buffers on
/// the device are as fast as without it.
pub(crate) const STREAMING: wgpu::Features = wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;

/// A device that is open.
#[derive(Debug)]
pub(crate) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    /// The largest buffer that can be bound to a shader, in bytes.
    pub max_binding: u64,
    pub variant: Variant,
    /// True if weights can be streamed.
    pub streams: bool,
    pub faults: Arc<Faults>,
}

impl Device {
    /// Opens the best suitable adapter, or the named one.
    pub(crate) async fn open(adapters: &Adapters, shaders: Shaders) -> Result<Self> {
        let adapter = match adapters {
            Adapters::Named(wanted) => adapters::named(&adapters::instance(), wanted).await?,
            Adapters::Any | Adapters::Gpu => best().await?,
        };
        let mut info = adapter.get_info();
        if info.name.is_empty() {
            // Some browsers withhold the name.
            info.name = "a GPU without a name".into();
        }
        let real = matches!(
            info.device_type,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu
        );
        // A browser only says whether an adapter computes on the processor.
        let real = real || cfg!(target_family = "wasm") && info.device_type == wgpu::DeviceType::Other;
        if *adapters == Adapters::Gpu && !real {
            return Err(Error::Device(format!("{} is not a GPU", info.name)));
        }
        // Weights and pictures need the largest buffers, so every limit is raised to the adapter's
        // unless others are asked for.
        let limits = match shaders {
            Shaders::DefaultLimits => wgpu::Limits::default(),
            _ => adapter.limits(),
        };
        let enough = limits.max_compute_invocations_per_workgroup >= 256
            && limits.max_storage_buffers_per_shader_stage >= 8
            && limits.max_compute_workgroup_storage_size >= 16 << 10;
        if !enough {
            return Err(Error::Device(format!("{} offers less than the shaders need", info.name)));
        }
        let variant = Variant::choose(shaders, &adapter).map_err(Error::Device)?;
        // SAFETY: the experimental feature is cooperative matrices, and the crate's shaders stay
        // within the bounds of their matrices.
        let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("zimage"),
            required_features: adapter.features() & (PipelineCache::FEATURE | STREAMING) | variant.features(),
            experimental_features: experimental,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| Error::Device(format!("{} could not be opened: {error}", info.name)))?;

        let streams = device.features().contains(STREAMING);
        let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let faults = Arc::new(Faults::default());
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| sink.push(error)));
        let sink = faults.clone();
        device.set_device_lost_callback(move |_, message| sink.lose(&message));
        Ok(Self { device, queue, info, limits, max_binding, variant, streams, faults })
    }

    /// Blocks until `submission`, or every submission, has run. Returns whether the device is idle.
    pub(crate) fn poll(&self, submission: Option<&wgpu::SubmissionIndex>) -> Result<bool> {
        match self.device.poll(wgpu::PollType::Wait { submission_index: submission.cloned(), timeout: None }) {
            Ok(status) => Ok(status.is_queue_empty()),
            Err(error) => {
                self.faults.check()?;
                Err(Error::Device(format!("the GPU did not finish: {error}")))
            }
        }
    }
}

/// The adapter that the system ranks fastest.
async fn best() -> Result<wgpu::Adapter> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..wgpu::RequestAdapterOptions::default()
    };
    adapters::instance().request_adapter(&options).await.map_err(|_| {
        let problem = match cfg!(target_family = "wasm") {
            true => "this browser offers no WebGPU adapter: it is too old, or WebGPU is switched off in it",
            false => "there is no GPU that this program can use: no Vulkan, Metal or Direct3D 12 driver was found",
        };
        Error::Device(problem.into())
    })
}
