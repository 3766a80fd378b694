//! Conditions on tensors, for the checks of the ops. Each failure names the op, the tensor, and
//! both sizes.

pub(super) use super::super::shape::{dims, ensure, floating, not_empty, same, typed};
use super::{DeviceTensor, DeviceWeight, Fp8Form};
use crate::error::{Error, Result};
use crate::tensor::{Compute, DType, FP8_BLOCK, FP8_VECTOR, HostTensor, Weight};

/// Checks that a tensor is not in FP8, which only the ops for its form read.
fn not_fp8(op: &'static str, name: &str, tensor: &impl DeviceTensor) -> Result<()> {
    ensure(tensor.compute() == Compute::Native, op, || format!("{name} must not be in FP8"))
}

/// A floating tensor with exactly `N` sizes; returns them.
pub(super) fn floats<const N: usize>(op: &'static str, name: &str, tensor: &impl DeviceTensor) -> Result<[usize; N]> {
    let sizes = dims(op, name, tensor.shape())?;
    not_fp8(op, name, tensor)?;
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
    not_fp8(op, name, tensor)?;
    let dtype = tensor.dtype();
    ensure(dtype == activation, op, || format!("{name} must be an activation, not {dtype}"))?;
    Ok(sizes)
}

/// A floating vector `[n]`: a token, or the weight of a norm.
pub(super) fn vector(op: &'static str, name: &str, tensor: &impl DeviceTensor, n: usize) -> Result<()> {
    same(op, name, tensor.shape(), &[n])?;
    not_fp8(op, name, tensor)?;
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
    not_fp8(op, name, tensor)?;
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

/// The operand `x` of a gemm with the matrix `w`: both are in FP8, or `x` is floating.
pub(super) fn operand(op: &'static str, x: &impl DeviceTensor, w: &impl DeviceWeight<2>) -> Result<()> {
    match w.compute() {
        Compute::Native => not_fp8(op, "x", x).and_then(|()| floating(op, "x", x.dtype())),
        Compute::Fp8 => match x.fp8() {
            Some(Fp8Form::Operand) => Ok(()),
            Some(Fp8Form::Projection { .. }) => Err(Error::shape(op, "x must not be a fused projection in FP8")),
            None => Err(Error::shape(op, "x must be in FP8, as the matrix is")),
        },
    }
}

/// A fused projection, floating or in FP8; returns its sizes and, in FP8, the columns of queries
/// and of keys.
pub(super) fn projection(op: &'static str, qkv: &impl DeviceTensor) -> Result<([usize; 3], Option<[usize; 2]>)> {
    let name = "the fused projection";
    match qkv.fp8() {
        None => Ok((floats(op, name, qkv)?, None)),
        Some(Fp8Form::Projection { queries, keys }) => Ok((dims(op, name, qkv.shape())?, Some([queries, keys]))),
        Some(Fp8Form::Operand) => Err(Error::shape(op, format!("{name} must not be the FP8 operand of a gemm"))),
    }
}

/// Checks that heads in FP8 have the one width that they may have.
fn fp8_heads(op: &'static str, dim: usize) -> Result<()> {
    ensure(dim == FP8_BLOCK, op, || format!("heads in FP8 must be {FP8_BLOCK} wide, not {dim}"))
}

/// Checks that a projection in FP8 with these columns of queries and of keys has heads of `dim`, so
/// many of each.
pub(super) fn projected_heads(op: &'static str, columns: [usize; 2], heads: [usize; 2], dim: usize) -> Result<()> {
    ensure(columns == heads.map(|count| count * dim), op, || {
        let ([queries, keys], [query, key]) = (columns, heads);
        format!("{queries} columns of queries and {keys} of keys in FP8 are not {query} and {key} heads of {dim}")
    })?;
    fp8_heads(op, dim)
}

/// A matrix whose operands are not in FP8; returns its sizes.
pub(super) fn native(op: &'static str, name: &str, w: &impl DeviceWeight<2>) -> Result<[usize; 2]> {
    ensure(w.compute() == Compute::Native, op, || format!("{name} must not be computed in FP8"))?;
    Ok(w.dims())
}

/// Checks that an op may write rows of `width` as operands of this type. `computes_fp8`: the
/// backend's [`Runtime::computes_fp8`](super::Runtime::computes_fp8).
pub(super) fn output(op: &'static str, compute: Compute, computes_fp8: bool, width: usize) -> Result<()> {
    if compute == Compute::Native {
        return Ok(());
    }
    ensure(computes_fp8, op, || "the backend multiplies no FP8 operands".into())?;
    ensure(width.is_multiple_of(FP8_VECTOR), op, || {
        format!("rows of FP8 must be a multiple of {FP8_VECTOR} wide, not {width}")
    })
}

/// Checks that an op may write heads, `dim` wide, as operands of this type.
pub(super) fn heads_output(op: &'static str, compute: Compute, computes_fp8: bool, dim: usize) -> Result<()> {
    output(op, compute, computes_fp8, dim)?;
    if compute == Compute::Native { Ok(()) } else { fp8_heads(op, dim) }
}

/// Checks that the matrices of one upload have one type of operands, which the backend multiplies;
/// returns it.
pub(super) fn computes(op: &'static str, parts: &[&Weight<'_>], computes_fp8: bool) -> Result<Compute> {
    let compute = parts.first().map_or(Compute::Native, |part| part.compute());
    for (i, part) in parts.iter().enumerate() {
        let found = part.compute();
        ensure(found == compute, op, || format!("matrix {i} is computed in {found}, the first in {compute}"))?;
        output(op, compute, computes_fp8, part.shape()[1])?;
        ensure(compute == Compute::Native || part.fp8_scales().is_some(), op, || {
            format!("matrix {i} is computed in FP8 but not stored in E4M3 with a scale a row")
        })?;
    }
    Ok(compute)
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
    use crate::tensor::{Format, Storage};

    /// A tensor without memory: shape, type, and an identity for aliasing.
    #[derive(Debug, Clone)]
    pub(in super::super) struct Fake {
        shape: Vec<usize>,
        dtype: DType,
        memory: usize,
        fp8: Option<Fp8Form>,
    }

    impl DeviceTensor for Fake {
        fn shape(&self) -> &[usize] {
            &self.shape
        }

        fn dtype(&self) -> DType {
            self.dtype
        }

        fn fp8(&self) -> Option<Fp8Form> {
            self.fp8
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
            let memory = NEXT.fetch_add(1, Ordering::Relaxed);
            Self { shape: shape.to_vec(), dtype, memory, fp8: None }
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

    /// An FP8 operand.
    pub(in super::super) fn fp8s(shape: &[usize]) -> Fake {
        Fake { fp8: Some(Fp8Form::Operand), ..Fake::new(DType::U8, shape) }
    }

    /// A fused projection in FP8 with so many columns of queries and of keys.
    pub(in super::super) fn fp8_projection(shape: &[usize], [queries, keys]: [usize; 2]) -> Fake {
        Fake { fp8: Some(Fp8Form::Projection { queries, keys }), ..Fake::new(DType::U8, shape) }
    }

    /// The sizes of a matrix or a kernel without memory.
    #[derive(Debug)]
    pub(in super::super) struct Sizes<const N: usize>(pub(in super::super) [usize; N]);

    /// The sizes of a matrix in FP8.
    #[derive(Debug)]
    pub(in super::super) struct Fp8Sizes(pub(in super::super) [usize; 2]);

    impl DeviceWeight<2> for Fp8Sizes {
        fn dims(&self) -> [usize; 2] {
            self.0
        }

        fn compute(&self) -> Compute {
            Compute::Fp8
        }
    }

    impl<const N: usize> DeviceWeight<N> for Sizes<N> {
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
    fn only_fp8_gemms_read_fp8() {
        let x = fp8s(&[1, 2, 16]);
        let message = &["x must not be in FP8"];
        rejects(floats::<3>("attention", "x", &x), "attention", message);
        rejects(activation::<3>("residual", "x", &x, DType::F32), "residual", message);
        rejects(exactly::<3>("normalize_rgb8", "x", &x, DType::U8), "normalize_rgb8", message);
        rejects(vector("rms_norm", "x", &fp8s(&[16]), 16), "rms_norm", message);
        rejects(x.reshaped(&[1, 4, 8]), "reshape", &["FP8", "last dimension"]);
        x.reshaped(&[2, 16]).unwrap();
        let projection = fp8_projection(&[1, 2, 16], [4, 6]);
        rejects(projection.reshaped(&[2, 1, 16]), "reshape", &["a projection in FP8 keeps its shape"]);
        projection.reshaped(&[1, 2, 16]).unwrap();
        rejects(floats::<3>("residual", "x", &projection), "residual", message);
        let gemm = |x| operand("linear", x, &Fp8Sizes([3, 16]));
        gemm(&x).unwrap();
        rejects(gemm(&projection), "linear", &["x must not be a fused projection"]);
        rejects(gemm(&f32s(&[1, 2, 16])), "linear", &["x must be in FP8, as the matrix is"]);
    }

    #[test]
    fn a_projection_in_fp8_has_the_heads_of_its_columns() {
        let op = "attention";
        let wide = [1, 2, 768];
        assert_eq!(projection(op, &f32s(&wide)).unwrap(), (wide, None));
        assert_eq!(projection(op, &fp8_projection(&wide, [256, 256])).unwrap(), (wide, Some([256, 256])));
        rejects(projection(op, &fp8s(&wide)), op, &["must not be the FP8 operand of a gemm"]);
        projected_heads(op, [256, 256], [2, 2], 128).unwrap();
        let other = projected_heads(op, [512, 128], [2, 2], 128);
        rejects(other, op, &["512 columns of queries and 128 of keys in FP8 are not 2 and 2 heads of 128"]);
        rejects(projected_heads(op, [256, 256], [4, 4], 64), op, &["must be 128 wide, not 64"]);
    }

    #[test]
    fn fp8_needs_a_backend_and_whole_vectors() {
        output("rms_norm", Compute::Native, false, 5).unwrap();
        output("rms_norm", Compute::Fp8, true, 48).unwrap();
        rejects(output("rms_norm", Compute::Fp8, false, 48), "rms_norm", &["the backend multiplies no FP8 operands"]);
        rejects(output("rms_norm", Compute::Fp8, true, 40), "rms_norm", &["a multiple of 16 wide, not 40"]);
        heads_output("attention", Compute::Fp8, true, 128).unwrap();
        heads_output("attention", Compute::Native, true, 64).unwrap();
        rejects(heads_output("attention", Compute::Fp8, true, 64), "attention", &["must be 128 wide, not 64"]);
    }

    #[test]
    fn matrices_of_one_upload_have_one_type_of_operands() {
        let matrix = |width: usize, format: Format| {
            let bytes = vec![0; 3 * format.bytes(width).unwrap()];
            Weight::quantized(Storage::Plain(format), &[3, width], bytes.into()).unwrap()
        };
        let fp8 = |width, format| matrix(width, format).computed_in(Compute::Fp8);
        let op = "upload_linear";
        let [native, other, wrong] = [matrix(32, Format::F8E4m3), fp8(32, Format::F8E4m3), fp8(32, Format::Q8_0)];
        assert_eq!(computes(op, &[&native, &native], false).unwrap(), Compute::Native);
        assert_eq!(computes(op, &[&other, &other], true).unwrap(), Compute::Fp8);
        rejects(computes(op, &[&other, &native], true), op, &["matrix 1", "the first in FP8"]);
        rejects(computes(op, &[&other], false), op, &["no FP8 operands"]);
        rejects(computes(op, &[&wrong], true), op, &["matrix 0", "not stored in E4M3"]);
        rejects(computes(op, &[&fp8(40, Format::F8E4m3)], true), op, &["not 40"]);
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
