//! A backend that forwards everything to another one, except for one planted fault.
//!
//! Argument faults (a missing mask, a wrong eps) apply to calls and to recordings. Result damage
//! needs the host, so it applies only to called ops; a test that also records sees a difference
//! between the two.

mod fault;
mod ops;

pub(crate) use fault::{Damage, Fault, Fp8Fault};
use half::{bf16, f16};
use pollster::block_on;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use zimage::backend::*;
use zimage::catalogue::{self, Feature};
use zimage::tensor::{Compute, DType, Format, HostTensor, Scaled, Scales, Storage, Weight};
use zimage::{Error, Result};

/// A backend with a fault.
#[derive(Debug)]
pub(crate) struct Faulty<B: Backend> {
    inner: B,
    fault: Fault,
    /// The dtypes to which results (F32 or BF16) and gemm operands (F32, F16 or BF16) are rounded.
    /// Such rounding is no fault.
    precision: [DType; 2],
    recording: Cell<bool>,
    /// The last result of each op and length: the contents of memory that the op leaves unwritten.
    memory: RefCell<HashMap<(usize, &'static str), HostTensor>>,
}

/// A recording, and the number of its replays.
#[derive(Debug)]
pub(crate) struct Replays<R>(R, Cell<usize>);

impl<B: Backend> Faulty<B> {
    pub(crate) fn new(inner: B, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            precision: [DType::F32; 2],
            recording: Cell::new(false),
            memory: RefCell::new(HashMap::new()),
        }
    }

