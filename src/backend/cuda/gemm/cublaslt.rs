//! cuBLASLt, NVIDIA's library of matrix products.
//!
//! Its matrices are column-major. To the library, `x` `[m, k]` has k rows and m columns, the stored
//! `W` `[n, k]` has k rows and n columns, and `x·Wᵀ` is `Wᵀ·x` with n rows and m columns. Operands
//! and results are BF16; accumulation is F32 everywhere, also across the splits of k.

use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::driver::functions;
use crate::backend::cuda::driver::library::Library;
use crate::backend::cuda::driver::nvrtc;
use crate::backend::cuda::launch::recording::Work;
use crate::backend::cuda::memory::allocation::Location;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::{Error, Result};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtReductionScheme_t, cublasStatus_t, cudaDataType_t,
};
use cudarc::driver::{CudaContext, CudaStream};
use std::fmt;
use std::sync::Arc;

/// Bytes of the workspace.
pub(crate) const WORKSPACE: usize = 32 << 20;
/// Alignment of tensors and of the workspace in bytes.
pub(crate) const ALIGNMENT: u64 = 256;
/// The oldest version with kernels for Hopper.
const MIN_VERSION: usize = 120_000;
/// Algorithms requested from the library's heuristics.
const ALGORITHMS: usize = 8;
/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

const LIBRARY: Library = Library { name: "cublasLt", files: [&["libcublasLt.so"], &["cublasLt64"]], package: "cublas" };

/// The library's opaque description of an algorithm.
pub(crate) type Algorithm = [u64; 8];

/// The sizes of a gemm `[m, k]·[n, k]ᵀ`; the rows of `W` are `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GemmSize {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub stride: usize,
}

/// An object of the library, destroyed when it is dropped.
struct Owned<T: Copy> {
    object: T,
    destroy: unsafe fn(T) -> Result<(), CublasError>,
}

// SAFETY: the library's objects belong to no thread. Several threads may use a handle at once, and
// the others are immutable.
unsafe impl<T: Copy> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Owned<T> {}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the library made it, and it is destroyed once. No caller could handle a failure.
        let _ = unsafe { (self.destroy)(self.object) };
    }
}

/// The library, open on a device.
pub(crate) struct Cublaslt {
    handle: Arc<Owned<sys::cublasLtHandle_t>>,
    version: usize,
}

impl fmt::Debug for Cublaslt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version())
    }
}

impl Cublaslt {
    /// Loads the library and opens it on the context's device. The error is a short reason.
    pub(crate) fn open(context: &Arc<CudaContext>) -> Result<Self, String> {
        LIBRARY.load(&nvrtc::named()).map_err(|_| "not found".to_owned())?;
        if let Some(function) = functions::missing_of_cublaslt().first() {
            return Err(format!("it has no function {function}"));
        }
        // SAFETY: the library is loaded.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < MIN_VERSION {
            return Err(format!("older than that of CUDA 12: {version}"));
        }
        context.bind_to_thread().map_err(|error| fault("cuBLASLt", error).to_string())?;
        let handle = result::create_handle().map_err(|error| format!("{} refused: {:?}", named(version), error.0))?;
        Ok(Self { handle: Arc::new(Owned { object: handle, destroy: result::destroy_handle }), version })
    }

    /// The library's name and version.
    pub(crate) fn version(&self) -> String {
        named(self.version)
    }
}

