//! Page-locked host memory, which the device reads at its host address (unified addressing).
//!
//! Locking touches every page. In huge pages that all threads touch first it takes a fraction of
//! the time that the driver's own allocation takes.

use super::arena::Source;
use crate::backend::gpu::lock;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError};
use memmap2::MmapMut;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Bytes of a huge page, and of a small one.
const HUGE: usize = 2 << 20;
const SMALL: usize = 4 << 10;

/// The host's memory, page-locked for a device.
pub(crate) struct PageLocked {
    context: Arc<CudaContext>,
    /// By address.
    mapped: Mutex<BTreeMap<u64, MmapMut>>,
}

impl PageLocked {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: context.clone(), mapped: Mutex::default() }
    }
}

impl Source for PageLocked {
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError> {
        const REFUSED: DriverError = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        self.context.bind_to_thread()?;
        let bytes = usize::try_from(bytes).map_err(|_| REFUSED)?;
        let mut mapped = MmapMut::map_anon(bytes).map_err(|_| REFUSED)?;
        // Advice that a system does not take costs time only.
        #[cfg(target_os = "linux")]
        let _ = mapped.advise(memmap2::Advice::HugePage);
        mapped.par_chunks_mut(HUGE).for_each(|part| part.iter_mut().step_by(SMALL).for_each(|byte| *byte = 0));
        // SAFETY: the context is current, and the memory is mapped until it is unregistered.
        unsafe { sys::cuMemHostRegister_v2(mapped.as_mut_ptr().cast(), bytes, 0) }.result()?;
        let address = mapped.as_ptr().addr() as u64;
        lock(&self.mapped).insert(address, mapped);
        Ok(address)
    }

    fn free(&self, address: u64, _: u64) {
        // SAFETY: the address was registered, is unregistered once, and no copy reads it any more.
        let freed = self
            .context
            .synchronize()
            .and_then(|()| unsafe { sys::cuMemHostUnregister(address as usize as *mut _) }.result());
        match (freed, lock(&self.mapped).remove(&address)) {
            (Ok(()), _) => {}
            (Err(error), mapped) => {
                // Memory that may still be read is leaked. The next call to the driver returns the
                // error.
                std::mem::forget(mapped);
                self.context.record_err::<()>(Err(error));
            }
        }
    }
}
