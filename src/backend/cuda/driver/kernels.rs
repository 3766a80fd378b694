//! Programs to kernels on the device: compiled once per machine, loaded once per run.
//!
//! The user's cache folder has an entry of machine code per program, whose key is everything that
//! it was made from: constants, headers, file, options and versions. An entry that is damaged or
//! that the driver rejects is compiled again.

use super::error::fault;
use super::nvrtc;
use super::program::{Parameter, Program};
use crate::backend::gpu::disk_cache::CacheEntry;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Bytes of shared memory that a CTA may have without opting in.
const USUAL_SHARED: usize = 48 << 10;

/// An entry of a program.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub function: CudaFunction,
    pub parameters: Vec<Parameter>,
    /// Whether it is launched by programmatic dependent launch (PDL).
    pub pdl: bool,
    /// Bytes of dynamic shared memory that a CTA may have so far.
    allowed: Mutex<usize>,
}

impl Kernel {
    /// Allows a CTA `bytes` of dynamic shared memory, up to `most`.
    pub(crate) fn allow_shared(&self, op: &'static str, bytes: usize, most: usize) -> Result<()> {
        if bytes <= USUAL_SHARED {
            return Ok(());
        }
        if bytes > most {
            return Err(Error::Device(format!(
                "{op}: a CTA needs {bytes} bytes of shared memory, and the GPU has {most}"
            )));
        }
        let mut allowed = lock(&self.allowed);
        if bytes > *allowed {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.function.set_attribute(attribute, bytes as i32).map_err(|error| fault(op, error))?;
            *allowed = bytes;
        }
        Ok(())
    }
}

/// The kernels that have been used so far.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Arc<CudaContext>,
    architecture: String,
    /// Whether the device and its driver support PDL.
    pdl: bool,
    compiler: (i32, i32),
    modules: Mutex<HashMap<Program, Arc<CudaModule>>>,
    /// By entry and program. Every launch looks its kernel up here.
    kernels: Mutex<HashMap<&'static str, HashMap<Program, Arc<Kernel>>>>,
}

impl Kernels {
    pub(crate) fn new(context: &Arc<CudaContext>, architecture: String, pdl: bool) -> Result<Self> {
        let compiler = nvrtc::version()?;
        let modules = Mutex::default();
        let kernels = Mutex::default();
        Ok(Self { context: context.clone(), architecture, pdl, compiler, modules, kernels })
    }

    /// The compiler's major and minor version.
    pub(crate) fn compiler(&self) -> (i32, i32) {
        self.compiler
    }

    /// The kernel `entry` of `program`.
    pub(crate) fn get(&self, program: &Program, entry: &'static str) -> Result<Arc<Kernel>> {
        if let Some(kernel) = lock(&self.kernels).get(entry).and_then(|kernels| kernels.get(program)) {
            return Ok(kernel.clone());
        }
        let module = self.module(program)?;
        let function = module.load_function(entry).map_err(|error| fault(program.name, error))?;
        let parameters = program
            .parameters(entry)
            .ok_or_else(|| Error::internal(format!("{} declares no kernel {entry}", program.label())))?;
        let kernel =
            Arc::new(Kernel { function, parameters, pdl: self.pdl && program.is_pdl(), allowed: Mutex::default() });
        lock(&self.kernels).entry(entry).or_default().insert(program.clone(), kernel.clone());
        Ok(kernel)
    }

    fn module(&self, program: &Program) -> Result<Arc<CudaModule>> {
        if let Some(module) = lock(&self.modules).get(program) {
            return Ok(module.clone());
        }
        let source = program.source();
        let entry = cache_entry(&source, &self.architecture, self.compiler);
        let load = |cubin: Vec<u8>| self.context.load_module(Ptx::from_binary(cubin));
        // If the driver rejects the cached machine code, it may accept newly compiled code.
        let found = entry.as_ref().and_then(CacheEntry::read).and_then(|cubin| load(cubin).ok());
        let module = match found {
            Some(module) => module,
            None => {
                let compiled = nvrtc::compile(program, &self.architecture)?;
                if let Some(entry) = &entry {
                    entry.write(&compiled.cubin);
                }
                load(compiled.cubin).map_err(|error| fault(program.name, error))?
            }
        };
        lock(&self.modules).insert(program.clone(), module.clone());
        Ok(module)
    }
}

/// The cache entry of a program's machine code.
fn cache_entry(source: &str, architecture: &str, (major, minor): (i32, i32)) -> Option<CacheEntry> {
    let options = nvrtc::options(architecture).join(" ");
    CacheEntry::hashed(&format!("cuda-{architecture}"), "cubin", format!("NVRTC {major}.{minor} {options}\n{source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_key_covers_all_inputs() {
        let [first, second, third] = [("a", "sm_80", (13, 0)), ("a", "sm_90a", (13, 0)), ("a", "sm_80", (13, 1))]
            .map(|(source, sm, version)| cache_entry(source, sm, version));
        assert!(first.is_none() || first != second && first != third && second != third);
    }
}
