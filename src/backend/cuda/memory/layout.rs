//! The memory of a recording: laid out while its work is collected, taken in one piece before any of it runs.
//!
//! Nothing runs while work is collected, so what it makes needs places but no memory yet. How much all of them take is known at
//! the end, and just that much is taken then, in one piece: nothing is asked of the driver later.
//! A place is given to another tensor of the recording as soon as the last handle on the one before is dropped, as all of its
//! work runs in the order it was called in; it is never given to others, because a replay writes it again.

use super::arena::{Arena, Parts};
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

/// More bytes than any device has, so that it is the device which is full when its memory is taken.
const ENDLESS: u64 = 1 << 62;
/// What places are multiples of: as the driver's own addresses are.
const ALIGNMENT: u64 = 512;

/// Places side by side, from 0 on, and where 0 is once they have memory.
pub(crate) struct Layout {
    source: Arc<Arena>,
    laid: Mutex<Laid>,
    start: OnceLock<u64>,
}

struct Laid {
    parts: Parts,
    /// Where the last place ends that was ever given.
    bytes: u64,
}

impl Layout {
    /// An empty one, whose memory will come from `source`.
    pub(crate) fn new(source: &Arc<Arena>) -> Arc<Self> {
        let laid = Laid { parts: Parts::one(0, ENDLESS), bytes: 0 };
        Arc::new(Self { source: source.clone(), laid: Mutex::new(laid), start: OnceLock::new() })
    }

    /// A place for `bytes`, which are rounded up, and how many there are then. Not once it is settled.
    pub(crate) fn take(&self, bytes: u64) -> (u64, u64) {
        debug_assert!(self.start.get().is_none());
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let laid = &mut *lock(&self.laid);
        let at = laid.parts.take(bytes).unwrap_or(ENDLESS);
        laid.bytes = laid.bytes.max(at + bytes);
        (at, bytes)
    }

    /// Takes a place back.
    pub(crate) fn give(&self, at: u64, bytes: u64) {
        lock(&self.laid).parts.give(at, bytes);
    }

    /// How much all places take.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.laid).bytes
    }

    /// Takes memory for all places, once, and returns where it starts. Whoever collected them calls it, and nobody else.
    pub(crate) fn settle(&self) -> Result<u64, DriverError> {
        if let Some(start) = self.start.get() {
            return Ok(*start);
        }
        let bytes = self.bytes();
        let start = if bytes == 0 { 0 } else { self.source.take(bytes)? };
        Ok(*self.start.get_or_init(|| start))
    }

    /// Where a place is on the device.
    fn address(&self, at: u64) -> Result<u64> {
        let start =
            self.start.get().ok_or_else(|| Error::shape("record", "its tensors have no memory before it is whole"))?;
        Ok(start + at)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let bytes = self.bytes();
        if let Some(start) = self.start.get().filter(|_| bytes > 0) {
            self.source.give(*start, bytes);
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} bytes)", self.bytes())
    }
}

/// Where something starts on the device, which a recording's work knows only when it runs. It keeps no tensor alive.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    At(u64),
    In(Arc<Layout>, u64),
}

impl Place {
    /// The address.
    pub(crate) fn address(&self) -> Result<u64> {
        match self {
            Place::At(address) => Ok(*address),
            Place::In(layout, at) => layout.address(*at),
        }
    }

    /// Whether the address is, or will be, a multiple of `alignment`, a power of two that the driver's own addresses are
    /// multiples of.
    pub(crate) fn is_aligned(&self, alignment: u64) -> bool {
        let (Place::At(at) | Place::In(_, at)) = self;
        at.is_multiple_of(alignment)
    }
}
