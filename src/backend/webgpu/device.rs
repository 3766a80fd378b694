//! The device: which adapter, what it allows, and what it complains about.

use super::super::RELIEF;
use super::adapters::{self, Adapters};
use super::cache::Cache;
use super::memory::lock;
use super::variant::{Shaders, Variant};
use crate::error::{Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The first thing that the device complained about, kept until a verb can return it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    state: Mutex<Fault>,
}

#[derive(Debug, Default)]
struct Fault {
    first: Option<String>,
    out_of_memory: bool,
    /// Why the device is gone; stays.
    lost: Option<String>,
}

impl Faults {
    fn push(&self, error: wgpu::Error) {
        let mut state = lock(&self.state);
        match error {
            wgpu::Error::OutOfMemory { .. } => state.out_of_memory = true,
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                // The texts have paragraphs; an error is a sentence.
                state.first.get_or_insert(description.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }

    /// Returns what went wrong since the last call.
    pub(super) fn check(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(reason) = &state.lost {
            return Err(Error::Lost(format!("the GPU is gone, please start again: {reason}")));
        }
        if std::mem::take(&mut state.out_of_memory) {
            // What was complained about since then follows from it: a buffer that could not be made was used.
            state.first = None;
            return Err(Error::OutOfMemory(format!("the GPU ran out of memory; {RELIEF}")));
        }
        match state.first.take() {
            Some(problem) => Err(Error::Device(format!("the GPU refused: {problem}"))),
            None => Ok(()),
        }
    }

    /// Whether memory ran out since the last call.
    pub(super) fn take_out_of_memory(&self) -> bool {
        std::mem::take(&mut lock(&self.state).out_of_memory)
    }

    pub(super) fn lose(&self, reason: &str) {
        let reason = if reason.is_empty() { "it was closed" } else { reason };
        lock(&self.state).lost.get_or_insert_with(|| reason.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// A device that is open.
#[derive(Debug)]
pub(super) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    /// The largest buffer that a shader can be given, in bytes.
    pub max_binding: u64,
    /// The shaders that it runs.
    pub variant: Variant,
    pub faults: Arc<Faults>,
}

impl Device {
    /// Opens the best adapter that will do, or the one that is meant.
    pub(super) async fn open(adapters: &Adapters, shaders: Shaders) -> Result<Self> {
        let adapter = match adapters {
            Adapters::Named(wanted) => adapters::named(&adapters::instance(), wanted).await?,
            Adapters::Any | Adapters::Gpu => best().await?,
        };
        let mut info = adapter.get_info();
        if info.name.is_empty() {
            // A browser that keeps it to itself.
            info.name = "a GPU without a name".into();
        }
        let real = matches!(
            info.device_type,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu
        );
        // A browser says of an adapter only whether it computes on the processor.
        let real = real || cfg!(target_family = "wasm") && info.device_type == wgpu::DeviceType::Other;
        if *adapters == Adapters::Gpu && !real {
            return Err(Error::Device(format!("{} is not a GPU", info.name)));
        }
        // Everything the adapter has: weights and pictures want the largest buffers there are.
        let limits = adapter.limits();
        let enough = limits.max_compute_invocations_per_workgroup >= 256
            && limits.max_storage_buffers_per_shader_stage >= 8
            && limits.max_compute_workgroup_storage_size >= 16 << 10;
        if !enough {
            return Err(Error::Device(format!("{} offers less than the shaders need", info.name)));
        }
        let variant = Variant::choose(shaders, &adapter).map_err(Error::Device)?;
        // SAFETY: what is experimental are cooperative matrices, which our own shaders use within their matrices' bounds.
        let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("zimage"),
            required_features: adapter.features() & Cache::FEATURE | variant.features(),
            experimental_features: experimental,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| Error::Device(format!("{} could not be opened: {error}", info.name)))?;

        let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let faults = Arc::new(Faults::default());
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| sink.push(error)));
        let sink = faults.clone();
        device.set_device_lost_callback(move |_, message| sink.lose(&message));
        Ok(Self { device, queue, info, limits, max_binding, variant, faults })
    }

    /// Waits on the host until `submission`, or all of them, have run. Whether the device has nothing left to do.
    pub(super) fn poll(&self, submission: Option<&wgpu::SubmissionIndex>) -> Result<bool> {
        match self.device.poll(wgpu::PollType::Wait { submission_index: submission.cloned(), timeout: None }) {
            Ok(status) => Ok(status.is_queue_empty()),
            Err(error) => {
                self.faults.check()?;
                Err(Error::Device(format!("the GPU did not finish: {error}")))
            }
        }
    }
}

/// The adapter that the system takes for the fastest.
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

/// Something that the device will say later, on whatever thread.
#[derive(Debug)]
pub(super) struct Signal<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Signal<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }

    /// Whether it was said.
    pub(super) fn arrived(&self) -> bool {
        lock(&self.0).0.is_some()
    }

    /// The other end, for a callback.
    pub(super) fn sender(&self) -> impl FnOnce(T) + use<T> {
        let state = self.0.clone();
        move |value| {
            let waker = {
                let mut state = lock(&state);
                state.0 = Some(value);
                state.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Signal<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0);
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_returned_once_and_a_lost_device_always() {
        let validation = |text: &str| wgpu::Error::Validation { source: text.into(), description: text.into() };
        let faults = Faults::default();
        faults.push(validation("In a dispatch:\n\n  too large"));
        faults.push(validation("a consequence"));
        let sentence = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(sentence(faults.check()), "the GPU refused: In a dispatch: too large");
        assert!(faults.check().is_ok());

        faults.push(wgpu::Error::OutOfMemory { source: "full".into() });
        faults.push(validation("a buffer is invalid, as there was no memory for it"));
        let full = faults.check().unwrap_err();
        assert!(matches!(&full, Error::OutOfMemory(text) if text.contains("out of memory")), "{full}");
        assert!(!faults.take_out_of_memory() && faults.check().is_ok());

        faults.lose("unplugged");
        faults.lose("a consequence");
        for _ in 0..2 {
            assert_eq!(sentence(faults.check()), "the GPU is gone, please start again: unplugged");
        }
    }
}
