//! The state of the standard streams and of file-size limits, which Rust's start-up code hides.

#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output was closed when the process started.
#[cfg(unix)]
static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks at standard output before `main`, because Rust's start-up code opens `/dev/null` in the
/// place of a closed stream, where a picture would vanish without an error.
#[cfg(any(target_os = "linux", target_os = "macos"))]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: the call takes no pointer, and fails on a descriptor that is not open.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        STDOUT_WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
    }
    look
};

/// Turns a file that grows past `ulimit -f` into an error of the write; the signal would end the
/// process without a word.
pub(super) fn prepare() {
    #[cfg(unix)]
    // SAFETY: nothing else in this process handles the signal, and ignoring it runs no code.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Checks that standard output is open.
///
/// # Errors
/// [`zimage::Error::File`] when it was closed before the program started (`>&-`).
pub(super) fn check_stdout() -> zimage::Result<()> {
    #[cfg(unix)]
    if STDOUT_WAS_CLOSED.load(Ordering::Relaxed) {
        let problem = "it is closed, so that nothing can be written to it; send it to a file or a pipe".to_owned();
        return Err(zimage::Error::File { path: "standard output".into(), problem });
    }
    Ok(())
}
