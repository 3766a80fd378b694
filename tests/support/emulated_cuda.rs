//! CUDA's driver and compiler, emulated on the host (`tests/emulated_cuda`). The first test that
//! needs them builds them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The variable that marks a process as running on the emulation.
const INSIDE: &str = "ZIMAGE_TEST_ON_EMULATED_CUDA";

/// Runs `body` in a process that loads the emulated driver, with `settings` in its environment.
/// `test` is the caller's name.
pub(crate) fn emulated(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let Some(folder) = built() else { return };
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", folder)
        .env("ZIMAGE_NVRTC", folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

/// The folder with `libcuda.so`, `libnvrtc.so` and their `selftest`. Prints the reason and returns
/// `None` if this machine cannot build them.
///
/// # Panics
///
/// Panics if the build fails on a machine that has the requirements.
pub(crate) fn built() -> Option<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let skip = |why: &String| writeln!(std::io::stderr(), "skipped: cuda: {why}").err();
    BUILT.get_or_init(|| missing().map_or_else(|| Ok(build()), Err)).as_deref().map_err(skip).ok()
}

/// A requirement of the emulation that this machine lacks.
fn missing() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("CUDA is emulated on Linux and x86-64 only".into());
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let found = Command::new(&compiler).arg("--version").output().is_ok_and(|out| out.status.success());
    (!found).then(|| format!("there is no {compiler} to build the emulated CUDA with (Debian: apt-get install g++)"))
}

fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated_cuda");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated_cuda/build");
    let out = Command::new("bash").arg(script).arg(&folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    folder
}
