//! ggml's blocks of E2M1 codes with 8-bit scales. The table of the codes is doubled, and each scale
//! halved in turn, so that the table has integers.
//!
//! | format | bytes in order | value |
//! | --- | --- | --- |
//! | MXFP4 | an E8M0 scale 1, `qs` 16 | 2^(scale − 128)·table\[q\] |
//! | NVFP4 | 4 UE4M3 scales, `qs` 4·8 | scale/2·table\[q\], groups of 16 |
//!
//! Byte `i` of `qs` holds element `i` in its low nibble, and in its high nibble the element half a
//! block (MXFP4) or half a group (NVFP4) later.

use super::float8::E4M3;
use super::legacy::nibbles;

/// Twice the value of each E2M1 code. The zero has one sign.
const DOUBLED: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// The elements of a block of MXFP4.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // 2^-128 and 2^-127 are subnormal.
    let scale = match block[0] {
        code @ 0..2 => f32::from_bits(0x0020_0000 << code),
        code => f32::from_bits(u32::from(code - 1) << 23),
    };
    nibbles(&block[1..], out, |q, _| scale * DOUBLED[usize::from(q)]);
}

/// The elements of a block of ggml's NVFP4. Its scales are E4M3 without a sign: code 0x7F is zero,
/// and the sign bit is ignored.
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, qs) = block.split_at(4);
    let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(qs.as_chunks::<8>().0);
    for ((out, qs), &code) in groups.zip(scales) {
        let scale = match code {
            0x7f => 0.0,
            // Only this code differs from the E4M3 of safetensors, where it is NaN.
            0xff => 240.0,
            code => E4M3[usize::from(code & 0x7f)] * 0.5,
        };
        let (low, high) = out.split_at_mut(8);
        for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
            *low = scale * DOUBLED[usize::from(q & 15)];
            *high = scale * DOUBLED[usize::from(q >> 4)];
        }
    }
}
