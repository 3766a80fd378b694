//! The driver's pipeline cache on disk, so that each shader is compiled once a driver and not once
//! a run.
//!
//! Only Vulkan exposes it. The user's cache folder holds one entry for each kind of GPU. An entry
//! that is damaged, that another driver wrote or that wgpu refuses is replaced. A failure costs
//! time only, so it is not an error.

use crate::backend::gpu::disk_cache::CacheEntry;
use futures_util::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A driver's pipeline cache and its file.
#[derive(Debug)]
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    file: CacheEntry,
    /// Bytes of the file's data when it was read.
    stored: usize,
    compiled: AtomicUsize,
}

impl PipelineCache {
    /// The feature that the device must be opened with.
    pub(super) const FEATURE: wgpu::Features = wgpu::Features::PIPELINE_CACHE;

    /// The cache of `device`; `None` without the feature or without a cache folder.
    pub(super) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Self> {
        if !device.features().contains(Self::FEATURE) {
            return None;
        }
        let key = format!("{} driver {} {}", info.name, info.driver, info.driver_info);
        let file = CacheEntry::named(&wgpu::util::pipeline_cache_key(info)?, key)?;
        let found = file.read().and_then(|data| Some((create(device, Some(&data))?, data.len())));
        let (cache, stored) = match found {
            Some(found) => found,
            None => (create(device, None)?, 0),
        };
        Some(Self { cache, file, stored, compiled: AtomicUsize::new(0) })
    }

    /// The cache for a pipeline that is about to be compiled.
    pub(super) fn for_pipeline(&self) -> &wgpu::PipelineCache {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        &self.cache
    }

    /// Writes the file if the data grew. The driver extends the data that was read unless it
    /// rejected that.
    fn save(&self) {
        if self.compiled.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(data) = self.cache.get_data().filter(|data| data.len() != self.stored) {
            self.file.write(&data);
        }
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        self.save();
    }
}

/// The driver's cache with this data; `None` if wgpu refuses it. The error scope keeps that refusal
/// from being reported as an error of the program's own work.
fn create(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    let refused = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
    // SAFETY: only this user can have written the entry, its checksum shows that it is whole, and
    // its key that this driver made it. wgpu and the driver check its header as well.
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    // The scope resolves at once on every platform that has pipeline caches.
    matches!(refused.pop().now_or_never(), Some(None)).then_some(cache)
}
