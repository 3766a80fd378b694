// F16 as bits. The rounding of WGSL's own conversions, and their treatment of NaN and subnormals,
// is up to the driver.

#import shared/math

const INFINITY: u32 = 0x7f800000u;

// The bits of an F16 as those of an F32.
fn widened(f16_bits: u32) -> u32 {
    let sign = (f16_bits & 0x8000u) << 16u;
    let magnitude = f16_bits & 0x7fffu;
    if (magnitude < 0x0400u) {
        return sign | bitcast<u32>(f32(magnitude) * exp2_of(-24));
    }
    if (magnitude >= 0x7c00u) {
        return sign | INFINITY | ((magnitude & 0x03ffu) << 13u);
    }
    return sign | ((magnitude << 13u) + (112u << 23u));
}

// The F16 nearest to the F32 of these bits times `factor`, a power of two; ties to even.
fn narrowed(bits: u32, factor: f32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let given = bits & 0x7fffffffu;
    if (given >= INFINITY) {
        return sign | select(0x7c00u, 0x7e00u, given > INFINITY);
    }
    let scaled = bitcast<f32>(given) * factor;
    let magnitude = bitcast<u32>(scaled);
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    // Below 2^-14, F16 values are 2^-24 apart, like F32 values from 1/2 on: the sum rounds.
    if (magnitude < 0x38800000u) {
        return sign | (bitcast<u32>(scaled + 0.5) - 0x3f000000u);
    }
    return sign | (((magnitude + 0x0fffu + ((magnitude >> 13u) & 1u)) >> 13u) - (112u << 10u));
}

// Two such F16, the first in the lower half.
fn narrowed_pair(low: u32, high: u32, factor: f32) -> u32 {
    return narrowed(low, factor) | (narrowed(high, factor) << 16u);
}
