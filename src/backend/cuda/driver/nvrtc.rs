//! NVRTC, NVIDIA's compiler as a library: the search for it, and CUDA C++ to machine code.

use super::files::File;
use super::functions;
use super::library::Library;
use super::program::Program;
use crate::error::{Error, Result};
use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

/// The environment variable that names the library or its folder.
const VARIABLE: &str = "ZIMAGE_NVRTC";

const LIBRARY: Library = Library {
    name: "nvrtc",
    files: [&["libnvrtc-builtins.so", "libnvrtc.so"], &["nvrtc-builtins64", "nvrtc64"]],
    package: "cuda_nvrtc",
};

/// The compiler's output.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Machine code for the architecture.
    pub cubin: Vec<u8>,
    /// The compiler's messages: registers and memory of each kernel.
    pub log: String,
}

/// Finds the library, once.
///
/// # Errors
/// [`Error::Device`] when it is not found, with the folders that were searched.
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
    // SAFETY: the call writes both numbers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(|error| refused("its version", error))?;
    Ok((major, minor))
}

/// The options of every program for an architecture such as `sm_90a`.
pub(crate) fn options(architecture: &str) -> Vec<String> {
    vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--ptxas-options=-v".into()]
}

fn refused(what: &str, error: NvrtcError) -> Error {
    Error::Device(format!("NVIDIA's compiler library failed at {what}: {error}"))
}

/// An `nvrtcProgram`, destroyed on drop.
struct Compilation(sys::nvrtcProgram);

impl Compilation {
    /// A compilation of `file`, whose includes are looked up in `headers` by name.
    fn new(file: &Text, headers: &[Text]) -> std::result::Result<Self, NvrtcError> {
        let texts: Vec<*const c_char> = headers.iter().map(|header| header.text.as_ptr()).collect();
        let names: Vec<*const c_char> = headers.iter().map(|header| header.name.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: all strings live during the call, which copies them, and both arrays have the
        // length that is passed. The program is written.
        unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                file.text.as_ptr(),
                file.name.as_ptr(),
                headers.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        }
        .result()?;
        Ok(Self(program))
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: `new` created it, and it is destroyed once. A failure has no remedy.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// A file as a C library takes it.
struct Text {
    name: CString,
    text: CString,
}

impl Text {
    fn new(file: &File) -> Result<Self> {
        let text = |text: &str| CString::new(text).map_err(|_| Error::internal("a kernel's source holds a NUL"));
        Ok(Self { name: text(file.name)?, text: text(file.text)? })
    }
}

/// Compiles a program for an architecture such as `sm_90a`.
///
/// # Errors
/// [`Error::Internal`] when an include is missing or cyclic; [`Error::Device`] when the library is
/// missing, does not know the architecture or rejects the program.
pub(crate) fn compile(program: &Program, architecture: &str) -> Result<Compiled> {
    let headers = program.headers()?.iter().map(Text::new).collect::<Result<Vec<_>>>()?;
    find()?;
    let name = &program.label();
    let compilation = Compilation::new(&Text::new(&program.file())?, &headers).map_err(|error| refused(name, error))?;
    let options: Vec<String> = options(architecture).into_iter().chain(program.defines()).collect();
    // SAFETY: the program lives.
    let compiled = unsafe { result::compile_program(compilation.0, &options) };
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
    // SAFETY: the program lives, and the call writes the size.
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
