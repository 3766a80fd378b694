//! The end of the program where memory runs out: one sentence and the exit code of a device that
//! cannot do it.
//!
//! Allocations of the library for pictures and models return an error. Everything else, the
//! dependencies' buffers among it, cannot, and would abort.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a device that cannot do it.
const EXIT_CODE: i32 = 4;

/// Makes glibc keep freed memory for the next allocation. By default it returns the end of the heap
/// to the system as soon as 128 KiB are free there, and the next op's buffers take their pages
/// anew, a tenth of a small picture's time.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The largest that glibc takes. Allocations from there on are mapped one by one.
        const MAPPED: libc::c_int = 32 << 20;
        /// Bytes that are kept at the end of the heap.
        const KEPT: libc::c_int = 256 << 20;
        // SAFETY: mallopt changes two settings of the allocator, at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        }
    }
}

/// The system's allocator. It ends the program where an allocation fails that nobody checks.
pub(crate) struct Allocator;

// SAFETY: every call is the system's allocator's own, with the arguments that it was given.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

fn checked(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() && !zimage::reserve::may_fail() {
        end(bytes);
    }
    memory
}

/// Says that `bytes` bytes were refused, and ends the program without running anything that may
/// want memory.
#[cold]
fn end(bytes: usize) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    // Another thread may find the memory full as well: one sentence is enough.
    while ENDING.swap(true, Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let mut line = [0; 200];
    let mut rest = &mut line[..];
    let megabytes = bytes as f64 / 1e6;
    let _ = writeln!(
        rest,
        "error: there is no memory left ({megabytes:.1} MB more were refused): a smaller picture, a smaller batch or fewer \
         threads (RAYON_NUM_THREADS) take less"
    );
    let unused = rest.len();
    let length = line.len() - unused;
    say_and_exit(&line[..length])
}

#[cfg(unix)]
fn say_and_exit(line: &[u8]) -> ! {
    // SAFETY: the line is as long; neither call uses any other memory of the program.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        libc::_exit(EXIT_CODE)
    }
}

#[cfg(not(unix))]
fn say_and_exit(line: &[u8]) -> ! {
    // Nobody reads a standard error that is closed.
    let _ = std::io::stderr().write_all(line);
    std::process::exit(EXIT_CODE)
}
