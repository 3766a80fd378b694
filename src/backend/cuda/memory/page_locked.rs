//! Page-locked host memory, which the device reads at its host address (unified addressing).

use super::arena::Source;
use cudarc::driver::{CudaContext, DriverError, result};
use std::sync::Arc;

/// The host's memory, page-locked by the driver.
pub(super) struct PageLocked {
    pub context: Arc<CudaContext>,
}

impl Source for PageLocked {
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the context is current, and the size is not 0.
        unsafe { result::malloc_host(bytes as usize, 0) }.map(|start| start.addr() as u64)
    }

    fn free(&self, address: u64, _: u64) {
        // SAFETY: the address came from `malloc_host`, is freed once, and no copy reads it any more.
        let freed = self.context.synchronize().and_then(|()| unsafe { result::free_host(address as usize as *mut _) });
        // The next call to the driver returns this error. Memory that may still be read is leaked.
        self.context.record_err(freed);
    }
}
