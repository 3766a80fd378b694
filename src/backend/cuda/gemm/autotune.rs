//! Autotuning of large gemms: our own kernel or a cuBLASLt algorithm, whichever is fastest on this
//! device. A size is timed on first use, and the result is cached on disk.

use super::cublaslt::{ALIGNMENT, Algorithm, Cublaslt, GemmSize, Matmul, MatmulCall, Problem, WORKSPACE};
use super::gemv::MAX_ROWS;
use crate::backend::cuda::driver::device::driver_version;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::driver::functions::elapsed_ms;
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::CudaRecording;
use crate::backend::cuda::matrix::{Matrix, StoredMatrix};
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::gpu::disk_cache::CacheEntry;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use crate::tensor::DType;
use cudarc::driver::result;
use cudarc::driver::sys::CUdevice_attribute;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

const OP: &str = "linear";

/// Smaller gemms are not tuned.
const MIN_TUNED_FLOP: usize = 1_000_000_000;

/// Rounds of timing.
const ROUNDS: usize = 5;
/// Rounds of every candidate. Later rounds skip those slower than [`PROMISING`] times the best.
const TRIAL_ROUNDS: usize = 2;
const PROMISING: f32 = 1.1;

/// The fraction by which a candidate must beat the first one; smaller differences are noise.
const MARGIN: f32 = 0.02;

/// True if a gemm is worth tuning.
fn is_tuned(GemmSize { m, n, k, .. }: GemmSize) -> bool {
    let flop = [m, n, k].iter().try_fold(2usize, |flop, size| flop.checked_mul(*size));
    m > MAX_ROWS
        && n.is_multiple_of(VECTOR)
        && k.is_multiple_of(VECTOR)
        && flop.is_none_or(|flop| flop >= MIN_TUNED_FLOP)
}

/// A way to compute a gemm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Candidate {
    OwnKernel,
    Cublaslt(Algorithm),
}

impl Candidate {
    const OWN: &[u8] = b"own";

    fn encode(self) -> Vec<u8> {
        match self {
            Candidate::OwnKernel => Self::OWN.to_vec(),
            Candidate::Cublaslt(algorithm) => algorithm.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    fn decode(data: &[u8]) -> Option<Self> {
        if data == Self::OWN {
            return Some(Candidate::OwnKernel);
        }
        let (words, rest) = data.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        rest.is_empty().then_some(Candidate::Cublaslt(words.try_into().ok()?))
    }
}

/// The index of the shortest time; the first wins unless another is clearly shorter.
fn fastest(times: &[f32]) -> usize {
    let shortest = (0..times.len()).min_by(|a, b| times[*a].total_cmp(&times[*b])).unwrap_or(0);
    if times.get(shortest) < times.first().map(|first| (1.0 - MARGIN) * first).as_ref() { shortest } else { 0 }
}

fn median(times: &[f32]) -> f32 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f32::INFINITY)
}

/// Our own kernel as a candidate.
pub(crate) struct OwnKernel<F> {
    /// Runs the kernel on `x`, `W` and `out`, which may be other tensors of the same shapes.
    pub run: F,
    /// A hash of the kernel's source. Its change makes cached results obsolete.
    pub source_hash: fn() -> u64,
}

/// cuBLASLt, and the fastest candidates so far.
#[derive(Default)]
pub(crate) struct Autotuner {
    library: OnceLock<Result<Cublaslt, String>>,
    workspace: Mutex<Option<CudaTensor>>,
    /// `None` is our own kernel.
    tuned: Mutex<HashMap<GemmSize, Option<Matmul>>>,
    source_hash: OnceLock<u64>,
}

impl fmt::Debug for Autotuner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Autotuner({:?}, {} gemms)", self.library.get(), lock(&self.tuned).len())
    }
}

impl Autotuner {
    /// cuBLASLt, opened on first use, or the reason why it is not used.
    pub(crate) fn library(&self, gpu: &Gpu) -> Result<&Cublaslt, &str> {
        self.library.get_or_init(|| Cublaslt::open(&gpu.device.context)).as_ref().map_err(String::as_str)
    }

    /// Computes `out = x·Wᵀ` by the fastest candidate. `x` and `out` are BF16.
    pub(crate) fn matmul(
        &self,
        gpu: &Gpu,
        x: &CudaTensor,
        w: &StoredMatrix,
        out: &CudaTensor,
        own: OwnKernel<impl Fn(&CudaTensor, &Matrix, &CudaTensor) -> Result<()>>,
    ) -> Result<()> {
        let dense = w.dense(gpu, OP)?;
        let [n, k] = dense.dims();
        let size = GemmSize { m: out.len() / n, n, k, stride: dense.stride() };
        let tensors = [x, dense.tensor(), out];
        let aligned = tensors.iter().all(|tensor| tensor.allocation().location().is_aligned(ALIGNMENT));
        let matmul = if aligned && is_tuned(size) { self.fastest(gpu, size, w, &own)? } else { None };
        match matmul {
            Some(matmul) => enqueue(gpu, &matmul, x, &dense, out),
            None => (own.run)(x, &dense, out),
        }
    }

