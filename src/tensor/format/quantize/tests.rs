//! The quantisers against `gguf` and ggml, whose results `tools/gguf/quantize.py` records.

use super::{Unquantizable, affine, symmetric};
use crate::tensor::Format;
use proptest::prelude::*;
use pulp::Arch;
use safetensors::SafeTensors;
use serde_json::Value;

const K_QUANTS: [Format; 3] = [Format::Q4K, Format::Q5K, Format::Q6K];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/goldens/gguf/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn quantized(format: Format, values: &[f32]) -> Result<Vec<u8>, Unquantizable> {
    // The buffer is poisoned: every byte is written.
    let mut out = vec![0xa5; format.bytes(values.len()).unwrap()];
    format.quantize(values, &mut out).map(|()| out)
}

/// The values that a format stores for `values`.
fn stored(format: Format, values: &[f32]) -> Vec<f32> {
    let mut found = vec![f32::NAN; values.len()];
    format.dequantize(&quantized(format, values).unwrap(), &mut found);
    found
}

/// ‖found − values‖ / ‖values‖.
fn error(values: &[f32], found: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let differences: f64 = values.iter().zip(found).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (differences / values.iter().map(|value| square(f64::from(*value))).sum::<f64>()).sqrt()
}

#[test]
fn bytes_are_those_of_gguf() {
    let file = golden("quantized.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    let blocks = file.tensor("blocks").unwrap();
    let values: Vec<f32> = blocks.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    for format in [Format::Q8_0, Format::Q4_0, Format::Bf16, Format::F16] {
        let expected = file.tensor(&format!("blocks.{format}")).unwrap();
        let bytes = format.bytes(32).unwrap();
        for (row, (values, expected)) in values.chunks(32).zip(expected.data().chunks(bytes)).enumerate() {
            assert_eq!(quantized(format, values).unwrap(), expected, "{format}, block {row}: {values:?}");
        }
    }
}

/// The errors are at most one percent above those of ggml, and below those of codes that are spread
/// over the range of a group.
#[test]
fn k_quants_are_as_precise_as_ggml() {
    let (file, errors) = (golden("quantized.safetensors"), golden("quantized.json"));
    let file = SafeTensors::deserialize(&file).unwrap();
    let errors: Value = serde_json::from_slice(&errors).unwrap();
    let mut tested = 0;
    for (name, errors) in errors.as_object().unwrap() {
        let tensor = file.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.data().len() / 2];
        Format::Bf16.dequantize(tensor.data(), &mut values);
        for format in K_QUANTS {
            let of = |by: &str| errors[format.to_string()][by].as_f64().unwrap();
            let found = error(&values, &stored(format, &values));
            println!("{name} {format}: {found:.6}, ggml {:.6}, range {:.6}", of("ggml"), of("range"));
            assert!(found <= 1.01 * of("ggml"), "{name} {format}: {found} is above ggml's {}", of("ggml"));
            // Values around −0.2 are minimums for the most part, which no search improves.
            assert!(found <= of("range") || name == "shifted", "{name} {format}: {found}, {}", of("range"));
            tested += 1;
        }
    }
    assert_eq!(tested, 27);
}

#[test]
fn every_cpu_writes_the_same_bytes() {
    let file = golden("quantized.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    for name in ["normal", "outliers", "positive", "groups"] {
        let tensor = file.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.data().len() / 2];
        Format::Bf16.dequantize(tensor.data(), &mut values);
        let without = |format: Format| {
            let mut out = vec![0; format.bytes(values.len()).unwrap()];
            match format {
                Format::Q4K => affine::q4_k(Arch::Scalar, &values, &mut out),
                Format::Q5K => affine::q5_k(Arch::Scalar, &values, &mut out),
                _ => symmetric::q6_k(Arch::Scalar, &values, &mut out),
            };
            out
        };
        for format in K_QUANTS {
            assert!(quantized(format, &values).unwrap() == without(format), "{name} {format}");
        }
    }
}

