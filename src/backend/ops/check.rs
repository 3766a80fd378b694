//! The conditions that the checks of the ops are made of. Each failure names the op, the tensor, and both sizes.

use super::DeviceTensor;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};

/// Returns the error `op: problem` unless `holds`.
pub(super) fn ensure(holds: bool, op: &'static str, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::shape(op, problem())) }
}

/// `shape` as exactly `N` sizes, none of them 0.
pub(crate) fn dims<const N: usize>(op: &'static str, tensor: &str, shape: &[usize]) -> Result<[usize; N]> {
    not_empty(op, tensor, shape)?;
    shape.try_into().map_err(|_| Error::shape(op, format!("{tensor} must have {N} dimensions, has shape {shape:?}")))
}

/// Checks that no size of `shape` is 0.
pub(crate) fn not_empty(op: &'static str, tensor: &str, shape: &[usize]) -> Result<()> {
    ensure(!shape.contains(&0), op, || format!("{tensor} must not be empty, has shape {shape:?}"))
}

/// Checks that the elements of a tensor are of type `expected`.
pub(super) fn typed(op: &'static str, tensor: &str, dtype: DType, expected: DType) -> Result<()> {
    ensure(dtype == expected, op, || format!("{tensor} must be {expected}, not {dtype}"))
}

/// Checks that the elements of a tensor are floating-point numbers.
pub(super) fn floating(op: &'static str, tensor: &str, dtype: DType) -> Result<()> {
    ensure(dtype.is_floating(), op, || format!("{tensor} must be of a floating type, not {dtype}"))
}

/// Checks that `shape` is `expected`.
pub(super) fn same(op: &'static str, tensor: &str, shape: &[usize], expected: &[usize]) -> Result<()> {
    ensure(shape == expected, op, || format!("{tensor} must have shape {expected:?}, has {shape:?}"))
}

/// A floating tensor with exactly `N` sizes; returns them.
pub(super) fn floats<const N: usize>(op: &'static str, name: &str, tensor: &impl DeviceTensor) -> Result<[usize; N]> {
    let sizes = dims(op, name, tensor.shape())?;
    floating(op, name, tensor.dtype())?;
    Ok(sizes)
}

/// An activation with exactly `N` sizes, which the op changes in place; returns them.
pub(super) fn in_place<const N: usize>(
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

/// Checks that `to` holds as many elements as `shape`.
pub(crate) fn reshaped(shape: &[usize], to: &[usize]) -> Result<()> {
    let count = |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    ensure(count(to).is_some() && count(shape) == count(to), "reshape", || {
        format!("{shape:?} does not hold as many elements as {to:?}")
    })
}

/// A floating matrix on its way to the device; returns its sizes.
pub(super) fn matrix(op: &'static str, name: &str, weight: &Weight<'_>) -> Result<[usize; 2]> {
    let sizes = dims(op, name, weight.shape())?;
    floating(op, name, weight.dtype())?;
    Ok(sizes)
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
        let Err(Error::Shape { verb: named, problem }) = result.map(drop) else { panic!("{op} accepted it") };
        assert_eq!(named, op);
        words.iter().for_each(|words| assert!(problem.contains(words), "{words:?} is not in {problem:?}"));
    }

    #[test]
    fn sizes_and_types_must_match() {
        assert_eq!(dims::<2>("linear", "x", &[3, 4]).unwrap(), [3, 4]);
        rejects(dims::<2>("linear", "x", &[3, 4, 5]), "linear", &["x must have 2 dimensions, has shape [3, 4, 5]"]);
        rejects(dims::<2>("linear", "x", &[3, 0]), "linear", &["x must not be empty, has shape [3, 0]"]);
        same("linear", "the bias", &[3], &[3]).unwrap();
        rejects(same("linear", "the bias", &[3], &[4]), "linear", &["the bias must have shape [4], has [3]"]);
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
    fn reshaping_keeps_the_element_count() {
        reshaped(&[2, 6], &[3, 4]).unwrap();
        reshaped(&[1], &[]).unwrap();
        rejects(reshaped(&[2, 6], &[5]), "reshape", &["[2, 6]", "[5]"]);
        rejects(reshaped(&[2, 6], &[usize::MAX, 2]), "reshape", &["[2, 6]"]);
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