    /// The fastest library call for a gemm, or `None` for our own kernel.
    fn fastest(
        &self,
        gpu: &Gpu,
        size: GemmSize,
        w: &StoredMatrix,
        own: &OwnKernel<impl Fn(&CudaTensor, &Matrix, &CudaTensor) -> Result<()>>,
    ) -> Result<Option<Matmul>> {
        let Ok(library) = self.library(gpu) else { return Ok(None) };
        if let Some(known) = lock(&self.tuned).get(&size) {
            return Ok(known.clone());
        }
        let matmul = match gpu.outside_recording(|| self.tune(gpu, library, size, w, own)) {
            // Timing needs more memory than the gemm does.
            Err(Error::OutOfMemory { .. }) => None,
            matmul => matmul?,
        };
        lock(&self.tuned).insert(size, matmul.clone());
        Ok(matmul)
    }

    /// Finds the fastest candidate in the disk cache or by timing. It runs outside of any
    /// recording, on tensors of its own: those of a recording have no memory yet.
    fn tune(
        &self,
        gpu: &Gpu,
        library: &Cublaslt,
        size: GemmSize,
        w: &StoredMatrix,
        own: &OwnKernel<impl Fn(&CudaTensor, &Matrix, &CudaTensor) -> Result<()>>,
    ) -> Result<Option<Matmul>> {
        gpu.bind(OP)?;
        let Ok(problem) = Problem::new(library, size).map(Arc::new) else { return Ok(None) };
        let workspace = self.workspace(gpu)?;
        let matmul = |algorithm| Matmul { problem: problem.clone(), algorithm, workspace: workspace.clone() };
        // Its own scratch, as that of a recording has no memory while it is made.
        let tensors = || {
            let w = w.dense(gpu, OP)?;
            Ok((operand(gpu, size, &w)?, w, gpu.output(OP, &[size.m, size.n], DType::Bf16)?))
        };
        let source_hash = *self.source_hash.get_or_init(own.source_hash);
        let entry = CacheEntry::hashed("cuda-gemm", "candidate", key(gpu, library, size, source_hash));
        match entry.as_ref().and_then(CacheEntry::read).and_then(|data| Candidate::decode(&data)) {
            Some(Candidate::OwnKernel) => return Ok(None),
            Some(Candidate::Cublaslt(algorithm)) if problem.supports(algorithm) => {
                let matmul = matmul(algorithm);
                // The first run loads the library's kernel, which must not happen in a capture. If
                // the run fails, the candidates are timed again; if memory for it is full, it is
                // skipped.
                match tensors() {
                    Ok((x, w, out)) if enqueue(gpu, &matmul, &x, &w, &out).is_err() => {}
                    Err(error) if !matches!(error, Error::OutOfMemory { .. }) => return Err(error),
                    _ => return Ok(Some(matmul)),
                }
            }
            _ => {}
        }
        let (x, w, out) = tensors()?;
        let mut candidates = Vec::new();
        for algorithm in problem.algorithms().unwrap_or_default() {
            let matmul = matmul(algorithm);
            let run = || enqueue(gpu, &matmul, &x, &w, &out);
            if let Ok(recording) = run().and_then(|()| gpu.record(run)) {
                candidates.push((Candidate::Cublaslt(algorithm), recording));
            }
        }
        (own.run)(&x, &w, &out)?;
        candidates.push((Candidate::OwnKernel, gpu.record(|| (own.run)(&x, &w, &out))?));
        let (candidate, _) = &candidates[fastest(&times(gpu, &candidates)?)];
        if let Some(entry) = entry {
            entry.write(&candidate.encode());
        }
        Ok(match candidate {
            Candidate::OwnKernel => None,
            Candidate::Cublaslt(algorithm) => Some(matmul(*algorithm)),
        })
    }

    /// The workspace of all library calls, allocated on first use.
    fn workspace(&self, gpu: &Gpu) -> Result<CudaTensor> {
        let mut workspace = lock(&self.workspace);
        if let Some(workspace) = &*workspace {
            return Ok(workspace.clone());
        }
        let made = gpu.output(OP, &[WORKSPACE], DType::U8)?;
        Ok(workspace.insert(made).clone())
    }
}

