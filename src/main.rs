//! The `zimage` program: text-to-image with Z-Image from the command line.

mod cli;

use cli::memory::Allocator;
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    #[cfg(all(feature = "webgpu", target_os = "linux"))]
    quiet_vulkan();
    cli::memory::keep_freed_memory();
    cli::run(Instant::now())
}

/// Keeps Mesa's Vulkan layer from asking for a screen where none exists: it would print an error
/// of its own.
#[cfg(all(feature = "webgpu", target_os = "linux"))]
fn quiet_vulkan() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: nothing has run before this, so there is no other thread that could read the
        // environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
