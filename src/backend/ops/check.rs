//! Conditions on tensors, for the checks of the ops. Each failure names the op, the tensor, and
//! both sizes.

pub(super) use super::super::shape::{dims, ensure, floating, not_empty, same, typed};
use super::DeviceTensor;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};

/// A floating tensor with exactly `N` sizes; returns them.
pub(super) fn floats<const N: usize>(op: &'static str, name: &str, tensor: &impl DeviceTensor) -> Result<[usize; N]> {
    let sizes = dims(op, name, tensor.shape())?;
    floating(op, name, tensor.dtype())?;
    Ok(sizes)
}

/// An activation with exactly `N` sizes, which is not converted; returns them.
pub(super) fn activation<const N: usize>(
    op: &'static str,
    name: &str,
    tensor: &impl DeviceTensor,
    activation: DType,
) -> Result<[usize; N]> {
    let sizes = dims(op, name, tensor.shape())?;
    let dtype = tensor.dtype();
    ensure(dtype == activation, op, || format!("{name} must be an activation, not {dtype}"))?;
    Ok(sizes)
}

/// A floating vector `[n]`: a token, or the weight of a norm.
pub(super) fn vector(op: &'static str, name: &str, tensor: &impl DeviceTensor, n: usize) -> Result<()> {
    same(op, name, tensor.shape(), &[n])?;
    floating(op, name, tensor.dtype())
}

/// A tensor of type `dtype` with exactly `N` sizes; returns them.
pub(super) fn exactly<const N: usize>(
    op: &'static str,
    name: &str,
    tensor: &impl DeviceTensor,
    dtype: DType,
) -> Result<[usize; N]> {
    let sizes = dims(op, name, tensor.shape())?;
    typed(op, name, tensor.dtype(), dtype)?;
    Ok(sizes)
}

/// A U32 vector `[n]`: lengths, or a step counter with `n` = 1.
pub(super) fn integers(op: &'static str, name: &str, tensor: &impl DeviceTensor, n: usize) -> Result<()> {
    same(op, name, tensor.shape(), &[n])?;
    typed(op, name, tensor.dtype(), DType::U32)
}

/// Checks that no tensor of `read` shares the memory of `target`, which the op changes in place.
pub(super) fn apart<T: DeviceTensor>(op: &'static str, target: (&str, &T), read: &[(&str, Option<&T>)]) -> Result<()> {
    let alias = read.iter().find(|(_, tensor)| tensor.is_some_and(|tensor| tensor.shares(target.1)));
    match alias {
        Some((name, _)) => {
            Err(Error::shape(op, format!("{} must not share memory with {name}, as it is changed in place", target.0)))
        }
        None => Ok(()),
    }
}

/// A floating or quantised matrix on its way to the device; returns its sizes.
pub(super) fn matrix(op: &'static str, name: &str, weight: &Weight<'_>) -> Result<[usize; 2]> {
    let sizes = dims(op, name, weight.shape())?;
    floating(op, name, weight.dtype())?;
    Ok(sizes)
}

/// Checks that `channels` make `groups` groups of equal width.
pub(super) fn groups(op: &'static str, channels: usize, groups: usize) -> Result<()> {
    ensure(groups > 0 && channels.is_multiple_of(groups), op, || {
        format!("{channels} channels do not make {groups} groups")
    })
}

/// A floating bias `[n]` on its way to the device.
pub(super) fn bias(op: &'static str, bias: &HostTensor, n: usize) -> Result<()> {
    same(op, "the bias", bias.shape(), &[n])?;
    floating(op, "the bias", bias.dtype())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tensor without memory: shape, type, and an identity for aliasing.
    #[derive(Debug, Clone)]
    pub(in super::super) struct Fake {
        shape: Vec<usize>,
        dtype: DType,
        memory: usize,
    }

    impl DeviceTensor for Fake {
        fn shape(&self) -> &[usize] {
            &self.shape
        }

        fn dtype(&self) -> DType {
            self.dtype
        }

        fn shares(&self, other: &Self) -> bool {
            self.memory == other.memory
        }

        fn with_shape(&self, shape: &[usize]) -> Self {
            Self { shape: shape.to_vec(), ..self.clone() }
        }
    }

    impl Fake {
        /// A tensor of `dtype` with memory of its own.
        #[track_caller]
        pub(in super::super) fn new(dtype: DType, shape: &[usize]) -> Self {
            use std::sync::atomic::{AtomicUsize, Ordering};
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            Self { shape: shape.to_vec(), dtype, memory: NEXT.fetch_add(1, Ordering::Relaxed) }
        }
    }

    /// A floating tensor.
    pub(in super::super) fn f32s(shape: &[usize]) -> Fake {
        Fake::new(DType::F32, shape)
    }

    /// A tensor of integers.
    pub(in super::super) fn u32s(shape: &[usize]) -> Fake {
        Fake::new(DType::U32, shape)
    }

    /// The sizes of a matrix or a kernel without memory.
    #[derive(Debug)]
    pub(in super::super) struct Sizes<const N: usize>(pub(in super::super) [usize; N]);

    impl<const N: usize> super::super::DeviceWeight<N> for Sizes<N> {
        fn dims(&self) -> [usize; N] {
            self.0
        }
    }

    /// Checks that the check succeeded with `shape`.
    #[track_caller]
    pub(in super::super) fn gives<const N: usize>(result: Result<impl AsRef<[usize]>>, shape: [usize; N]) {
        assert_eq!(result.unwrap().as_ref(), shape);
    }

    /// Checks that the check failed with an error of `op` that holds all `words`.
    #[track_caller]
    pub(in super::super) fn rejects<T>(result: Result<T>, op: &str, words: &[&str]) {
        let Err(Error::Shape { op: named, problem }) = result.map(drop) else { panic!("{op} accepted it") };
        assert_eq!(named, op);
        words.iter().for_each(|words| assert!(problem.contains(words), "{words:?} is not in {problem:?}"));
    }

    #[test]
    fn types_must_match() {
        integers("pad_rows", "the lengths", &u32s(&[2]), 2).unwrap();
        rejects(integers("pad_rows", "the lengths", &f32s(&[2]), 2), "pad_rows", &["the lengths must be U32, not F32"]);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            vector("pad_rows", "the token", &Fake::new(dtype, &[2]), 2).unwrap();
        }
        for dtype in [DType::U32, DType::U8] {
            let token = vector("pad_rows", "the token", &Fake::new(dtype, &[2]), 2);
            rejects(token, "pad_rows", &[&format!("the token must be of a floating type, not {dtype}")]);
        }
    }

    #[test]
    fn in_place_targets_must_not_be_inputs() {
        let [x, y] = [f32s(&[2]), f32s(&[2])];
        apart("residual", ("x", &x), &[("the branch", Some(&y)), ("the norm's weight", None)]).unwrap();
        let view = x.reshaped(&[1, 2]).unwrap();
        let alias = apart("residual", ("x", &x), &[("the norm's weight", None), ("the branch", Some(&view))]);
        rejects(alias, "residual", &["x must not share memory with the branch, as it is changed in place"]);
    }
}