fn enqueue(gpu: &Gpu, matmul: &Matmul, x: &CudaTensor, w: &Matrix, out: &CudaTensor) -> Result<()> {
    let args = [w.arg(), Arg::Read(x), Arg::Write(out), Arg::Read(&matmul.workspace)];
    let operands = [w.tensor(), x, out].map(|tensor| tensor.allocation().location());
    gpu.enqueue(MatmulCall::new(matmul, operands), &args)
}

/// Everything that a result depends on.
fn key(gpu: &Gpu, library: &Cublaslt, size: GemmSize, source_hash: u64) -> String {
    let device = &gpu.device;
    let GemmSize { m, n, k, stride } = size;
    let (major, minor) = device.kernels.compiler();
    format!(
        "{}, {} SMs, driver {}, {}, NVRTC {major}.{minor}, kernels {source_hash:016x}, sm90 {}, {m}x{n}x{k}, stride {stride}",
        device.name,
        device.sms,
        driver_version(),
        library.version(),
        device.sm90
    )
}

/// An `x` `[m, k]` for timing. A GPU takes longer for random values than for zeros, so `x` has
/// those of the weights.
fn operand(gpu: &Gpu, size: GemmSize, w: &Matrix) -> Result<CudaTensor> {
    let x = gpu.output(OP, &[size.m, size.k], DType::Bf16)?;
    let weights = w.tensor();
    for start in (0..x.bytes()).step_by(weights.bytes()) {
        let to = x.allocation().address()? + start as u64;
        let bytes = weights.bytes().min(x.bytes() - start);
        let from = weights.allocation().address()?;
        // SAFETY: both tensors have as many bytes from these addresses on.
        unsafe { result::memcpy_dtod_async(to, from, bytes, gpu.device.stream.cu_stream()) }
            .map_err(|error| fault(OP, error))?;
    }
    Ok(x)
}

/// The median time of each candidate in milliseconds. The L2 is flushed before each run, as the
/// weights of a network exceed it.
fn times(gpu: &Gpu, candidates: &[(Candidate, CudaRecording)]) -> Result<Vec<f32>> {
    let failed = |error| fault(OP, error);
    let device = &gpu.device;
    let l2 = device.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(failed)?;
    let flush = gpu.output(OP, &[2 * usize::try_from(l2).unwrap_or(0).max(1)], DType::U8)?;
    let flush_at = flush.allocation().address()?;
    let mut times = vec![Vec::new(); candidates.len()];
    for round in 0..ROUNDS {
        let best = times.iter().map(|times| median(times)).fold(f32::INFINITY, f32::min);
        let mut running = Vec::new();
        for ((_, recording), times) in candidates.iter().zip(&mut times) {
            if round >= TRIAL_ROUNDS && median(times) > PROMISING * best {
                continue;
            }
            // SAFETY: the memory has this size and no other user.
            unsafe { result::memset_d8_async(flush_at, 0, flush.bytes(), device.stream.cu_stream()) }
                .map_err(failed)?;
            let start = gpu.event()?;
            gpu.replay(recording)?;
            running.push((start, gpu.event()?, times));
        }
        for (start, end, times) in running {
            times.push(elapsed_ms(&start, &end).map_err(failed)?);
        }
    }
    Ok(times.iter().map(|times| median(times)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_gemms_of_whole_vectors_are_tuned() {
        let tuned = |m, n, k| is_tuned(GemmSize { m, n, k, stride: k });
        assert!(tuned(4224, 11_520, 3840) && tuned(128, 6144, 2560) && tuned(usize::MAX, 8, 8));
        assert!(!tuned(8, 11_520, 38_400), "few rows have a gemv kernel");
        assert!(!tuned(128, 1024, 256) && !tuned(4224, 3841, 3840) && !tuned(4224, 3840, 3844));
    }

    #[test]
    fn candidates_decode_as_encoded() {
        for candidate in [
            Candidate::OwnKernel,
            Candidate::Cublaslt([0; 8]),
            Candidate::Cublaslt([1, u64::MAX, 3, 4, 5, 6, 7, 1 << 40]),
        ] {
            assert_eq!(Candidate::decode(&candidate.encode()), Some(candidate));
        }
        for data in [&b""[..], b"owned", &[1; 63], &[1; 65], &[1; 56], &[1; 72]] {
            assert_eq!(Candidate::decode(data), None, "{data:?}");
        }
    }

    #[test]
    fn the_first_wins_unless_another_is_clearly_faster() {
        assert_eq!(fastest(&[5.0]), 0);
        assert_eq!(fastest(&[5.0, 4.95, 6.0]), 0);
        assert_eq!(fastest(&[5.0, 4.8, 6.0]), 1);
        assert_eq!(fastest(&[5.0, 4.8, 4.7]), 2);
        assert_eq!(fastest(&[5.0, 6.0, f32::NAN]), 0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), f32::INFINITY);
    }
}
