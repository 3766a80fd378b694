//! Which way a large product goes: through our own kernel or by one of cuBLASLt's algorithms, whichever is the fastest on
//! this device for these sizes.
//!
//! It is timed once a machine, when a product of these sizes is asked for first, and kept in the user's cache folder.

use super::cublaslt::{ALIGNMENT, Algorithm, Cublaslt, Multiplication, Plan, Problem, Shape, WORKSPACE};
use super::tile::FEW;
use crate::backend::cuda::driver::device::{driver_version, fault};
use crate::backend::cuda::driver::functions::elapsed_ms;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, CudaRecording, Work};
use crate::backend::cuda::matrix::Matrix;
use crate::backend::cuda::memory::arena::Memory;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::cuda::ops::linear;
use crate::backend::gpu::disk_cache::{self, CacheEntry};
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use crate::tensor::DType;
use cudarc::driver::result;
use cudarc::driver::sys::CUdevice_attribute;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

const VERB: &str = "linear";

/// The least work for which the way is worth finding out, in multiplications and additions.
const LEAST: usize = 1_000_000_000;

/// Rounds of timing, and after how many of them only those go on that took at most so many times the best.
const ROUNDS: usize = 5;
const TRIAL: usize = 2;
const HOPEFUL: f32 = 1.1;

/// How much faster than the library's first choice another must be to be preferred: less is noise.
const MARGIN: f32 = 0.02;

/// Whether the library is worth a try.
fn large(Shape { m, n, k, .. }: Shape) -> bool {
    let work = [m, n, k].iter().try_fold(2usize, |work, size| work.checked_mul(*size));
    m > FEW && n.is_multiple_of(VECTOR) && k.is_multiple_of(VECTOR) && work.is_none_or(|work| work >= LEAST)
}

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Our own kernel.
    Own,
    Library(Algorithm),
}

impl Way {
    const OWN: &[u8] = b"own";

    fn encoded(self) -> Vec<u8> {
        match self {
            Way::Own => Self::OWN.to_vec(),
            Way::Library(algorithm) => algorithm.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    fn decoded(data: &[u8]) -> Option<Self> {
        if data == Self::OWN {
            return Some(Way::Own);
        }
        let (words, rest) = data.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        rest.is_empty().then_some(Way::Library(words.try_into().ok()?))
    }
}

/// The fastest of these times, of which the first is preferred unless another is clearly shorter.
fn fastest(times: &[f32]) -> usize {
    let shortest = (0..times.len()).min_by(|a, b| times[*a].total_cmp(&times[*b])).unwrap_or(0);
    if times.get(shortest) < times.first().map(|first| (1.0 - MARGIN) * first).as_ref() { shortest } else { 0 }
}

/// The middle one of some times.
fn median(times: &[f32]) -> f32 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f32::INFINITY)
}

/// The library where it is here, and the ways that were found so far.
#[derive(Default)]
pub(crate) struct Ways {
    library: OnceLock<Result<Cublaslt, String>>,
    /// What the plans work in.
    workspace: Mutex<Option<CudaTensor>>,
    /// `None` is our own kernel.
    plans: Mutex<HashMap<Shape, Option<Plan>>>,
    /// A number for the texts of our own kernels.
    texts: OnceLock<u64>,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ways({:?}, {} products)", self.library.get(), lock(&self.plans).len())
    }
}

/// The library, which is looked for when it is asked for first, or why it is not used.
pub(crate) fn library(gpu: &Gpu) -> Result<&Cublaslt, &str> {
    gpu.ways.library.get_or_init(|| Cublaslt::open(&gpu.device.context)).as_ref().map_err(String::as_str)
}

