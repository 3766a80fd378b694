//! The sizes of the scratch memory of weights.

use std::sync::atomic::{AtomicU64, Ordering};

/// The sizes of the memory through which weights pass. All pieces take the size of the largest, so
/// that each reuses the memory of the one before.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// For copies of streamed pieces.
    pub streamed: Largest,
    /// For dequantised pieces.
    pub dequantized: Largest,
}

/// Bytes of the largest piece so far.
#[derive(Debug, Default)]
pub(crate) struct Largest(AtomicU64);

impl Largest {
    /// Counts a piece of so many bytes.
    pub(crate) fn count(&self, bytes: u64) {
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
