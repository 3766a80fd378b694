//! Programs to kernels on the device: compiled once a machine, loaded once a run.
//!
//! What NVRTC made stands in the user's cache folder, a file a program. The file's first part is everything that it was
//! made from: text, options, versions. A file that was made from anything else is not used, whatever its name.

use super::device::fault;
use super::memory::lock;
use super::nvrtc;
use super::program::{Parameter, Program};
use crate::backend::cache;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Shared memory that a block may have without being asked for it, in bytes.
const USUAL_SHARED: usize = 48 << 10;

/// An entry of a program.
#[derive(Debug)]
pub(super) struct Kernel {
    pub function: CudaFunction,
    pub parameters: Vec<Parameter>,
    /// Bytes of shared memory that a block was allowed beside those that the kernel declares.
    allowed: Mutex<usize>,
}

impl Kernel {
    /// Lets a block have `bytes` of shared memory, of the `most` that the device has.
    pub(super) fn allow_shared(&self, verb: &'static str, bytes: usize, most: usize) -> Result<()> {
        if bytes <= USUAL_SHARED {
            return Ok(());
        }
        if bytes > most {
            return Err(Error::Device(format!(
                "{verb}: a block needs {bytes} bytes of shared memory, and the GPU has {most}"
            )));
        }
        let mut allowed = lock(&self.allowed);
        if bytes > *allowed {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.function.set_attribute(attribute, bytes as i32).map_err(|error| fault(verb, error))?;
            *allowed = bytes;
        }
        Ok(())
    }
}

/// All kernels that were asked for so far.
#[derive(Debug)]
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    architecture: String,
    compiler: (i32, i32),
    modules: Mutex<HashMap<String, Arc<CudaModule>>>,
    made: Mutex<HashMap<(String, &'static str), Arc<Kernel>>>,
}

impl Kernels {
    pub(super) fn new(context: &Arc<CudaContext>, architecture: String) -> Result<Self> {
        let compiler = nvrtc::version()?;
        let (modules, made) = (Mutex::default(), Mutex::default());
        Ok(Self { context: context.clone(), architecture, compiler, modules, made })
    }

    /// The compiler's major and minor version.
    pub(super) fn compiler(&self) -> (i32, i32) {
        self.compiler
    }

    /// The kernel `entry` of `program`.
    pub(super) fn get(&self, program: &Program, entry: &'static str) -> Result<Arc<Kernel>> {
        let key = (program.label(), entry);
        if let Some(kernel) = lock(&self.made).get(&key) {
            return Ok(kernel.clone());
        }
        let module = self.module(program, &key.0)?;
        let function = module.load_function(entry).map_err(|error| fault(program.name, error))?;
        let parameters = program
            .parameters(entry)
            .ok_or_else(|| Error::shape(program.name, format!("{} declares no kernel {entry}", key.0)))?;
        let kernel = Arc::new(Kernel { function, parameters, allowed: Mutex::default() });
        lock(&self.made).insert(key, kernel.clone());
        Ok(kernel)
    }

    fn module(&self, program: &Program, label: &str) -> Result<Arc<CudaModule>> {
        if let Some(module) = lock(&self.modules).get(label) {
            return Ok(module.clone());
        }
        let source = program.source();
        let file = File::of(&source, &self.architecture, self.compiler);
        let load = |cubin: Vec<u8>| self.context.load_module(Ptx::from_binary(cubin));
        // What the driver does not take from the file, it may take from the compiler.
        let kept = file.as_ref().and_then(File::read).and_then(|cubin| load(cubin).ok());
        let module = match kept {
            Some(module) => module,
            None => {
                let compiled = nvrtc::compile(label, &source, &self.architecture)?;
                if let Some(file) = &file {
                    file.write(&compiled.cubin);
                }
                load(compiled.cubin).map_err(|error| fault(program.name, error))?
            }
        };
        lock(&self.modules).insert(label.to_owned(), module.clone());
        Ok(module)
    }
}

/// Where a program's machine code is kept.
struct File {
    path: PathBuf,
    /// What it is made from.
    key: Vec<u8>,
}

impl File {
    fn of(source: &str, architecture: &str, (major, minor): (i32, i32)) -> Option<Self> {
        let options = nvrtc::options(architecture).join(" ");
        let key = format!("NVRTC {major}.{minor} {options}\n{source}").into_bytes();
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let name = key.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        let path = cache::folder()?.join(format!("cuda-{architecture}")).join(format!("{name:016x}.cubin"));
        Some(Self { path, key })
    }

    fn read(&self) -> Option<Vec<u8>> {
        let kept = std::fs::read(&self.path).ok()?;
        let rest = kept.strip_prefix(&(self.key.len() as u64).to_le_bytes())?;
        rest.strip_prefix(self.key.as_slice()).filter(|cubin| !cubin.is_empty()).map(<[u8]>::to_vec)
    }

    fn write(&self, cubin: &[u8]) {
        let length = (self.key.len() as u64).to_le_bytes();
        // A folder that cannot be written costs time at the next start, and nothing else.
        let _ = cache::write(&self.path, &[&length, self.key.as_slice(), cubin].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_kept_for_what_it_was_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cuda-sm_80/a.cubin");
        let file = |key: &str| File { path: path.clone(), key: key.into() };
        assert_eq!(file("text").read(), None);
        file("text").write(b"code");
        assert_eq!(file("text").read().unwrap(), b"code");
        // The same name for another text, one of which is the start of the other, and a file that was cut.
        assert_eq!(file("other").read(), None);
        assert_eq!(file("tex").read(), None);
        file("text").write(b"");
        assert_eq!(file("text").read(), None);
        let [first, second, third] = [("a", "sm_80", (13, 0)), ("a", "sm_90a", (13, 0)), ("a", "sm_80", (13, 1))]
            .map(|(source, sm, version)| File::of(source, sm, version).map(|file| file.key));
        assert!(first.is_none() || first != second && first != third && second != third);
    }
}
