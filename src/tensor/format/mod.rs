//! Storage formats: the layouts that the elements of a matrix have in a file, each defined once.
//!
//! A format stores its elements in blocks of a fixed number of bytes. ggml's quantised formats
//! (Q4_0 … NVFP4) keep the scales inside the block. The formats of safetensors (F8_E4M3, I8, NVFP4)
//! have no scale of their own: a file may hold scales beside the matrix.
//!
//! Sources: ggml's `ggml-common.h` for the layouts, and the Python package `gguf` for the order of
//! the float32 operations, so that every value has the bits that `gguf.dequantize` computes.

mod float8;
mod fp4;
mod grids;
mod iq;
mod k_quants;
mod legacy;
mod quantize;
mod ternary;

pub(in crate::tensor) use float8::{E4M3, E4M3_MAX, e4m3_code, e8m0};
pub use quantize::Unquantizable;

use super::{DType, widen};
use half::f16;
use std::fmt;

/// The layout of a matrix's elements in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// A float with 4 exponent and 3 mantissa bits, without infinities (`float8_e4m3fn`).
    F8E4m3,
    /// A float with 5 exponent and 2 mantissa bits (`float8_e5m2`).
    F8E5m2,
    /// Signed bytes.
    I8,
    /// ComfyUI's 4-bit floats: two E2M1 codes a byte, the even column in the high nibble. The
    /// scales are separate tensors.
    Nvfp4,
    /// ggml's blocks of 32 4-bit integers with an f16 scale.
    Q4_0,
    /// ggml's blocks of 32 4-bit integers with an f16 scale and an f16 minimum.
    Q4_1,
    /// ggml's blocks of 32 5-bit integers with an f16 scale.
    Q5_0,
    /// ggml's blocks of 32 5-bit integers with an f16 scale and an f16 minimum.
    Q5_1,
    /// ggml's blocks of 32 bytes with an f16 scale.
    Q8_0,
    /// ggml's super-blocks of 256 2-bit integers.
    Q2K,
    /// ggml's super-blocks of 256 3-bit integers.
    Q3K,
    /// ggml's super-blocks of 256 4-bit integers.
    Q4K,
    /// ggml's super-blocks of 256 5-bit integers.
    Q5K,
    /// ggml's super-blocks of 256 6-bit integers.
    Q6K,
    /// ggml's blocks of 32 4-bit codes of a table, with an f16 scale.
    Iq4Nl,
    /// ggml's super-blocks of 256 4-bit codes of a table.
    Iq4Xs,
    /// ggml's super-blocks of 256 elements from a grid of 2048 ternary vectors, 1.5625 bits each.
    Iq1S,
    /// The grid of [`Format::Iq1S`] with finer scales, 1.75 bits an element.
    Iq1M,
    /// ggml's super-blocks of 256 elements from a grid of 256 vectors, 2.0625 bits each.
    Iq2Xxs,
    /// ggml's super-blocks of 256 elements from a grid of 512 vectors, 2.3125 bits each.
    Iq2Xs,
    /// ggml's super-blocks of 256 elements from a grid of 1024 vectors, 2.5625 bits each.
    Iq2S,
    /// ggml's super-blocks of 256 elements from a grid of 256 vectors, 3.0625 bits each.
    Iq3Xxs,
    /// ggml's super-blocks of 256 elements from a grid of 512 vectors, 3.4375 bits each.
    Iq3S,
    /// ggml's super-blocks of 256 ternary digits, five a byte.
    Tq1_0,
    /// ggml's super-blocks of 256 ternary digits, four a byte.
    Tq2_0,
    /// ggml's blocks of 32 E2M1 codes with an E8M0 scale (OCP MXFP4).
    Mxfp4,
    /// ggml's blocks of 64 E2M1 codes with four UE4M3 scales. It holds its scales, as
    /// [`Format::Nvfp4`] does not.
    GgmlNvfp4,
}

/// The smallest number of elements that a format stores, and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

