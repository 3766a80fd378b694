//! Errors that the device reports outside of any call.

use crate::backend::gpu::lock;
use crate::error::{Error, MemoryKind, Result};
use std::sync::Mutex;

/// The device's first uncaptured error, until a call returns it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<Fault>,
}

#[derive(Debug, Default)]
struct Fault {
    first: Option<String>,
    out_of_memory: bool,
    /// The reason of a lost device. It is never cleared.
    lost: Option<String>,
}

impl Faults {
    pub(super) fn push(&self, error: wgpu::Error) {
        let mut state = lock(&self.state);
        match error {
            wgpu::Error::OutOfMemory { .. } => state.out_of_memory = true,
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                state.first.get_or_insert(one_line(&description));
            }
        }
    }

    /// Returns the first error since the last call.
    pub(crate) fn check(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(reason) = &state.lost {
            return Err(Error::Lost(format!("the GPU is gone, please start again: {reason}")));
        }
        if std::mem::take(&mut state.out_of_memory) {
            // Later errors follow from the first: work used the buffer that could not be made.
            state.first = None;
            return Err(Error::out_of_memory(MemoryKind::Activations, "the GPU ran out of memory"));
        }
        match state.first.take() {
            Some(problem) => Err(Error::Device(format!("the GPU refused: {problem}"))),
            None => Ok(()),
        }
    }

    /// Whether memory ran out since the last call.
    pub(crate) fn take_out_of_memory(&self) -> bool {
        std::mem::take(&mut lock(&self.state).out_of_memory)
    }

    pub(super) fn lose(&self, reason: &str) {
        let reason = if reason.is_empty() { "it was closed" } else { reason };
        lock(&self.state).lost.get_or_insert_with(|| one_line(reason));
    }
}

/// A driver's text, which may have paragraphs, in one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_clear_and_a_lost_device_stays() {
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
        assert!(matches!(&full, Error::OutOfMemory { problem, .. } if problem.contains("out of memory")), "{full}");
        assert!(!faults.take_out_of_memory() && faults.check().is_ok());

        faults.lose("unplugged");
        faults.lose("a consequence");
        for _ in 0..2 {
            assert_eq!(sentence(faults.check()), "the GPU is gone, please start again: unplugged");
        }
    }
}
