//! Quantisers: from values to the blocks of a format.
//!
//! Q8_0 and Q4_0 have the bytes of the Python package `gguf`. That package has no quantiser of the
//! K-quants. Theirs follow the method of ggml's reference quantisers, a search among scales that
//! minimises a weighted squared error; the files of this module have the formulas.
//!
//! The bytes do not depend on the CPU: the candidates of a search are the lanes of a vector, so
//! that every sum has one order for any width of the vectors, and no multiplication is fused with
//! an addition.

mod affine;
mod lanes;
mod legacy;
mod symmetric;

use super::Format;
use half::{bf16, f16};
use pulp::Arch;
use std::fmt;

/// The reason why values have no representation in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unquantizable {
    /// [`Format::quantize`] does not write this format.
    Format(Format),
    /// There is an infinite value or NaN.
    NonFinite,
    /// A value or a scale is too large for the format.
    TooLarge(Format),
}

impl fmt::Display for Unquantizable {
    /// The rest of a sentence that begins with the name of the tensor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => write!(f, "there is no quantiser for {format}"),
            Self::NonFinite => f.write_str("expected finite values, found infinity or NaN"),
            Self::TooLarge(format) => write!(f, "a value is too large for {format}"),
        }
    }
}

impl Format {
    /// The formats that [`Format::quantize`] writes, the most precise first.
    pub const QUANTIZED: [Format; 8] =
        [Format::F32, Format::Bf16, Format::F16, Format::Q8_0, Format::Q6K, Format::Q5K, Format::Q4K, Format::Q4_0];

    /// Writes `values`, whole blocks of one or more rows, to `out`. This runs on the calling
    /// thread; rows are independent.
    ///
    /// # Errors
    /// [`Unquantizable`] for a format outside [`Format::QUANTIZED`], for values that are not
    /// finite, and for values whose scale is too large for an f16. The contents of `out` are then
    /// unspecified.
    ///
    /// # Panics
    /// If `out` is not as long as the blocks of `values`, as [`Format::bytes`] counts them.
    pub fn quantize(self, values: &[f32], out: &mut [u8]) -> Result<(), Unquantizable> {
        assert_eq!(self.bytes(values.len()), Some(out.len()), "the bytes of {} elements of {self}", values.len());
        if !all_finite(values) {
            return Err(Unquantizable::NonFinite);
        }
        let fits = match self {
            Format::F32 => each(values, out, |value| Some(value.to_le_bytes())),
            Format::F16 => each(values, out, |value| half(f16::from_f32(value)).map(f16::to_le_bytes)),
            Format::Bf16 => {
                let rounded = |value| Some(bf16::from_f32(value)).filter(|half| half.is_finite());
                each(values, out, |value| rounded(value).map(bf16::to_le_bytes))
            }
            Format::Q8_0 => each_block(values, out, legacy::q8_0),
            Format::Q4_0 => each_block(values, out, legacy::q4_0),
            Format::Q4K => affine::q4_k(Arch::new(), values, out),
            Format::Q5K => affine::q5_k(Arch::new(), values, out),
            Format::Q6K => symmetric::q6_k(Arch::new(), values, out),
            _ => return Err(Unquantizable::Format(self)),
        };
        fits.ok_or(Unquantizable::TooLarge(self))
    }
}

/// True if no value is infinite or NaN.
fn all_finite(values: &[f32]) -> bool {
    // A maximum of integers is a vector instruction, a search for the first is not.
    let exponents = values.iter().map(|value| value.to_bits() & 0x7f80_0000);
    exponents.fold(0, u32::max) != 0x7f80_0000
}

/// Converts each value by itself; `None` if one has no conversion.
fn each<const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    convert: impl Fn(f32) -> Option<[u8; BYTES]>,
) -> Option<()> {
    for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
        *out = convert(*value)?;
    }
    Some(())
}

/// Quantises whole blocks; `None` if one cannot be.
fn each_block<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; ELEMENTS], &mut [u8; BYTES]) -> Option<()>,
) -> Option<()> {
    let mut blocks = values.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    blocks.try_for_each(|(values, out)| quantize(values, out))
}

/// A scale as it is stored; `None` if it is too large.
fn scale(value: f32) -> Option<f16> {
    half(f16::from_f32(value))
}

fn half(half: f16) -> Option<f16> {
    half.is_finite().then_some(half)
}

#[cfg(test)]
mod tests;
