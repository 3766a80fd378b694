//! Q8_0 and Q4_0, with the arithmetic of `gguf.quants`.

use super::scale;

/// A block of Q8_0: d = max |x| / 127 and q = x / d, rounded half away from zero.
pub(super) fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) -> Option<()> {
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let d = largest / 127.0;
    let inverse = inverse(d);
    let (head, codes) = out.split_at_mut(2);
    head.copy_from_slice(&scale(d)?.to_le_bytes());
    for (code, value) in codes.iter_mut().zip(values) {
        let scaled = value * inverse;
        // Adding a half to the magnitude first would round the number before it up.
        let whole = scaled.abs() as i32;
        let rounded = whole + i32::from(scaled.abs() - whole as f32 >= 0.5);
        *code = (if scaled < 0.0 { -rounded } else { rounded }) as u8;
    }
    Some(())
}

/// A block of Q4_0: d = x / −8 for the first x of the largest magnitude, and q = ⌊x / d + 8.5⌋ up
/// to 15. The sum is one of float64, as in ggml with a fused multiplication.
pub(super) fn q4_0(values: &[f32; 32], out: &mut [u8; 18]) -> Option<()> {
    let larger = |largest: f32, &value: &f32| if value.abs() > largest.abs() { value } else { largest };
    let d = values.iter().fold(values[0], larger) / -8.0;
    let inverse = f64::from(inverse(d));
    let (head, codes) = out.split_at_mut(2);
    head.copy_from_slice(&scale(d)?.to_le_bytes());
    let code = |value: f32| (f64::from(value) * inverse + 8.5).min(15.0) as u8;
    let (low, high) = values.split_at(16);
    for ((byte, &low), &high) in codes.iter_mut().zip(low).zip(high) {
        *byte = code(low) | code(high) << 4;
    }
    Some(())
}

/// 1 / d; 0 for a d of 0, and for one so small that its inverse is infinite.
fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}
