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

/// The largest magnitude of E4M3.
pub(in crate::tensor) const E4M3_MAX: f32 = 448.0;

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

/// The code of the nearest E4M3 value, ties to even. Magnitudes above 448, the largest, become
/// that; NaN stays NaN.
pub(in crate::tensor) fn e4m3_code(value: f32) -> u8 {
    const LARGEST: u32 = 0x7e;
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 24 & 0x80) as u8, bits & 0x7fff_ffff);
    if magnitude > f32::INFINITY.to_bits() {
        return sign | 0x7f;
    }
    let code = if f32::from_bits(magnitude) < 1.0 / 64.0 {
        // Subnormals, in units of 2^-9; eight of them are the smallest normal value.
        (f32::from_bits(magnitude) * 512.0).round_ties_even() as u32
    } else {
        // Drops 20 bits of the mantissa; a carry into the exponent gives the right next value.
        let rounded = magnitude.saturating_add(0x7_ffff + (magnitude >> 20 & 1));
        (rounded >> 20) - (120 << 3)
    };
    sign | code.min(LARGEST) as u8
}

/// Two E2M1 codes a byte, the even element in the high nibble (`comfy_kitchen`'s `hi_first`).
pub(super) fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    for (out, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *out = [E2M1[usize::from(byte >> 4)], E2M1[usize::from(byte & 15)]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_codes_are_of_the_nearest_value() {
        for code in 0..=0x7e_u8 {
            let value = E4M3[usize::from(code)];
            assert_eq!((e4m3_code(value), e4m3_code(-value)), (code, code | 0x80), "{value}");
            if code == 0x7e {
                break;
            }
            let next = E4M3[usize::from(code) + 1];
            let middle = (value + next) / 2.0;
            let even = code + (code & 1);
            let [below, above] = [-1, 1].map(|step| f32::from_bits(middle.to_bits().wrapping_add_signed(step)));
            assert_eq!([below, middle, above].map(e4m3_code), [code, even, code + 1], "between {value} and {next}");
        }
        assert_eq!([449.0, 480.0, 1e30, f32::INFINITY].map(e4m3_code), [0x7e; 4]);
        assert_eq!(e4m3_code(f32::NEG_INFINITY), 0xfe);
        assert_eq!(e4m3_code(f32::NAN) & 0x7f, 0x7f);
    }
}
