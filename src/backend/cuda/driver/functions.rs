//! The functions of NVIDIA's libraries that the backend calls.
//!
//! cudarc looks a function up when it is called first, and panics where the library has none of this name. So all of them are
//! looked up when the device is opened. A driver of CUDA 12.0 has every function in [`DRIVER`]: a name that came later needs
//! a call of its own here, as [`elapsed_ms`] is one.

use cudarc::driver::sys::{self, CUevent, CUresult};
use cudarc::driver::{CudaEvent, DriverError};
use cudarc::{cublaslt, nvrtc};

/// Those of the driver.
pub(crate) const DRIVER: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
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
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
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
    "cuTensorMapEncodeTiled",
];

/// Those of NVRTC.
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

/// Those of cuBLASLt.
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

/// The function that gives the driver's version.
pub(crate) const VERSION: &str = "cuDriverGetVersion";
const ELAPSED_TIME: &str = "cuEventElapsedTime";

/// Names in `names` that `has` does not find.
fn missing(names: &[&'static str], has: impl Fn(&[u8]) -> bool) -> Vec<&'static str> {
    names.iter().copied().filter(|name| !has(name.as_bytes())).collect()
}

/// Functions that the driver lacks. The driver has been found.
pub(crate) fn missing_of_driver() -> Vec<&'static str> {
    // SAFETY: the functions are looked up, not called.
    missing(DRIVER, |name| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Functions that NVRTC lacks. The library has been found.
pub(crate) fn missing_of_nvrtc() -> Vec<&'static str> {
    // SAFETY: as above.
    missing(NVRTC, |name| unsafe { nvrtc::sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Functions that cuBLASLt lacks. The library has been found.
pub(crate) fn missing_of_cublaslt() -> Vec<&'static str> {
    // SAFETY: as above.
    missing(CUBLASLT, |name| unsafe { cublaslt::sys::culib().get::<unsafe extern "C" fn()>(name) }.is_ok())
}

/// Milliseconds between two events, once both have passed. cudarc would call the second version of the function, which
/// drivers have from CUDA 12.8 on.
pub(crate) fn elapsed_ms(start: &CudaEvent, end: &CudaEvent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    start.synchronize()?;
    end.synchronize()?;
    let mut milliseconds = 0.0;
    // SAFETY: the driver declares the function so; both events live, and the number is written.
    unsafe {
        let elapsed = sys::culib().get::<Elapsed>(ELAPSED_TIME.as_bytes());
        let elapsed = elapsed.map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
        elapsed(&mut milliseconds, start.cu_event(), end.cu_event()).result()?;
    }
    Ok(milliseconds)
}