    /// Rounds activations and gemm operands to these types.
    pub(crate) fn rounding(self, activations: DType, operands: DType) -> Self {
        Self { precision: [activations, operands], ..self }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn eps(&self, eps: f32) -> f32 {
        if self.is(Fault::EpsZero) { 0.0 } else { eps }
    }

    fn row<'a>(&self, row: Modulation<'a, B::Tensor>) -> Modulation<'a, B::Tensor> {
        let next = self.is(Fault::NextModulationRow) && row.row + 1 < row.table.shape()[1];
        Modulation { row: row.row + usize::from(next), ..row }
    }

    fn norm<'a>(&self, norm: RmsNorm<'a, B::Tensor>) -> RmsNorm<'a, B::Tensor> {
        let scale = norm.scale.filter(|_| !self.is(Fault::ScaleForgotten)).map(|scale| self.row(scale));
        RmsNorm { scale, eps: self.eps(norm.eps), ..norm }
    }

    fn norm_rope<'a>(&self, how: QkNormRope<'a, B::Tensor>) -> QkNormRope<'a, B::Tensor> {
        let pairs = match how.pairs {
            RopePairs::Interleaved if self.is(Fault::PairsSwapped) => RopePairs::Halves,
            RopePairs::Halves if self.is(Fault::PairsSwapped) => RopePairs::Interleaved,
            pairs => pairs,
        };
        let swapped = self.is(Fault::QueryAndKeyNormsSwapped);
        let (q_norm, k_norm) = if swapped { (how.k_norm, how.q_norm) } else { (how.q_norm, how.k_norm) };
        QkNormRope { q_norm, k_norm, eps: self.eps(how.eps), pairs, ..how }
    }

    fn branch<'a>(&self, branch: Branch<'a, B::Tensor>) -> Branch<'a, B::Tensor> {
        Branch {
            y: branch.y,
            norm: branch.norm.filter(|_| !self.is(Fault::BranchNormForgotten)),
            gate: branch.gate.filter(|_| !self.is(Fault::GateForgotten)).map(|gate| self.row(gate)),
            eps: self.eps(branch.eps),
        }
    }

    /// A tensor whose values were changed on the host.
    fn changed(&self, tensor: &B::Tensor, change: impl FnOnce(&mut Vec<f32>)) -> Result<B::Tensor> {
        let host = block_on(self.inner.download(tensor))?;
        let mut values = host.to_f32();
        change(&mut values);
        self.inner.upload(&stored(host.dtype(), host.shape(), &values))
    }

    /// A weight, rounded as a gemm operand.
    fn operand(&self, weight: &HostTensor) -> HostTensor {
        let dtype = self.precision[1];
        if dtype == DType::F32 { weight.clone() } else { stored(dtype, weight.shape(), &weight.to_f32()) }
    }

    /// The whole weight as it is uploaded. A fault may zero its last piece.
    async fn arrived(&self, weight: &Weight<'_>) -> Result<HostTensor> {
        let whole = weight.whole().await?;
        let mut last = 0;
        let see = |row, _| {
            last = row;
            Ok(())
        };
        Weight::each_piece(std::slice::from_ref(weight), see).await?;
        if last == 0 || !self.is(Fault::LastPieceForgotten) {
            return Ok(whole);
        }
        let mut bytes = whole.bytes().to_vec();
        let start = bytes.len() / weight.rows() * last;
        bytes[start..].fill(0);
        Ok(HostTensor::new(whole.dtype(), whole.shape(), bytes.into()).expect("as many bytes"))
    }

    /// A matrix as it is uploaded: damaged, or rounded as a gemm operand.
    async fn matrix(&self, weight: &Weight<'_>) -> Result<Weight<'static>> {
        match weight.compute() {
            Compute::Native => Ok(self.operand(&self.arrived(weight).await?).into()),
            Compute::Fp8 => self.fp8_matrix(weight).await,
        }
    }

    async fn fp8_matrix(&self, weight: &Weight<'_>) -> Result<Weight<'static>> {
        let mut codes = weight.whole_stored().await?.to_vec();
        let mut scales = weight.fp8_scales().expect("a matrix in FP8 has a scale a row");
        match self.fault {
            Fault::Fp8(Fp8Fault::ScaleForgotten) => scales.fill(1.0),
            Fault::Fp8(Fp8Fault::ScaleOfAnotherRow) => scales.rotate_right(1),
            Fault::Fp8(Fp8Fault::NanForTheLargest) => {
                codes.iter_mut().filter(|code| **code & 0x7f == 0x7e).for_each(|code| *code |= 1);
            }
            _ => {}
        }
        let shape @ &[n, k] = weight.shape() else { unreachable!("a matrix") };
        let matrix = Scaled::new(Format::F8E4m3, [n, k], [n, k], Scales::Rows(scales), None).expect("a scale a row");
        let storage = Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 };
        Ok(Weight::quantized(storage, shape, codes.into()).expect("whole rows").computed_in(Compute::Fp8))
    }

    /// Damages or rounds the result of an op.
    fn result(&self, op: &'static str, out: B::Tensor) -> Result<B::Tensor> {
        let damage = match self.fault {
            Fault::Result(damaged, damage) if damaged == op => Some(damage),
            _ => None,
        };
        // Velocities, latents and pictures have the same dtype on every backend.
        let f32_result = catalogue::ops().any(|known| known.name == op && known.features.contains(&Feature::F32Result));
        let activation = out.dtype() == DType::F32 && !f32_result && self.precision[0] != DType::F32;
        if self.recording.get() || (damage.is_none() && !activation) {
            return Ok(out);
        }
        let true_result = block_on(self.inner.download(&out))?;
        let mut values = true_result.to_f32();
        if let Some(damage) = damage {
            let held = self.memory.borrow_mut().insert((values.len(), op), true_result.clone());
            let held = held.map_or(vec![0.0; values.len()], |held| held.to_f32());
            let kept = values.len() - out.shape().last().copied().unwrap_or(1);
            match damage {
                Damage::Scaled => values.iter_mut().for_each(|v| *v *= 1.001),
                Damage::LastRowUnwritten => values[kept..].copy_from_slice(&held[kept..]),
                Damage::Unwritten => values = held,
                Damage::ThroughF16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
            }
        }
        let dtype = if activation { self.precision[0] } else { true_result.dtype() };
        self.inner.upload(&stored(dtype, out.shape(), &values))
    }

    /// Converts an activation to F32, the activation type of the inner backend, before an op
    /// changes it in place.
    fn widen(&self, x: &mut B::Tensor) -> Result<()> {
        if x.dtype() == DType::Bf16 && !self.recording.get() {
            let host = block_on(self.inner.download(x))?;
            *x = self.inner.upload(&HostTensor::from_f32(host.shape(), &host.to_f32()))?;
        }
        Ok(())
    }

    /// The result of an op's check, or `None` if the fault lets wrong arguments pass.
    fn checked<T>(&self, op: &str, check: Result<T>) -> Result<Option<T>> {
        let accepted = match self.fault {
            Fault::Accepts(wrong) => wrong == op,
            Fault::AcceptsRecorded(wrong) => wrong == op && self.recording.get(),
            _ => false,
        };
        match check {
            Err(_) if accepted => Ok(None),
            Err(_) if matches!(self.fault, Fault::RejectsWithAnotherMessage(wrong) if wrong == op) => {
                self.inner.upload(&HostTensor::from_f32(&[0, 1], &[])).map(|_| None)
            }
            check => check.map(Some),
        }
    }

    /// The result of an op whose wrong arguments passed the check.
    fn meaningless(&self) -> Result<B::Tensor> {
        self.inner.upload(&HostTensor::from_f32(&[1], &[0.0]))
    }

    /// Like [`Faulty::result`], for a tensor that an op changed in place.
    fn changed_in_place(&self, op: &'static str, x: &mut B::Tensor) -> Result<()> {
        *x = self.result(op, x.clone())?;
        Ok(())
    }
}

