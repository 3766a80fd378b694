//! Conditions on shapes and element types. Each failure names the op, the tensor, and both sizes.

use crate::error::{Error, Result};
use crate::tensor::DType;

/// Returns the error `op: problem` unless `holds`.
pub(crate) fn ensure(holds: bool, op: &'static str, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::shape(op, problem())) }
}

/// `shape` as exactly `N` nonzero sizes.
pub(crate) fn dims<const N: usize>(op: &'static str, tensor: &str, shape: &[usize]) -> Result<[usize; N]> {
    not_empty(op, tensor, shape)?;
    shape.try_into().map_err(|_| Error::shape(op, format!("{tensor} must have {N} dimensions, has shape {shape:?}")))
}

/// Checks that no size of `shape` is 0.
pub(crate) fn not_empty(op: &'static str, tensor: &str, shape: &[usize]) -> Result<()> {
    ensure(!shape.contains(&0), op, || format!("{tensor} must not be empty, has shape {shape:?}"))
}

/// Checks that `shape` is `expected`.
pub(crate) fn same(op: &'static str, tensor: &str, shape: &[usize], expected: &[usize]) -> Result<()> {
    ensure(shape == expected, op, || format!("{tensor} must have shape {expected:?}, has {shape:?}"))
}

/// Checks that the elements of a tensor are of type `expected`.
pub(crate) fn typed(op: &'static str, tensor: &str, dtype: DType, expected: DType) -> Result<()> {
    ensure(dtype == expected, op, || format!("{tensor} must be {expected}, not {dtype}"))
}

/// Checks that the elements of a tensor are floating-point numbers.
pub(crate) fn floating(op: &'static str, tensor: &str, dtype: DType) -> Result<()> {
    ensure(dtype.is_floating(), op, || format!("{tensor} must be of a floating type, not {dtype}"))
}

/// Checks that `to` has the element count of `shape`.
pub(crate) fn reshaped(shape: &[usize], to: &[usize]) -> Result<()> {
    let count = |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    ensure(count(to).is_some() && count(shape) == count(to), "reshape", || {
        format!("{shape:?} does not hold as many elements as {to:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the error is of `op` and holds all `words`.
    #[track_caller]
    fn rejects<T>(result: Result<T>, op: &str, words: &[&str]) {
        let Err(Error::Shape { op: named, problem }) = result.map(drop) else { panic!("{op} accepted it") };
        assert_eq!(named, op);
        words.iter().for_each(|words| assert!(problem.contains(words), "{words:?} is not in {problem:?}"));
    }

    #[test]
    fn sizes_must_match() {
        assert_eq!(dims::<2>("linear", "x", &[3, 4]).unwrap(), [3, 4]);
        rejects(dims::<2>("linear", "x", &[3, 4, 5]), "linear", &["x must have 2 dimensions, has shape [3, 4, 5]"]);
        rejects(dims::<2>("linear", "x", &[3, 0]), "linear", &["x must not be empty, has shape [3, 0]"]);
        same("linear", "the bias", &[3], &[3]).unwrap();
        rejects(same("linear", "the bias", &[3], &[4]), "linear", &["the bias must have shape [4], has [3]"]);
    }

    #[test]
    fn reshaping_preserves_the_element_count() {
        reshaped(&[2, 6], &[3, 4]).unwrap();
        reshaped(&[1], &[]).unwrap();
        rejects(reshaped(&[2, 6], &[5]), "reshape", &["[2, 6]", "[5]"]);
        rejects(reshaped(&[2, 6], &[usize::MAX, 2]), "reshape", &["[2, 6]"]);
    }
}
