//! NVRTC, NVIDIA's compiler as a library: where it is found, and text to machine code.

use super::functions;
use super::library::Library;
use crate::error::{Error, Result};
use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The environment variable that names the library, or the folder it stands in.
const VARIABLE: &str = "ZIMAGE_NVRTC";

const LIBRARY: Library = Library {
    name: "nvrtc",
    files: [&["libnvrtc-builtins.so", "libnvrtc.so"], &["nvrtc-builtins64", "nvrtc64"]],
    package: "cuda_nvrtc",
};

/// What the compiler made.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Machine code for the architecture.
    pub cubin: Vec<u8>,
    /// What the compiler said: registers and memory of each kernel.
    pub log: String,
}

/// Finds the library, once.
///
/// # Errors
/// [`Error::Device`] when it is nowhere, with the places that were looked at.
pub(crate) fn find() -> Result<()> {
    static FOUND: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    FOUND.get_or_init(look).clone().map_err(Error::Device)
}

fn look() -> std::result::Result<(), String> {
    LIBRARY.load(&named()).map_err(|looked| {
        let looked: Vec<String> = looked.iter().map(|folder| folder.display().to_string()).collect();
        let library = if cfg!(windows) { "nvrtc64_130_0.dll" } else { "libnvrtc.so.13" };
        format!(
            "the CUDA backend needs NVIDIA's compiler library {library} (or that of CUDA 12), which is neither where the \
             system looks for libraries nor in {}; `pip install nvidia-cuda-nvrtc` brings it, as does the CUDA toolkit, \
             and {VARIABLE} may name its folder",
            looked.join(", ")
        )
    })?;
    match functions::missing_of_nvrtc().first() {
        Some(function) => Err(format!(
            "NVIDIA's compiler library has no function {function}, which that of CUDA 12 has: install another one \
             (`pip install --upgrade nvidia-cuda-nvrtc`), and {VARIABLE} may name its folder"
        )),
        None => Ok(()),
    }
}

/// The folder that the user named, if any.
pub(crate) fn named() -> Vec<PathBuf> {
    let path = std::env::var_os(VARIABLE).map(PathBuf::from);
    path.map(|path| if path.is_file() { path.parent().unwrap_or(&path).to_owned() } else { path }).into_iter().collect()
}

/// Major and minor version of the library.
pub(crate) fn version() -> Result<(i32, i32)> {
    find()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(|error| refused("its version", error))?;
    Ok((major, minor))
}

/// The options that every kernel is compiled with for `architecture`, such as `sm_90a`.
pub(crate) fn options(architecture: &str) -> Vec<String> {
    vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--ptxas-options=-v".into()]
}

fn refused(what: &str, error: NvrtcError) -> Error {
    Error::Device(format!("NVIDIA's compiler library failed at {what}: {error}"))
}

/// A program of the library, which is freed when it is dropped.
struct Compilation(sys::nvrtcProgram);

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_program` and is destroyed once. It cannot fail in a way that anyone can mend.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Compiles a text that `name` stands for in messages.
///
/// # Errors
/// [`Error::Device`] when the library is missing, does not know the architecture or refuses the text.
pub(crate) fn compile(name: &str, source: &str, architecture: &str) -> Result<Compiled> {
    find()?;
    let text = |text: &str| CString::new(text).map_err(|_| Error::internal("a kernel's source holds a NUL"));
    let (source, file) = (text(source)?, text(name)?);
    let compilation = Compilation(result::create_program(&source, Some(&file)).map_err(|e| refused(name, e))?);
    // SAFETY: the program lives, and so do its text and its name.
    let compiled = unsafe { result::compile_program(compilation.0, &options(architecture)) };
    // SAFETY: as above.
    let log = unsafe { result::get_program_log(compilation.0) }.map_err(|error| refused(name, error))?;
    let log = utf8(&log);
    match compiled {
        Ok(()) => {}
        Err(NvrtcError(sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION)) => {
            let (major, minor) = version()?;
            return Err(Error::Device(format!(
                "NVIDIA's compiler library of CUDA {major}.{minor} does not know {architecture}: install a newer one \
                 (`pip install --upgrade nvidia-cuda-nvrtc`)"
            )));
        }
        Err(error) => {
            let said = log.split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(Error::Device(format!("{name} cannot be compiled for {architecture}: {error}: {said}")));
        }
    }
    let mut size = 0;
    // SAFETY: the program lives, and the size is written.
    unsafe { sys::nvrtcGetCUBINSize(compilation.0, &mut size) }.result().map_err(|error| refused(name, error))?;
    let mut cubin = vec![0u8; size];
    // SAFETY: the buffer is as large as the library said.
    unsafe { sys::nvrtcGetCUBIN(compilation.0, cubin.as_mut_ptr().cast::<c_char>()) }
        .result()
        .map_err(|error| refused(name, error))?;
    Ok(Compiled { cubin, log })
}

fn utf8(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|&c| c.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
