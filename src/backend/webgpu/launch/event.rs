//! Points in the order of work that the host can wait for.

use super::gpu::Gpu;
use crate::backend::gpu::lock;
use crate::backend::webgpu::driver::signal::Signal;
use crate::error::{Error, Result};

/// The end of all work that was called before it.
#[derive(Debug)]
pub struct WebGpuEvent {
    done: Signal<()>,
    submission: Option<wgpu::SubmissionIndex>,
}

impl Gpu {
    /// Marks the end of all work called so far.
    pub(crate) fn event(&self) -> Result<WebGpuEvent> {
        self.flush();
        let done = Signal::new();
        let sender = done.sender();
        self.device.queue.on_submitted_work_done(move || sender(()));
        self.device.faults.check()?;
        Ok(WebGpuEvent { done, submission: lock(&self.queue).last.clone() })
    }

    /// Waits for an event.
    pub(crate) async fn wait(&self, event: WebGpuEvent) -> Result<()> {
        self.poll_for(&event.done, event.submission.as_ref())?;
        event.done.await;
        self.device.faults.check()
    }

    /// Blocks until the callback of `signal` has run, which follows `submission` or all work. A
    /// browser runs callbacks by itself.
    pub(super) fn poll_for<T>(&self, signal: &Signal<T>, submission: Option<&wgpu::SubmissionIndex>) -> Result<()> {
        if cfg!(target_family = "wasm") {
            return Ok(());
        }
        let mut submission = submission;
        while !signal.arrived() {
            let idle = self.device.poll(submission.take())?;
            if idle && !signal.arrived() {
                self.device.faults.check()?;
                return Err(Error::Device("the GPU did not say that it finished".into()));
            }
        }
        Ok(())
    }
}
