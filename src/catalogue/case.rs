//! One op at one size, with the call that runs it on any backend.

use super::inputs::Inputs;
use super::stored::{QUANTIZED, Stored};
use super::tolerance::Tolerance;
use crate::backend::{Backend, Runtime};
use crate::error::Result;
use crate::tensor::Compute;

/// The sizes of an op. Its inputs, tolerance and cost are derived from them.
pub(crate) trait OpCase: Copy + 'static {
    /// The name of the op.
    const OP: &'static str;
    /// The tolerance of the results.
    const TOLERANCE: Tolerance;

    /// The tolerance of the results of this case.
    fn tolerance(&self) -> Tolerance {
        Self::TOLERANCE
    }

    /// The sizes in words, for the rows of the bench; empty for ops that the bench does not
    /// measure.
    fn sizes(&self) -> String {
        String::new()
    }

    /// [`Compute::Fp8`] for a case that only a backend with FP8 operands runs.
    fn compute(&self) -> Compute {
        Compute::Native
    }

    /// The floating-point operations of one call, for gemm-bound ops.
    fn flop(&self) -> Option<f64> {
        None
    }

    /// Uploads the inputs of one call. `inputs` counts the bytes that the call reads and writes of
    /// them.
    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>>;

    /// The case under the name `OP/NAME`, such as `attention/NAME`.
    fn named<B: Backend + 'static>(self, name: &str) -> Case<B> {
        let name = if name.is_empty() { Self::OP.to_owned() } else { format!("{}/{name}", Self::OP) };
        Case {
            op: Self::OP,
            name,
            sizes: self.sizes(),
            flop: self.flop(),
            tolerance: self.tolerance(),
            compute: self.compute(),
            prepare: Box::new(move |inputs| self.prepare(inputs)),
        }
    }
}

/// An [`OpCase`] of any op.
pub(crate) struct Case<B: Backend> {
    pub op: &'static str,
    /// The op and the name: `attention/causal-gqa-257`.
    pub name: String,
    pub sizes: String,
    pub flop: Option<f64>,
    pub tolerance: Tolerance,
    pub compute: Compute,
    prepare: Box<Prepare<B>>,
}

type Prepare<B> = dyn Fn(&mut Inputs<'_, B>) -> Result<Call<B>>;

/// Calls an op on uploaded inputs, any number of times.
pub(crate) type Call<B> = Box<dyn Fn(&B) -> Result<Written<<B as Runtime>::Tensor>>>;

/// The tensors written by a call.
pub(crate) struct Written<T> {
    /// Inputs changed in place.
    pub changed: Vec<T>,
    /// New tensors.
    pub new: Vec<T>,
}

impl<B: Backend> Case<B> {
    /// Uploads the inputs of one call.
    pub(crate) fn prepare(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        (self.prepare)(inputs)
    }

    /// True if the case has the size of a 1024×1024 picture. Its name starts with `full`.
    pub(crate) fn is_full(&self) -> bool {
        self.name.split_once('/').is_some_and(|(_, name)| name.starts_with("full"))
    }
}

/// The cases of a table.
pub(super) fn named<B: Backend + 'static, C: OpCase>(
    cases: impl IntoIterator<Item = (&'static str, C)>,
) -> Vec<Case<B>> {
    cases.into_iter().map(|(name, case)| case.named(name)).collect()
}

/// A case for each quantised storage, made from the storage and a width that it has.
pub(super) fn quantized_cases<B: Backend + 'static, C: OpCase>(case: impl Fn(Stored, usize) -> C) -> Vec<Case<B>> {
    QUANTIZED.into_iter().map(|(name, stored)| case(stored, stored.columns().max(96)).named(name)).collect()
}

/// A call that returns new tensors.
pub(super) fn returns<B: Backend, const N: usize>(
    call: impl Fn(&B) -> Result<[B::Tensor; N]> + 'static,
) -> Result<Call<B>> {
    Ok(Box::new(move |b| Ok(Written { changed: Vec::new(), new: call(b)?.into() })))
}

/// A call that changes tensors in place.
pub(super) fn changes<B: Backend, const N: usize>(
    call: impl Fn(&B) -> Result<[B::Tensor; N]> + 'static,
) -> Result<Call<B>> {
    Ok(Box::new(move |b| Ok(Written { changed: call(b)?.into(), new: Vec::new() })))
}
