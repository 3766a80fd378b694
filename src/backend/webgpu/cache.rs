//! Compiled pipelines on disk, so that a driver compiles each shader once and not once a run.
//!
//! Only Vulkan hands them out. The file stands in the user's cache folder, one for each kind of GPU; a driver that was
//! updated ignores what an older one wrote. Whatever goes wrong here costs time and nothing else, so it is not an error.

use crate::backend::cache;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a driver keeps of the pipelines that it compiled, and the file it came from.
#[derive(Debug)]
pub(super) struct Cache {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    /// Bytes in the file.
    stored: usize,
    compiled: AtomicUsize,
}

impl Cache {
    /// What a device has to be opened with.
    pub(super) const FEATURE: wgpu::Features = wgpu::Features::PIPELINE_CACHE;

    /// The cache of `device`; `None` where there is nothing to keep it in.
    pub(super) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Self> {
        if !device.features().contains(Self::FEATURE) {
            return None;
        }
        let file = cache::folder()?.join(wgpu::util::pipeline_cache_key(info)?);
        let data = fs::read(&file).ok();
        let stored = data.as_ref().map_or(0, Vec::len);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data: data.as_deref(), fallback: true };
        // SAFETY: the file holds what this program got from `get_data`; wgpu and the driver check its header, and it
        // stands where the user's drivers keep their own caches, out of reach of others.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, file, stored, compiled: AtomicUsize::new(0) })
    }

    /// For a pipeline that is about to be compiled.
    pub(super) fn for_pipeline(&self) -> &wgpu::PipelineCache {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        &self.cache
    }

    /// Writes the file when it holds something else: what was read is part of what is written, unless the driver would
    /// not have it.
    fn save(&self) -> Option<()> {
        if self.compiled.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let data = self.cache.get_data()?;
        if data.len() == self.stored {
            return None;
        }
        cache::write(&self.file, &data)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.save();
    }
}