/// Makes `out = x·Wᵀ` by the library where that is the fastest way; else it is left to `own`, which does the same for
/// tensors of the same sizes, and the answer is `false`. `x` and `out` are BF16.
pub(crate) fn multiply(
    gpu: &Gpu,
    x: &CudaTensor,
    w: &Matrix,
    out: &CudaTensor,
    own: impl Fn(&CudaTensor, &CudaTensor) -> Result<()>,
) -> Result<bool> {
    let [n, k] = w.dims();
    let shape = Shape { m: out.len() / n, n, k, stride: w.stride() };
    let aligned = |memory: &&Arc<Memory>| memory.place().is_aligned(ALIGNMENT);
    if !large(shape) || ![x.memory(), w.memory(), out.memory()].iter().all(aligned) {
        return Ok(false);
    }
    let Ok(library) = library(gpu) else { return Ok(false) };
    let known = lock(&gpu.ways.plans).get(&shape).cloned();
    let plan = match known {
        Some(plan) => plan,
        None => {
            let plan = gpu.aside(|| find(gpu, library, shape, w, own));
            // Timing wants memory that the product does not.
            let plan = if matches!(plan, Err(Error::OutOfMemory(_))) { None } else { plan? };
            lock(&gpu.ways.plans).insert(shape, plan.clone());
            plan
        }
    };
    match plan {
        Some(plan) => launch(gpu, &plan, x, w, out).map(|()| true),
        None => Ok(false),
    }
}

fn launch(gpu: &Gpu, plan: &Plan, x: &CudaTensor, w: &Matrix, out: &CudaTensor) -> Result<()> {
    let args = [Arg::Weights(w), Arg::Read(x), Arg::Write(out), Arg::Read(&plan.workspace)];
    gpu.put(Work::Library(Multiplication::new(plan, w, x, out)), &args)
}

/// The plan for a product, or `None` for our own kernel. Nothing is being recorded. It is tried on tensors of its own: those of
/// a recording have no memory yet.
fn find(
    gpu: &Gpu,
    library: &Cublaslt,
    shape: Shape,
    w: &Matrix,
    own: impl Fn(&CudaTensor, &CudaTensor) -> Result<()>,
) -> Result<Option<Plan>> {
    gpu.bind(VERB)?;
    let Ok(problem) = Problem::new(library, shape).map(Arc::new) else { return Ok(None) };
    let workspace = workspace(gpu)?;
    let plan = |algorithm| Plan { problem: problem.clone(), algorithm, workspace: workspace.clone() };
    let tensors = || Ok((operand(gpu, shape, w)?, gpu.output(VERB, &[shape.m, shape.n], DType::Bf16)?));
    let kept = CacheEntry::hashed("cuda-products", "way", key(gpu, library, shape));
    match kept.as_ref().and_then(CacheEntry::read).and_then(|data| Way::decoded(&data)) {
        Some(Way::Own) => return Ok(None),
        Some(Way::Library(algorithm)) if problem.takes(algorithm) => {
            let plan = plan(algorithm);
            // Once at once: what loads the kernel should not be captured. What is refused after all is timed again. Where there is
            // no room to try it, it is taken at its word.
            match tensors() {
                Ok((x, out)) if launch(gpu, &plan, &x, w, &out).is_err() => {}
                Err(error) if !matches!(error, Error::OutOfMemory(_)) => return Err(error),
                _ => return Ok(Some(plan)),
            }
        }
        _ => {}
    }
    let (x, out) = tensors()?;
    let mut ways = Vec::new();
    for algorithm in problem.candidates().unwrap_or_default() {
        let plan = plan(algorithm);
        let run = || launch(gpu, &plan, &x, w, &out);
        if let Ok(recording) = run().and_then(|()| gpu.record(run)) {
            ways.push((Way::Library(algorithm), recording));
        }
    }
    own(&x, &out)?;
    ways.push((Way::Own, gpu.record(|| own(&x, &out))?));
    let (way, _) = &ways[fastest(&timed(gpu, &ways)?)];
    if let Some(kept) = kept {
        kept.write(&way.encoded());
    }
    Ok(match way {
        Way::Own => None,
        Way::Library(algorithm) => Some(plan(*algorithm)),
    })
}

