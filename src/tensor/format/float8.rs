//! Floats of 8 and 4 bits, of the OCP's specifications OFP8 and MX.
//!
//! | format | sign, exponent, mantissa bits | bias | infinities | NaN |
//! | --- | --- | --- | --- | --- |
//! | E4M3 (`float8_e4m3fn`) | 1, 4, 3 | 7 | none | 0x7F, 0xFF |
//! | E5M2 (`float8_e5m2`) | 1, 5, 2 | 15 | 0x7C, 0xFC | the codes above them |
//! | E2M1 | 1, 2, 1 | 1 | none | none |
//! | E8M0, a scale without zero | 0, 8, 0 | 127 | none | 0xFF |
//!
//! A value is ±2^(exponent − bias)·(1 + mantissa), or ±2^(1 − bias)·mantissa if the exponent is 0.

use half::f16;

/// The value of each E4M3 code.
pub(in crate::tensor) static E4M3: [f32; 256] = e4m3();

/// The value of each E5M2 code.
pub(super) static E5M2: [f32; 256] = e5m2();

/// The value of each E2M1 code.
static E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Exponents are biased by 7, and the unit of the subnormals is 2^-9.
const fn e4m3() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, code & 7);
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            // F32 has a bias of 127, and 23 bits of mantissa.
            _ => f32::from_bits(((exponent + 120) << 23 | mantissa << 20) as u32),
        };
        values[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    values
}

/// A code is the upper half of an F16.
const fn e5m2() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = f16::from_bits((code as u16) << 8).to_f32_const();
        code += 1;
    }
    values
}

/// The value of an E8M0 code as `comfy_kitchen` reads it: 2^(code − 127), except that code 0 is
/// zero and code 255 infinite. The specification has 2^-127 and NaN there.
pub(in crate::tensor) fn e8m0(code: u8) -> f32 {
    f32::from_bits(u32::from(code) << 23)
}

/// Two E2M1 codes a byte, the even element in the high nibble (`comfy_kitchen`'s `hi_first`).
pub(super) fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    for (out, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *out = [E2M1[usize::from(byte >> 4)], E2M1[usize::from(byte & 15)]];
    }
}
