//! The difference ΔW of a weight, before scale and strength.

use super::matrix::{Matrix, OpenProduct, Product, Size};
use crate::error::Result;
use crate::reserve;

/// A difference ΔW of a matrix `[rows, columns]`.
#[derive(Debug)]
pub(super) enum Delta {
    /// LoRA: B·A, with the core of a decomposed convolution between them.
    LowRank(Product),
    /// LoHa: (W₁ₐ·W₁ᵦ) ⊙ (W₂ₐ·W₂ᵦ).
    Hadamard(Box<[Product; 2]>),
    /// LoKr: W₁ ⊗ W₂.
    Kronecker(Side, Side),
    /// The difference itself.
    Full(Matrix),
}

/// A matrix of a Kronecker product.
#[derive(Debug)]
pub(super) enum Side {
    Whole(Matrix),
    Decomposed(Box<Product>),
}

impl Side {
    fn size(&self) -> Size {
        match self {
            Side::Whole(matrix) => matrix.size,
            Side::Decomposed(product) => product.size(),
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Side::Whole(_) => None,
            Side::Decomposed(product) => Some(product.rank()),
        }
    }

    fn values(&self) -> Result<Vec<f32>> {
        match self {
            Side::Whole(matrix) => matrix.values(),
            Side::Decomposed(product) => product.open()?.whole(product.size().0),
        }
    }
}

impl Delta {
    /// Rows and columns; `None` if they overflow.
    pub(super) fn size(&self) -> Option<Size> {
        match self {
            Delta::LowRank(product) => Some(product.size()),
            Delta::Hadamard(products) => Some(products[0].size()),
            Delta::Kronecker(outer, inner) => {
                let (outer, inner) = (outer.size(), inner.size());
                Some((outer.0.checked_mul(inner.0)?, outer.1.checked_mul(inner.1)?))
            }
            Delta::Full(matrix) => Some(matrix.size),
        }
    }

    /// The ranks of all decompositions. A difference without any ignores alpha: the scale of a
    /// LoKr file with whole matrices is 1, and its alpha a placeholder of up to 10¹⁰ or infinity
    /// (ai-toolkit, LyCORIS).
    pub(super) fn ranks(&self) -> Vec<usize> {
        match self {
            Delta::LowRank(product) => vec![product.rank()],
            Delta::Hadamard(products) => products.iter().map(Product::rank).collect(),
            Delta::Kronecker(outer, inner) => outer.rank().into_iter().chain(inner.rank()).collect(),
            Delta::Full(_) => Vec::new(),
        }
    }

    /// Reads the small matrices, and multiplies those that are needed whole.
    pub(super) fn open(&self) -> Result<OpenDelta<'_>> {
        Ok(match self {
            Delta::LowRank(product) => OpenDelta::LowRank(product.open()?),
            Delta::Hadamard(products) => OpenDelta::Hadamard(products[0].open()?, products[1].open()?),
            Delta::Kronecker(outer, inner) => OpenDelta::Kronecker {
                outer: outer.values()?,
                outer_columns: outer.size().1,
                inner: inner.values()?,
                inner_size: inner.size(),
            },
            Delta::Full(matrix) => OpenDelta::Full(matrix),
        })
    }
}

/// A difference that is ready to be added.
#[derive(Debug)]
pub(super) enum OpenDelta<'a> {
    LowRank(OpenProduct<'a>),
    Hadamard(OpenProduct<'a>, OpenProduct<'a>),
    Kronecker { outer: Vec<f32>, outer_columns: usize, inner: Vec<f32>, inner_size: Size },
    Full(&'a Matrix),
}

impl OpenDelta<'_> {
    /// Adds ΔW times `scale` to `out`: as many rows of `columns` as it has, from `first` on.
    pub(super) fn add(&self, first: usize, out: &mut [f32], columns: usize, scale: f32) -> Result<()> {
        match self {
            OpenDelta::LowRank(product) => product.add(first, out, scale)?,
            OpenDelta::Hadamard(one, other) => {
                let mut left = reserve::zeros(out.len(), "a LoRA")?;
                let mut right = reserve::zeros(out.len(), "a LoRA")?;
                one.add(first, &mut left, 1.0)?;
                other.add(first, &mut right, 1.0)?;
                for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
                    *out += scale * (left * right);
                }
            }
            OpenDelta::Kronecker { outer, outer_columns, inner, inner_size: (inner_rows, inner_columns) } => {
                for (row, out) in (first..).zip(out.chunks_exact_mut(columns)) {
                    let outer = &outer[row / inner_rows * outer_columns..];
                    let inner = &inner[row % inner_rows * inner_columns..][..*inner_columns];
                    for (out, outer) in out.chunks_exact_mut(*inner_columns).zip(outer) {
                        let scale = scale * outer;
                        out.iter_mut().zip(inner).for_each(|(out, inner)| *out += scale * inner);
                    }
                }
            }
            OpenDelta::Full(matrix) => {
                let mut difference = reserve::zeros(out.len(), "a LoRA")?;
                matrix.read(first * columns, &mut difference);
                out.iter_mut().zip(difference).for_each(|(out, difference): (_, f32)| *out += scale * difference);
            }
        }
        Ok(())
    }
}
