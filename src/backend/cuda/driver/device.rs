//! The GPU: finding the driver, opening a device, and its properties.

use super::error::{fault, not_opened};
use super::functions;
use super::kernels::Kernels;
use crate::error::{Error, MemoryKind, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// The oldest compute capability with BF16 tensor cores and `cp.async`.
const MIN_CAPABILITY: (i32, i32) = (8, 0);

/// The major CUDA version of the oldest driver that loads the machine code of CUDA 12's compiler.
const MIN_DRIVER: i32 = 12;

/// The oldest driver that captures programmatic dependent launches (PDL) into graphs: CUDA 12.3.
const MIN_PDL_DRIVER: i32 = 12_030;

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    pub context: Arc<CudaContext>,
    /// The one stream that all work runs on, in call order.
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// The number of streaming multiprocessors (SMs).
    pub sms: usize,
    /// The largest dynamic shared memory of a CTA, in bytes.
    pub max_shared: usize,
    /// True on Hopper, which runs the kernels in `kernels/sm90/`.
    pub sm90: bool,
}

impl Device {
    /// Opens the device with this index.
    pub(crate) fn open(index: usize) -> Result<Self> {
        let version = find_driver()?;
        let last = CudaContext::device_count().map_err(not_opened)? - 1;
        if i32::try_from(index).map_or(true, |index| index > last) {
            let gpus = if last == 0 { "only GPU 0".to_owned() } else { format!("GPUs 0 to {last}") };
            return Err(Error::Request(format!("there is no NVIDIA GPU {index}: the driver sees {gpus}")));
        }
        let context = CudaContext::new(index).map_err(not_opened)?;
        let name = context.name().map_err(|error| fault("the device's name", error))?;
        let attribute = |which| context.attribute(which).map_err(|error| fault(&name, error));
        let capability = context.compute_capability().map_err(|error| fault(&name, error))?;
        if capability < MIN_CAPABILITY {
            let (major, minor) = capability;
            let (oldest, _) = MIN_CAPABILITY;
            return Err(Error::Device(format!(
                "{name} has compute capability {major}.{minor}, and the kernels need {oldest}.0 (Ampere) or later"
            )));
        }
        let sms = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let max_shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // The default stream cannot be captured into a graph.
        let stream = context.new_stream().map_err(|error| fault(&name, error))?;
        let pdl = capability >= (9, 0) && version >= MIN_PDL_DRIVER;
        let kernels = Kernels::new(&context, architecture(capability), pdl)?;
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        Ok(Self {
            stream,
            kernels,
            name,
            capability,
            sms: count(sms),
            max_shared: count(max_shared),
            sm90: capability == (9, 0),
            context,
        })
    }

    /// The error for an allocation of `bytes` for `what` that does not fit.
    pub(crate) fn out_of_memory(&self, op: &str, what: &str, bytes: usize) -> Error {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let free = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{:.2} of {:.2} GiB are free", gib(free), gib(total)),
            Err(_) => "the memory is full".into(),
        };
        let problem = format!("{op}: {} has no memory left for {what} ({:.2} GiB): {free}", self.name, gib(bytes));
        Error::out_of_memory(MemoryKind::Activations, problem)
    }
}

/// Checks that the driver has every function that is called, and returns [`driver_version`].
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
    if version > 0 && driver < MIN_DRIVER {
        return Err(Error::Device(format!(
            "the NVIDIA driver is of CUDA {driver}, and the CUDA backend needs one of CUDA {MIN_DRIVER} (525 or \
             later): update it (https://www.nvidia.com/drivers)"
        )));
    }
    if let Some(function) = missing.first() {
        return Err(Error::Device(format!(
            "the NVIDIA driver has no function {function}, which one of CUDA {MIN_DRIVER} (525 or later) has: install \
             it again (https://www.nvidia.com/drivers)"
        )));
    }
    Ok(version)
}

fn is_driver_found() -> bool {
    // SAFETY: the driver's initialisers only set up the driver.
    unsafe { sys::is_culib_present() }
}

/// True if a driver sees a GPU, or is too broken to tell.
pub(crate) fn present() -> bool {
    let sees_none = || matches!(result::init(), Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)));
    is_driver_found() && !(functions::missing_of_driver().is_empty() && sees_none())
}

/// The number of GPUs that the driver sees; `None` without a driver that works.
pub(crate) fn count() -> Option<usize> {
    find_driver().ok()?;
    usize::try_from(CudaContext::device_count().ok()?).ok()
}

/// The driver's CUDA version as 1000·major + 10·minor, 0 if unknown.
pub(crate) fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the driver writes to a live integer.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    if result.is_ok() { version } else { 0 }
}

/// The compiler's name of an architecture, from Hopper on with its architecture-specific features.
pub(crate) fn architecture((major, minor): (i32, i32)) -> String {
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_the_names_of_nvrtc() {
        let names = [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)].map(architecture);
        assert_eq!(names, ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]);
    }
}
