//! Memory that the system may refuse: allocations that return an error, where those of the standard
//! library end the program.
//!
//! Everything that grows with a picture, a batch or a model comes from here.

use crate::error::{Error, MemoryKind, Result};
use bytemuck::Zeroable;
use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;

thread_local! {
    /// True while this thread makes an allocation that may fail.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// True while the calling thread makes an allocation whose failure it returns as an error. A global
/// allocator that ends the program on failure asks, and lets such an allocation fail.
pub fn may_fail() -> bool {
    MAY_FAIL.get()
}

/// Runs `allocate`, which only allocates, with failures allowed.
fn fallible<T>(allocate: impl FnOnce() -> T) -> T {
    MAY_FAIL.set(true);
    let allocated = allocate();
    MAY_FAIL.set(false);
    allocated
}

/// `len` zeros, for `what`. The system brings in their pages only when they are touched.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn zeros<T: Zeroable>(len: usize, what: &str) -> Result<Vec<T>> {
    let refused = || refused(len as f64 * size_of::<T>() as f64, what);
    let layout = Layout::array::<T>(len).map_err(|_| refused())?;
    if layout.size() == 0 {
        return with_room(len, what).map(|mut none| {
            none.resize_with(len, T::zeroed);
            none
        });
    }
    // SAFETY: the size of the layout is not 0.
    let start = fallible(|| unsafe { alloc_zeroed(layout) }).cast::<T>();
    if start.is_null() {
        return Err(refused());
    }
    // SAFETY: the global allocator gave the memory of `len` elements with their alignment, and
    // their bytes are zeros, which are values of their type.
    Ok(unsafe { Vec::from_raw_parts(start, len, len) })
}

/// An empty vector with room for `len` elements, for `what`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn with_room<T>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut room = Vec::new();
    match fallible(|| room.try_reserve_exact(len)) {
        Ok(()) => Ok(room),
        Err(_) => Err(refused(len as f64 * size_of::<T>() as f64, what)),
    }
}

/// A copy of `values`, for `what`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn copied<T: Copy>(values: &[T], what: &str) -> Result<Vec<T>> {
    let mut copy = with_room(values.len(), what)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// The error of `bytes` bytes for `what` that the system refused.
pub(crate) fn refused(bytes: f64, what: &str) -> Error {
    Error::out_of_memory(MemoryKind::Host, format!("there is no memory for {what} ({:.1} MB)", bytes / 1e6))
}

/// Bytes of memory that programs can still take, without what the system needs to stay usable;
/// `None` where the system does not tell.
pub(crate) fn available() -> Option<u64> {
    /// Left to the system.
    const MARGIN: u64 = 2 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    mem_available(&text).map(|bytes| bytes.saturating_sub(MARGIN))
}

/// `MemAvailable` of Linux's `/proc/meminfo`, in bytes.
fn mem_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:       24689764 kB\nMemFree:  1 kB\nMemAvailable:   23013592 kB\n";
        assert_eq!(mem_available(text), Some(23_013_592 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: lots\n"), None);
    }

    #[test]
    fn missing_memory_is_an_error() {
        for len in [1 << 59, 1 << 61, usize::MAX] {
            let sentence = zeros::<f32>(len, "a test").unwrap_err().to_string();
            assert!(sentence.starts_with("there is no memory for a test (") && sentence.contains("MB"), "{sentence}");
            assert!(matches!(
                with_room::<f32>(len, "a test"),
                Err(Error::OutOfMemory { memory: MemoryKind::Host, .. })
            ));
        }
        assert!(!may_fail());
    }

    #[test]
    fn zeros_and_copies_have_their_lengths() {
        assert_eq!(zeros::<u32>(3, "a test").unwrap(), [0; 3]);
        assert_eq!((zeros::<u32>(0, "a test").unwrap().len(), zeros::<()>(7, "a test").unwrap().len()), (0, 7));
        assert_eq!(copied(&[1.5f32, -2.0], "a test").unwrap(), [1.5, -2.0]);
    }
}