/// The types of ggml by their id in a GGUF file, from `enum ggml_type` of `ggml.h`. A type without
/// a [`Format`] is known by name only.
const GGML: &[(u32, &str, Option<Format>)] = &[
    (0, "F32", Some(Format::F32)),
    (1, "F16", Some(Format::F16)),
    (2, "Q4_0", Some(Format::Q4_0)),
    (3, "Q4_1", Some(Format::Q4_1)),
    (4, "Q4_2", None),
    (5, "Q4_3", None),
    (6, "Q5_0", Some(Format::Q5_0)),
    (7, "Q5_1", Some(Format::Q5_1)),
    (8, "Q8_0", Some(Format::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Format::Q2K)),
    (11, "Q3_K", Some(Format::Q3K)),
    (12, "Q4_K", Some(Format::Q4K)),
    (13, "Q5_K", Some(Format::Q5K)),
    (14, "Q6_K", Some(Format::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", Some(Format::Iq2Xxs)),
    (17, "IQ2_XS", Some(Format::Iq2Xs)),
    (18, "IQ3_XXS", Some(Format::Iq3Xxs)),
    (19, "IQ1_S", Some(Format::Iq1S)),
    (20, "IQ4_NL", Some(Format::Iq4Nl)),
    (21, "IQ3_S", Some(Format::Iq3S)),
    (22, "IQ2_S", Some(Format::Iq2S)),
    (23, "IQ4_XS", Some(Format::Iq4Xs)),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", Some(Format::Iq1M)),
    (30, "BF16", Some(Format::Bf16)),
    (31, "Q4_0_4_4", None),
    (32, "Q4_0_4_8", None),
    (33, "Q4_0_8_8", None),
    (34, "TQ1_0", Some(Format::Tq1_0)),
    (35, "TQ2_0", Some(Format::Tq2_0)),
    (36, "IQ4_NL_4_4", None),
    (37, "IQ4_NL_4_8", None),
    (38, "IQ4_NL_8_8", None),
    (39, "MXFP4", Some(Format::Mxfp4)),
    (40, "NVFP4", Some(Format::GgmlNvfp4)),
    (41, "Q1_0", None),
];

impl Format {
    /// The format that stores elements of a floating type; `None` for integers.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::Bf16 => Some(Format::Bf16),
            DType::U32 | DType::U8 => None,
        }
    }

    /// Every format.
    pub const ALL: [Format; 30] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::F8E4m3,
        Format::F8E5m2,
        Format::I8,
        Format::Nvfp4,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq4Nl,
        Format::Iq4Xs,
        Format::Iq1S,
        Format::Iq1M,
        Format::Iq2Xxs,
        Format::Iq2Xs,
        Format::Iq2S,
        Format::Iq3Xxs,
        Format::Iq3S,
        Format::Tq1_0,
        Format::Tq2_0,
        Format::Mxfp4,
        Format::GgmlNvfp4,
    ];

    /// The format's block.
    pub fn block(self) -> Block {
        let (elements, bytes) = match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::Bf16 => (1, 2),
            Format::F8E4m3 | Format::F8E5m2 | Format::I8 => (1, 1),
            Format::Nvfp4 => (2, 1),
            Format::Q4_0 | Format::Iq4Nl => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q8_0 => (32, 34),
            Format::Mxfp4 => (32, 17),
            Format::GgmlNvfp4 => (64, 36),
            Format::Q2K => (256, 84),
            Format::Q3K | Format::Iq3S => (256, 110),
            Format::Q4K => (256, 144),
            Format::Q5K => (256, 176),
            Format::Q6K => (256, 210),
            Format::Iq4Xs => (256, 136),
            Format::Iq1S => (256, 50),
            Format::Iq1M => (256, 56),
            Format::Iq2Xxs | Format::Tq2_0 => (256, 66),
            Format::Iq2Xs => (256, 74),
            Format::Iq2S => (256, 82),
            Format::Iq3Xxs => (256, 98),
            Format::Tq1_0 => (256, 54),
        };
        Block { elements, bytes }
    }

    /// Bytes of `elements` elements; `None` when they are not whole blocks, or more bytes than a
    /// `usize` counts.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let block = self.block();
        (elements.is_multiple_of(block.elements)).then(|| (elements / block.elements).checked_mul(block.bytes))?
    }

    /// The offsets of the F16 scales in a block, and the largest multiple of each in a value, for
    /// some formats.
    pub(crate) fn f16_scales(self) -> &'static [(usize, f32)] {
        match self {
            Format::Q4_0 => &[(0, 8.0)],
            Format::Q8_0 => &[(0, 128.0)],
            Format::Q5_1 => &[(0, 31.0), (2, 1.0)],
            Format::Q4K => &[(0, 63.0 * 15.0), (2, 63.0)],
            Format::Q5K => &[(0, 63.0 * 31.0), (2, 63.0)],
            Format::Q6K => &[(208, 128.0 * 32.0)],
            _ => &[],
        }
    }

    /// Writes the elements stored in `bytes` to `out`, with the bits that `gguf.dequantize`
    /// computes. A format without scales of its own gives its unscaled values.
    ///
    /// # Panics
    /// If `bytes` are not those of `out.len()` elements, as [`Format::bytes`] counts them.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.bytes(out.len()), Some(bytes.len()), "the bytes of {} elements of {self}", out.len());
        match self {
            Format::F32 => widen(DType::F32, bytes, out),
            Format::F16 => widen(DType::F16, bytes, out),
            Format::Bf16 => widen(DType::Bf16, bytes, out),
            Format::F8E4m3 => each(bytes, out, |&code| E4M3[usize::from(code)]),
            Format::F8E5m2 => each(bytes, out, |&code| float8::E5M2[usize::from(code)]),
            Format::I8 => each(bytes, out, |&byte| f32::from(byte as i8)),
            Format::Nvfp4 => float8::nvfp4(bytes, out),
            Format::Q4_0 => each_block(bytes, out, legacy::q4_0),
            Format::Q4_1 => each_block(bytes, out, legacy::q4_1),
            Format::Q5_0 => each_block(bytes, out, legacy::q5_0),
            Format::Q5_1 => each_block(bytes, out, legacy::q5_1),
            Format::Q8_0 => each_block(bytes, out, legacy::q8_0),
            Format::Q2K => each_block(bytes, out, k_quants::q2_k),
            Format::Q3K => each_block(bytes, out, k_quants::q3_k),
            Format::Q4K => each_block(bytes, out, k_quants::q4_k),
            Format::Q5K => each_block(bytes, out, k_quants::q5_k),
            Format::Q6K => each_block(bytes, out, k_quants::q6_k),
            Format::Iq4Nl => each_block(bytes, out, iq::iq4_nl),
            Format::Iq4Xs => each_block(bytes, out, iq::iq4_xs),
            Format::Iq1S => each_block(bytes, out, iq::iq1_s),
            Format::Iq1M => each_block(bytes, out, iq::iq1_m),
            Format::Iq2Xxs => each_block(bytes, out, iq::iq2_xxs),
            Format::Iq2Xs => each_block(bytes, out, iq::iq2_xs),
            Format::Iq2S => each_block(bytes, out, iq::iq2_s),
            Format::Iq3Xxs => each_block(bytes, out, iq::iq3_xxs),
            Format::Iq3S => each_block(bytes, out, iq::iq3_s),
            Format::Tq1_0 => each_block(bytes, out, ternary::tq1_0),
            Format::Tq2_0 => each_block(bytes, out, ternary::tq2_0),
            Format::Mxfp4 => each_block(bytes, out, fp4::mxfp4),
            Format::GgmlNvfp4 => each_block(bytes, out, fp4::nvfp4),
        }
    }

    /// The narrowest type that holds every value of [`Format::dequantize`] exactly. It does not
    /// count the scales that a file holds beside the matrix.
    pub fn exact_dtype(self) -> DType {
        match self {
            Format::F16 | Format::Tq1_0 => DType::F16,
            // Each has at most 8 significant bits, and an exponent within that of F32.
            Format::Bf16 | Format::F8E4m3 | Format::F8E5m2 | Format::I8 => DType::Bf16,
            Format::Nvfp4 | Format::Mxfp4 | Format::GgmlNvfp4 => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// The format of a tensor in a GGUF file by its type's id; `None` for types that this crate
    /// does not read, which [`Format::ggml_name`] names.
    pub fn from_ggml(id: u32) -> Option<Format> {
        ggml(id)?.2
    }

    /// The id of the format in a GGUF file; `None` for the formats of safetensors.
    pub fn ggml_type(self) -> Option<u32> {
        GGML.iter().find(|(.., format)| *format == Some(self)).map(|(id, ..)| *id)
    }

    /// The name of a GGUF file's type, whether or not this crate reads it; `None` for an id that
    /// ggml does not have.
    pub fn ggml_name(id: u32) -> Option<&'static str> {
        Some(ggml(id)?.1)
    }
}

/// Dequantises whole blocks.
fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        dequantize(block, out);
    }
}

/// Converts elements of one byte.
fn each(bytes: &[u8], out: &mut [f32], value: impl Fn(&u8) -> f32) {
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = value(byte);
    }
}

/// The F16 at `offset`, as f32.
fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_bits(u16_at(block, offset)).to_f32()
}

/// The little-endian word of 16 bits at `offset`.
fn u16_at(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

/// The little-endian word of 32 bits at `offset`.
fn u32_at(block: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([block[offset], block[offset + 1], block[offset + 2], block[offset + 3]])
}

/// The entry of [`GGML`] with this id.
fn ggml(id: u32) -> Option<&'static (u32, &'static str, Option<Format>)> {
    GGML.iter().find(|(other, ..)| *other == id)
}

impl fmt::Display for Format {
    /// The name that GGUF and safetensors files give the format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::F8E4m3 => "F8_E4M3",
            Format::F8E5m2 => "F8_E5M2",
            Format::I8 => "I8",
            Format::Nvfp4 => "NVFP4",
            _ => GGML.iter().find(|(.., format)| *format == Some(*self)).expect("a type of ggml").1,
        })
    }
}

#[cfg(test)]
mod tests;
