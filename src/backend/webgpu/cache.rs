//! Compiled pipelines on disk, so that a driver compiles each shader once and not once a run.
//!
//! Only Vulkan hands them out. There is one entry for each kind of GPU in the user's cache folder;
//! one that is damaged, that another driver wrote or that wgpu refuses is made again. A failure
//! costs time and nothing else, so it is not an error.

use crate::backend::gpu::disk_cache::CacheEntry;
use futures_util::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A driver's memory of the pipelines that it compiled, and the file it came from.
#[derive(Debug)]
pub(super) struct Cache {
    cache: wgpu::PipelineCache,
    file: CacheEntry,
    /// Bytes of it in the file.
    stored: usize,
    compiled: AtomicUsize,
}

impl Cache {
    /// The feature that a device has to be opened with.
    pub(super) const FEATURE: wgpu::Features = wgpu::Features::PIPELINE_CACHE;

    /// The cache of `device`; `None` where there is nothing to keep it in.
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

    /// For a pipeline that is about to be compiled.
    pub(super) fn for_pipeline(&self) -> &wgpu::PipelineCache {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        &self.cache
    }

    /// Writes the file when it holds something else: the data that was read is part of the data
    /// that is written, unless the driver would not have it.
    fn save(&self) {
        if self.compiled.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(data) = self.cache.get_data().filter(|data| data.len() != self.stored) {
            self.file.write(&data);
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.save();
    }
}

/// The driver's cache with this data, unless wgpu refuses it: without the error scope its error
/// would be taken for one of the program's own work.
fn create(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    let refused = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
    // SAFETY: only this user can have written the entry, its checksum says that it is whole, and
    // its key that this driver made it; wgpu and the driver check its header besides.
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    // The scope's answer is there at once wherever there are pipeline caches.
    matches!(refused.pop().now_or_never(), Some(None)).then_some(cache)
}