#[test]
fn uniform_rows_keep_their_value() {
    for format in Format::QUANTIZED {
        for value in [0.0, -0.0, 1.0, -1.0, 0.037, -12.5, 6e4, -6e4, 1e-3] {
            let found = stored(format, &[value; 256]);
            // A scale of F16 has 11 bits, or steps of 2⁻²⁴ where it is subnormal, and Q6_K
            // multiplies it by up to 32 · 128. A value of BF16 has 8 bits.
            let relative = if format == Format::Bf16 { 1.0 / 256.0 } else { 1.0 / 1024.0 };
            let absolute = if value == 0.0 { 0.0 } else { 32.0 * 128.0 * 2f32.powi(-25) };
            let near = found.iter().all(|found| (found - value).abs() <= relative * value.abs() + absolute);
            assert!(near, "{format} {value}: {:?}", &found[..4]);
        }
    }
}

#[test]
fn one_value_among_zeros_survives() {
    for format in Format::QUANTIZED {
        for value in [3.0, -3.0] {
            for place in [0, 17, 255] {
                let mut values = [0.0; 256];
                values[place] = value;
                let found = stored(format, &values);
                assert!((found[place] / value - 1.0).abs() < 0.01, "{format}: {} for {value}", found[place]);
                let mut others = found.iter().enumerate().filter(|(i, _)| *i != place);
                // Zero is a multiple of the scale less the minimum, which are both rounded.
                assert!(others.all(|(_, found)| found.abs() < 0.01), "{format} {value} at {place}");
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for format in Format::QUANTIZED {
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            for place in [0, 100, 255] {
                let mut values = [1.0; 256];
                values[place] = value;
                assert_eq!(quantized(format, &values), Err(Unquantizable::NonFinite), "{format} {value}");
            }
        }
    }
}

#[test]
fn values_above_the_largest_scale_are_refused() {
    for format in Format::QUANTIZED.into_iter().filter(|format| *format != Format::F32) {
        for values in [[f32::MAX; 256], [f32::MIN; 256], std::array::from_fn(|i| f32::MAX * [1.0, -1.0][i % 2])] {
            assert_eq!(quantized(format, &values), Err(Unquantizable::TooLarge(format)), "{format}");
        }
    }
    let sentence = Unquantizable::TooLarge(Format::Q4K).to_string();
    assert_eq!(sentence, "a value is too large for Q4_K");
}

#[test]
fn formats_without_a_quantiser_say_so() {
    for format in Format::ALL.into_iter().filter(|format| !Format::QUANTIZED.contains(format)) {
        assert_eq!(quantized(format, &[0.5; 256]), Err(Unquantizable::Format(format)));
    }
}

#[test]
#[should_panic = "the bytes of 256 elements of Q6_K"]
fn buffers_of_another_length_are_refused() {
    let _ = Format::Q6K.quantize(&[0.0; 256], &mut [0; 209]);
}

/// Finite numbers of every magnitude, subnormals and zeros included.
fn numbers() -> impl Strategy<Value = Vec<f32>> {
    let finite = any::<f32>().prop_filter("finite", |value| value.is_finite());
    let small = (-1f32..1.0).prop_map(|value| value * 1e-3);
    let subnormal = any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807f_ffff));
    let block = |value: BoxedStrategy<f32>| proptest::collection::vec(value, 256);
    prop_oneof![
        block(finite.boxed()),
        block(prop_oneof![small.clone(), subnormal.clone(), Just(0.0), Just(-0.0)].boxed()),
        block(subnormal.boxed()),
        block(small.boxed()),
    ]
}

proptest! {
    #[test]
    fn any_finite_values_are_stored_or_too_large(values in numbers()) {
        for format in Format::QUANTIZED {
            match quantized(format, &values) {
                Ok(bytes) => {
                    let mut found = vec![f32::NAN; 256];
                    format.dequantize(&bytes, &mut found);
                    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                    // Rounding may give a value a little beyond the largest.
                    let bound = 1.5 * f64::from(largest) + 1e-5;
                    prop_assert!(found.iter().all(|found| f64::from(found.abs()) <= bound), "{} {:?}", format, found);
                }
                Err(refused) => prop_assert_eq!(refused, Unquantizable::TooLarge(format)),
            }
        }
    }
}