/// The library's name with a version in its own encoding.
fn named(version: usize) -> String {
    format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// The library's description of a gemm's sizes and types.
pub(crate) struct Problem {
    handle: Arc<Owned<sys::cublasLtHandle_t>>,
    operation: Owned<sys::cublasLtMatmulDesc_t>,
    /// The layouts of `W`, `x` and the output.
    layouts: [Owned<sys::cublasLtMatrixLayout_t>; 3],
}

impl Problem {
    pub(crate) fn new(library: &Cublaslt, GemmSize { m, n, k, stride }: GemmSize) -> Result<Self, CublasError> {
        let operation =
            result::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F)?;
        let operation = Owned { object: operation, destroy: result::destroy_matmul_desc };
        let transposed = TRANSPOSED;
        // SAFETY: the descriptor lives, and the attribute is an i32. The other attributes keep
        // their defaults: `x` is not transposed, factors are on the host, there is no epilogue.
        unsafe {
            result::set_matmul_desc_attribute(
                operation.object,
                cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )
        }?;
        let layout = |rows: usize, columns: usize, stride: usize| {
            let (rows, columns) = (rows as u64, columns as u64);
            let layout = result::create_matrix_layout(cudaDataType_t::CUDA_R_16BF, rows, columns, stride as i64)?;
            Ok(Owned { object: layout, destroy: result::destroy_matrix_layout })
        };
        let layouts = [layout(k, n, stride)?, layout(k, m, k)?, layout(n, m, n)?];
        Ok(Self { handle: library.handle.clone(), operation, layouts })
    }

    /// The algorithms that the library's heuristics prefer, best first; none if it cannot run the
    /// gemm.
    pub(crate) fn algorithms(&self) -> Result<Vec<Algorithm>, CublasError> {
        type Attribute = cublasLtMatmulPreferenceAttributes_t;
        let preferences = Owned { object: result::create_matmul_pref()?, destroy: result::destroy_matmul_pref };
        let workspace = WORKSPACE as u64;
        let reduction = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        // SAFETY: the preferences live, and the attributes are a u64 and a u32.
        unsafe {
            result::set_matmul_pref_attribute(
                preferences.object,
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            )?;
            result::set_matmul_pref_attribute(
                preferences.object,
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (&raw const reduction).cast(),
                size_of_val(&reduction),
            )?;
        }
        let mut found = [unsupported(); ALGORITHMS];
        let mut count = 0;
        let [w, x, out] = self.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: all arguments live, and `found` holds as many results as are requested.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.object,
                self.operation.object,
                w,
                x,
                out,
                out,
                preferences.object,
                ALGORITHMS as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        if status == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        status.result()?;
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        Ok(found.filter(|found| usable(found)).map(|found| found.algo.data).collect())
    }

    /// True if the library can run the algorithm on this device.
    pub(crate) fn supports(&self, algorithm: Algorithm) -> bool {
        let algorithm = cublasLtMatmulAlgo_t { data: algorithm };
        let mut found = unsupported();
        let [w, x, out] = self.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: all arguments live, and the library writes the result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle.object,
                self.operation.object,
                w,
                x,
                out,
                out,
                &algorithm,
                &mut found,
            )
        };
        status == cublasStatus_t::CUBLAS_STATUS_SUCCESS && usable(&found)
    }
}

/// An empty result for the library to overwrite.
fn unsupported() -> cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulHeuristicResult_t {
        algo: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

fn usable(found: &cublasLtMatmulHeuristicResult_t) -> bool {
    found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE
}

/// A gemm with its algorithm.
#[derive(Clone)]
pub(crate) struct Matmul {
    pub problem: Arc<Problem>,
    pub algorithm: Algorithm,
    /// [`WORKSPACE`] bytes that all gemms of a stream share.
    pub workspace: CudaTensor,
}

/// A gemm on tensors. It keeps no allocation but the workspace alive.
pub(crate) struct MatmulCall {
    matmul: Matmul,
    /// The locations of `W`, `x` and the output.
    operands: [Location; 3],
}

impl fmt::Debug for MatmulCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MatmulCall")
    }
}

impl MatmulCall {
    /// `out = x·Wᵀ` for the locations of `W`, `x` and `out`, which have the gemm's sizes.
    pub(crate) fn new(matmul: &Matmul, operands: [Location; 3]) -> Self {
        Self { matmul: matmul.clone(), operands }
    }
}

impl Work for MatmulCall {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        let op = "linear";
        stream.context().bind_to_thread().map_err(|error| fault(op, error))?;
        let Matmul { problem, algorithm, workspace } = &self.matmul;
        let one = 1f32;
        let zero = 0f32;
        let algorithm = cublasLtMatmulAlgo_t { data: *algorithm };
        let [w_at, x_at, out_at] = self.operands.each_ref().map(Location::address);
        let [w_at, x_at, out_at, workspace] = [w_at?, x_at?, out_at?, workspace.allocation().address()?];
        let [w, x, out] = problem.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: all arguments live. The tensors' memory is as large as the layouts say, the
        // workspace as large as the algorithm may need, and memory is reused only for later work of
        // this stream.
        let status = unsafe {
            result::matmul(
                problem.handle.object,
                problem.operation.object,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                w_at as *const _,
                w,
                x_at as *const _,
                x,
                out_at as *const _,
                out,
                out_at as *mut _,
                out,
                &algorithm,
                workspace as *mut _,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        };
        status.map_err(|error| Error::Device(format!("{op}: cuBLASLt refused: {:?}", error.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_decoded() {
        assert_eq!([130_002, 120_304].map(named), ["cuBLASLt 13.0.2", "cuBLASLt 12.3.4"]);
    }
}
