//! The device: whether there is one that will do, and what it says when it fails.

use super::functions;
use super::kernels::Kernels;
use crate::backend::RELIEF;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// The oldest architecture that has all that the kernels use: BF16 on tensor cores, asynchronous copies.
const OLDEST: (i32, i32) = (8, 0);

/// The oldest driver, by the CUDA that it is of: the first one that takes the machine code of CUDA 12's compiler.
const OLDEST_DRIVER: i32 = 12;

/// The oldest driver that captures kernels that start early into graphs: that of CUDA 12.3.
const EARLY_DRIVER: i32 = 12_030;

/// A device that is open.
#[derive(Debug)]
pub(crate) struct Device {
    pub context: Arc<CudaContext>,
    /// Where everything runs, in the order it was called in.
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub processors: usize,
    /// Shared memory that a block may have, in bytes.
    pub shared: usize,
    /// Whether the kernels for Hopper run, those in `kernels/sm90/`; the verbs that have such a kernel ask here.
    pub hopper: bool,
}

impl Device {
    /// Opens the first device.
    pub(crate) fn open() -> Result<Self> {
        let version = find_driver()?;
        let context = CudaContext::new(0).map_err(not_opened)?;
        let name = context.name().map_err(|error| fault("the device's name", error))?;
        let attribute = |which| context.attribute(which).map_err(|error| fault(&name, error));
        let capability = context.compute_capability().map_err(|error| fault(&name, error))?;
        if capability < OLDEST {
            let ((major, minor), (oldest, _)) = (capability, OLDEST);
            return Err(Error::Device(format!(
                "{name} has compute capability {major}.{minor}, and the kernels need {oldest}.0 (Ampere) or later"
            )));
        }
        let processors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // Recordings are captured, which the default stream cannot be.
        let stream = context.new_stream().map_err(|error| fault(&name, error))?;
        let early = capability >= (9, 0) && version >= EARLY_DRIVER;
        let kernels = Kernels::new(&context, architecture(capability), early)?;
        let hopper = capability == (9, 0);
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let (processors, shared) = (count(processors), count(shared));
        Ok(Self { stream, kernels, name, capability, processors, shared, hopper, context })
    }

    /// What to say when `bytes` did not fit, which were for `what`.
    pub(crate) fn out_of_memory(&self, verb: &str, what: &str, bytes: usize) -> Error {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let free = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{:.2} of {:.2} GiB are free", gib(free), gib(total)),
            Err(_) => "the memory is full".into(),
        };
        Error::OutOfMemory(format!(
            "{verb}: {} has no memory left for {what} ({:.2} GiB): {free}; {RELIEF}",
            self.name,
            gib(bytes)
        ))
    }
}

/// Finds the driver and every function of it that is called; returns its version as [`driver_version`] does.
fn find_driver() -> Result<i32> {
    if !is_driver_found() {
        let library = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        return Err(Error::Device(format!(
            "there is no NVIDIA driver: {library} is nowhere where the system looks for libraries; it comes with the \
             driver of an NVIDIA GPU (https://www.nvidia.com/drivers)"
        )));
    }
    let missing = functions::missing_of_driver();
    let version = if missing.contains(&functions::VERSION) { 0 } else { driver_version() };
    let driver = version / 1000;
    if version > 0 && driver < OLDEST_DRIVER {
        return Err(Error::Device(format!(
            "the NVIDIA driver is of CUDA {driver}, and the CUDA backend needs one of CUDA {OLDEST_DRIVER} (525 or \
             later): update it (https://www.nvidia.com/drivers)"
        )));
    }
    if let Some(function) = missing.first() {
        return Err(Error::Device(format!(
            "the NVIDIA driver has no function {function}, which one of CUDA {OLDEST_DRIVER} (525 or later) has: install \
             it again (https://www.nvidia.com/drivers)"
        )));
    }
    Ok(version)
}

fn is_driver_found() -> bool {
    // SAFETY: the driver's initialisers do nothing but set it up.
    unsafe { sys::is_culib_present() }
}

/// Whether there is a driver that sees a GPU, or that is too broken to say.
pub(crate) fn present() -> bool {
    let sees_none = || matches!(result::init(), Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)));
    is_driver_found() && !(functions::missing_of_driver().is_empty() && sees_none())
}

/// The version of CUDA that the driver is of, a thousand for each major one; 0 where it does not say.
pub(crate) fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the version is written.
    let said = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    if said.is_ok() { version } else { 0 }
}

/// The name by which the compiler knows an architecture; from Hopper on with everything that only this one has.
pub(crate) fn architecture((major, minor): (i32, i32)) -> String {
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

fn not_opened(error: DriverError) -> Error {
    Error::Device(match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES hides those that it does not name".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the NVIDIA driver in memory and its library are of different versions; restart the machine".into()
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "the NVIDIA GPU has no memory left to be opened: something else uses all of it (`nvidia-smi` shows what)"
                .into()
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "the NVIDIA GPU is another process's alone (`nvidia-smi` shows whose); end that or use another backend"
                .into()
        }
        _ => format!("the NVIDIA GPU cannot be opened: {}", words(error)),
    })
}

/// One sentence for what the driver said at `what`, a verb or the device.
pub(crate) fn fault(what: &str, error: DriverError) -> Error {
    use CUresult as R;
    let said = words(error);
    match error.0 {
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_CONTAINED
        | R::CUDA_ERROR_EXTERNAL_DEVICE
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED => Error::Lost(format!(
            "{what}: a kernel failed on the GPU ({said}), and with it went everything that this process had there; start \
             the program again"
        )),
        R::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(format!("{what}: the GPU's memory is full; {RELIEF}")),
        R::CUDA_ERROR_NO_BINARY_FOR_GPU | R::CUDA_ERROR_INVALID_IMAGE | R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            Error::Device(format!(
                "{what}: the NVIDIA driver does not take what the compiler library made ({said}); update the driver, or use \
                 the compiler library of an older CUDA"
            ))
        }
        _ => Error::Device(format!("{what}: the GPU refused: {said}")),
    }
}

/// The driver's own words for an error.
fn words(error: DriverError) -> String {
    let said = error.error_string().map(|text| text.to_string_lossy().into_owned());
    let name = error.error_name().map(|text| text.to_string_lossy().into_owned());
    match (name, said) {
        (Ok(name), Ok(said)) => format!("{said}, {name}"),
        _ => format!("{:?}", error.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_as_the_compiler_knows_them() {
        let names = [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)].map(architecture);
        assert_eq!(names, ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]);
    }
}
