//! The functions of NVIDIA's libraries that the backend calls.
//!
//! cudarc looks a function up at its first call and panics if the library lacks it. All functions
//! are therefore looked up when the device is opened. A driver of CUDA 12.0 has every function in
//! [`DRIVER`]; a later name needs a call of its own here, such as [`elapsed_ms`].

use cudarc::driver::sys::{self, CUevent, CUresult};
use cudarc::driver::{CudaEvent, DriverError};
use cudarc::{cublaslt, nvrtc};

/// Functions of the driver.
pub(crate) const DRIVER: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    VERSION,
    ELAPSED_TIME,
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

/// Functions of NVRTC.
const NVRTC: &[&str] = &[
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcVersion",
];

/// Functions of cuBLASLt.
const CUBLASLT: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// The function that returns the driver's version.
pub(crate) const VERSION: &str = "cuDriverGetVersion";
const ELAPSED_TIME: &str = "cuEventElapsedTime";

/// The names that `has` does not find.
fn missing(names: &[&'static str], has: impl Fn(&[u8]) -> bool) -> Vec<&'static str> {
    names.iter().copied().filter(|name| !has(name.as_bytes())).collect()
}

/// Functions that the driver lacks; the driver must be loaded.
pub(crate) fn missing_of_driver() -> Vec<&'static str> {
    // SAFETY: the functions are looked up, not called.
    missing(DRIVER, |name| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Functions that NVRTC lacks; the library must be loaded.
pub(crate) fn missing_of_nvrtc() -> Vec<&'static str> {
    // SAFETY: as above.
    missing(NVRTC, |name| unsafe { nvrtc::sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Functions that cuBLASLt lacks; the library must be loaded.
pub(crate) fn missing_of_cublaslt() -> Vec<&'static str> {
    // SAFETY: as above.
    missing(CUBLASLT, |name| unsafe { cublaslt::sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Milliseconds between two events; waits for both. cudarc calls the function's second version,
/// which drivers have from CUDA 12.8 on.
pub(crate) fn elapsed_ms(start: &CudaEvent, end: &CudaEvent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    start.synchronize()?;
    end.synchronize()?;
    let mut milliseconds = 0.0;
    // SAFETY: the type is the driver's declaration, both events live, and the number is written.
    unsafe {
        let elapsed = sys::culib().get::<Elapsed>(ELAPSED_TIME.as_bytes());
        let elapsed = elapsed.map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
        elapsed(&mut milliseconds, start.cu_event(), end.cu_event()).result()?;
    }
    Ok(milliseconds)
}