/// What a choice depends on.
fn key(gpu: &Gpu, library: &Cublaslt, Shape { m, n, k, stride }: Shape) -> String {
    let device = &gpu.device;
    let texts = gpu.ways.texts.get_or_init(|| {
        let programs = [linear::programs(), linear::hopper_programs()].concat();
        disk_cache::hash(programs.iter().map(|program| program.source()).collect::<String>().as_bytes())
    });
    let (major, minor) = device.kernels.compiler();
    let (name, processors, hopper) = (&device.name, device.processors, device.hopper);
    let (library, driver) = (library.version(), driver_version());
    format!(
        "{name}, {processors} processors, driver {driver}, {library}, NVRTC {major}.{minor}, kernels {texts:016x}, Hopper's \
         {hopper}, {m}x{n}x{k}, stride {stride}"
    )
}

/// What all products of the library work in, made when it is asked for first.
fn workspace(gpu: &Gpu) -> Result<CudaTensor> {
    let mut workspace = lock(&gpu.ways.workspace);
    if let Some(workspace) = &*workspace {
        return Ok(workspace.clone());
    }
    let made = gpu.output(VERB, &[WORKSPACE], DType::U8)?;
    Ok(workspace.insert(made).clone())
}

/// An `x` `[m, k]` for timing. A GPU takes longer for numbers than for zeros, so it has those of the weights.
fn operand(gpu: &Gpu, shape: Shape, w: &Matrix) -> Result<CudaTensor> {
    let x = gpu.output(VERB, &[shape.m, shape.k], DType::Bf16)?;
    let weights = DType::Bf16.size() * shape.n * shape.stride;
    for start in (0..x.bytes()).step_by(weights) {
        let (to, bytes) = (x.memory().address()? + start as u64, weights.min(x.bytes() - start));
        // SAFETY: both parts are of tensors that are as large.
        unsafe { result::memcpy_dtod_async(to, w.memory().address()?, bytes, gpu.device.stream.cu_stream()) }
            .map_err(|error| fault(VERB, error))?;
    }
    Ok(x)
}

/// Milliseconds of each way, with nothing in the device's cache as in a network, whose weights are larger than that.
fn timed(gpu: &Gpu, ways: &[(Way, CudaRecording)]) -> Result<Vec<f32>> {
    let failed = |error| fault(VERB, error);
    let device = &gpu.device;
    let cache = device.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(failed)?;
    let other = gpu.output(VERB, &[2 * usize::try_from(cache).unwrap_or(0).max(1)], DType::U8)?;
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..ROUNDS {
        let best = times.iter().map(|times| median(times)).fold(f32::INFINITY, f32::min);
        let mut running = Vec::new();
        let other_at = other.memory().address()?;
        for ((_, recording), times) in ways.iter().zip(&mut times) {
            if round >= TRIAL && median(times) > HOPEFUL * best {
                continue;
            }
            // SAFETY: the memory is of this size and nobody's but ours.
            unsafe { result::memset_d8_async(other_at, 0, other.bytes(), device.stream.cu_stream()) }
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
    fn only_large_products_with_whole_vectors_are_tried() {
        let large = |m, n, k| large(Shape { m, n, k, stride: k });
        assert!(large(4224, 11_520, 3840) && large(128, 6144, 2560) && large(usize::MAX, 8, 8));
        assert!(!large(8, 11_520, 38_400), "few rows have a kernel of their own");
        assert!(!large(128, 1024, 256) && !large(4224, 3841, 3840) && !large(4224, 3840, 3844));
    }

    #[test]
    fn ways_are_read_as_they_are_written() {
        for way in [Way::Own, Way::Library([0; 8]), Way::Library([1, u64::MAX, 3, 4, 5, 6, 7, 1 << 40])] {
            assert_eq!(Way::decoded(&way.encoded()), Some(way));
        }
        for data in [&b""[..], b"owned", &[1; 63], &[1; 65], &[1; 56], &[1; 72]] {
            assert_eq!(Way::decoded(data), None, "{data:?}");
        }
    }

    #[test]
    fn the_first_is_preferred_unless_another_is_clearly_faster() {
        assert_eq!(fastest(&[5.0]), 0);
        assert_eq!(fastest(&[5.0, 4.95, 6.0]), 0);
        assert_eq!(fastest(&[5.0, 4.8, 6.0]), 1);
        assert_eq!(fastest(&[5.0, 4.8, 4.7]), 2);
        assert_eq!(fastest(&[5.0, 6.0, f32::NAN]), 0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), f32::INFINITY);
    }
}