/// The values, converted to `dtype`.
fn stored(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    let halves = |bits: fn(f32) -> u16| {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| bits(v).to_le_bytes()).collect();
        HostTensor::new(dtype, shape, bytes.into()).unwrap()
    };
    match dtype {
        DType::F16 => halves(|v| f16::from_f32(v).to_bits()),
        DType::Bf16 => halves(|v| bf16::from_f32(v).to_bits()),
        DType::F32 => HostTensor::from_f32(shape, values),
        DType::U32 => HostTensor::from_u32(shape, &values.iter().map(|&v| v as u32).collect::<Vec<_>>()),
        DType::U8 => HostTensor::from_u8(shape, &values.iter().map(|&v| v as u8).collect::<Vec<_>>()),
    }
}

impl<B: Backend> Runtime for Faulty<B> {
    type Tensor = B::Tensor;
    type Recording = Replays<B::Recording>;
    type Event = B::Event;

    const IN_FLIGHT: usize = B::IN_FLIGHT;
    const RECORDINGS_SHARE_MEMORY: bool = B::RECORDINGS_SHARE_MEMORY;

    fn name(&self) -> &'static str {
        "faulty"
    }

    fn device(&self) -> String {
        format!("{:?}", self.fault)
    }

    /// Results are rounded on the host, so they keep the inner backend's type inside a recording.
    fn activations(&self) -> DType {
        if self.recording.get() { self.inner.activations() } else { self.precision[0] }
    }

    fn operands(&self) -> DType {
        self.precision[1]
    }

    /// The other faults and roundings are of results and matrices that FP8 would hide.
    fn computes_fp8(&self) -> bool {
        let shows = matches!(self.fault, Fault::None | Fault::Fp8(_)) && self.precision == [DType::F32; 2];
        shows && self.inner.computes_fp8()
    }

    fn largest_activation(&self) -> usize {
        self.inner.largest_activation()
    }

    fn free_memory(&self) -> Option<u64> {
        if let Fault::FreeMemory(bytes) = self.fault { Some(bytes) } else { None }
    }

    fn trim(&self) {
        self.inner.trim();
    }

    fn upload(&self, tensor: &HostTensor) -> Result<B::Tensor> {
        match self.checked("upload", self.inner.upload(tensor))? {
            Some(uploaded) => Ok(uploaded),
            None => self.meaningless(),
        }
    }

    fn run_upload(&self, tensor: &HostTensor) -> Result<B::Tensor> {
        self.inner.run_upload(tensor)
    }

    async fn download(&self, tensor: &B::Tensor) -> Result<HostTensor> {
        if self.recording.get() {
            return Err(Error::Device("download: a recording is being made".into()));
        }
        self.inner.download(tensor).await
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<Self::Recording> {
        let recording = self.inner.record(|_| {
            self.recording.set(true);
            let done = steps(self);
            self.recording.set(done.is_err() && self.is(Fault::KeepsRecording));
            done
        })?;
        if self.is(Fault::RunsWhileRecording) {
            self.inner.replay(&recording)?;
        }
        Ok(Replays(recording, Cell::new(0)))
    }

    fn replay(&self, recording: &Self::Recording) -> Result<()> {
        let count = recording.1.replace(recording.1.get() + 1);
        if self.is(Fault::FirstReplaySkipped) && count == 0 {
            return Ok(());
        }
        self.inner.replay(&recording.0)
    }

    fn event(&self) -> Result<B::Event> {
        self.inner.event()
    }

    async fn wait(&self, event: B::Event) -> Result<()> {
        self.inner.wait(event).await
    }
}
