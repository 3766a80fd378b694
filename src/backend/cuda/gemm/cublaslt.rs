//! cuBLASLt, NVIDIA's matrix products as a library: whether it is here, and products through it.
//!
//! Matrices are column-major to the library. So `x` `[m, k]` is one of k rows and m columns, the stored `W` `[n, k]` one of
//! k rows and n columns, and `x·Wᵀ` is `Wᵀ·x` to it, n rows and m columns. Operands and products are BF16, sums F32
//! everywhere: also those of parts that k was split into.

use crate::backend::cuda::driver::device::fault;
use crate::backend::cuda::driver::functions;
use crate::backend::cuda::driver::library::Library;
use crate::backend::cuda::driver::nvrtc;
use crate::backend::cuda::matrix::Matrix;
use crate::backend::cuda::memory::layout::Place;
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

/// Bytes that a product may work in.
pub(crate) const WORKSPACE: usize = 32 << 20;
/// What the addresses of tensors and of the workspace must be multiples of.
pub(crate) const ALIGNMENT: u64 = 256;
/// The oldest version whose products are Hopper's as well.
const OLDEST: usize = 120_000;
/// Algorithms that the library is asked for.
const CANDIDATES: usize = 8;
/// The library's number for a matrix that is transposed (`CUBLAS_OP_T`).
const TRANSPOSED: i32 = 1;

const LIBRARY: Library = Library { name: "cublasLt", files: [&["libcublasLt.so"], &["cublasLt64"]], package: "cublas" };

/// How the library does a product, in its own words.
pub(crate) type Algorithm = [u64; 8];

/// Sizes of a product `[m, k]·[n, k]ᵀ`; the rows of `W` are `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
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

// SAFETY: the library's objects belong to no thread; a handle may be used by several at once, and the others are only read
// once they are made.
unsafe impl<T: Copy> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Owned<T> {}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it was made by the library and is destroyed once. It cannot fail in a way that anyone can mend.
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
    /// Finds the library and opens it on the context's device. An error is the reason why it is not used, in few words.
    pub(crate) fn open(context: &Arc<CudaContext>) -> Result<Self, String> {
        LIBRARY.load(&nvrtc::named()).map_err(|_| "not found".to_owned())?;
        if let Some(function) = functions::missing_of_cublaslt().first() {
            return Err(format!("it has no function {function}"));
        }
        // SAFETY: the library is here.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < OLDEST {
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

/// The library's name with a version as it gives it.
fn named(version: usize) -> String {
    format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// What the library knows of a product's sizes and types.
pub(crate) struct Problem {
    handle: Arc<Owned<sys::cublasLtHandle_t>>,
    operation: Owned<sys::cublasLtMatmulDesc_t>,
    /// Of `W`, of `x` and of their product.
    layouts: [Owned<sys::cublasLtMatrixLayout_t>; 3],
}

impl Problem {
    pub(crate) fn new(library: &Cublaslt, Shape { m, n, k, stride }: Shape) -> Result<Self, CublasError> {
        let operation =
            result::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F)?;
        let operation = Owned { object: operation, destroy: result::destroy_matmul_desc };
        let transposed = TRANSPOSED;
        // SAFETY: the descriptor lives, and the attribute is an i32. The others' defaults are what is wanted: `x` is not
        // transposed, factors are the host's, nothing is done to the product.
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

    /// The algorithms that the library thinks best, the best first; none where it cannot do this.
    pub(crate) fn candidates(&self) -> Result<Vec<Algorithm>, CublasError> {
        type Attribute = cublasLtMatmulPreferenceAttributes_t;
        let wishes = Owned { object: result::create_matmul_pref()?, destroy: result::destroy_matmul_pref };
        let workspace = WORKSPACE as u64;
        let reduction = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        // SAFETY: the preferences live, and the attributes are an u64 and an u32.
        unsafe {
            result::set_matmul_pref_attribute(
                wishes.object,
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            )?;
            result::set_matmul_pref_attribute(
                wishes.object,
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (&raw const reduction).cast(),
                size_of_val(&reduction),
            )?;
        }
        let (mut found, mut count) = ([nothing(); CANDIDATES], 0);
        let [w, x, out] = self.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: everything that is passed lives, and there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.object,
                self.operation.object,
                w,
                x,
                out,
                out,
                wishes.object,
                CANDIDATES as i32,
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

    /// Whether the library can do this so, on this device.
    pub(crate) fn takes(&self, algorithm: Algorithm) -> bool {
        let (algorithm, mut found) = (cublasLtMatmulAlgo_t { data: algorithm }, nothing());
        let [w, x, out] = self.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: everything that is passed lives, and the result is written.
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

/// A result for the library to write.
fn nothing() -> cublasLtMatmulHeuristicResult_t {
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

/// A product with the way it is done.
#[derive(Clone)]
pub(crate) struct Plan {
    pub problem: Arc<Problem>,
    pub algorithm: Algorithm,
    /// [`WORKSPACE`] bytes, for all plans of a stream.
    pub workspace: CudaTensor,
}

/// One product with the places of everything that it reads and writes.
pub(crate) struct Multiplication {
    plan: Plan,
    /// `W`, `x` and the output.
    places: [Place; 3],
}

impl fmt::Debug for Multiplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Multiplication")
    }
}

impl Multiplication {
    /// `out = x·Wᵀ`, tensors of the plan's sizes.
    pub(crate) fn new(plan: &Plan, w: &Matrix, x: &CudaTensor, out: &CudaTensor) -> Self {
        Self { plan: plan.clone(), places: [w.memory(), x.memory(), out.memory()].map(|memory| memory.place()) }
    }

    /// Puts it into the stream.
    pub(crate) fn run(&self, stream: &CudaStream) -> Result<()> {
        let verb = "linear";
        stream.context().bind_to_thread().map_err(|error| fault(verb, error))?;
        let Plan { problem, algorithm, workspace } = &self.plan;
        let (one, zero, algorithm) = (1f32, 0f32, cublasLtMatmulAlgo_t { data: *algorithm });
        let [at_w, at_x, at_out] = self.places.each_ref().map(Place::address);
        let (at_w, at_x, at_out, workspace) = (at_w?, at_x?, at_out?, workspace.memory().address()?);
        let [w, x, out] = problem.layouts.each_ref().map(|layout| layout.object);
        // SAFETY: everything that is passed lives. The tensors' memory is as large as the layouts say, the workspace as
        // large as the algorithm may want, and memory is given to others only for what comes later in this stream.
        let status = unsafe {
            result::matmul(
                problem.handle.object,
                problem.operation.object,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                at_w as *const _,
                w,
                at_x as *const _,
                x,
                at_out as *const _,
                out,
                at_out as *mut _,
                out,
                &algorithm,
                workspace as *mut _,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        };
        status.map_err(|error| Error::Device(format!("{verb}: cuBLASLt refused: {:?}", error.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_library_writes_them() {
        assert_eq!([130_002, 120_304].map(named), ["cuBLASLt 13.0.2", "cuBLASLt 12.3.4"]);
    }
}
