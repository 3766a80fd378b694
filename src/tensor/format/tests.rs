//! Sizes and names, and every format against the values of `gguf`, which `tools/formats/make.py`
//! records.

use super::{Format, GGML};
use safetensors::SafeTensors;
use std::collections::BTreeSet;

#[test]
fn sizes_are_whole_blocks() {
    assert_eq!(Format::Q4K.bytes(512), Some(288));
    assert_eq!(Format::Q4K.bytes(0), Some(0));
    assert_eq!((Format::Q4K.bytes(255), Format::Nvfp4.bytes(3)), (None, None));
    assert_eq!(Format::F32.bytes(usize::MAX), None, "the product overflows");
    assert_eq!(Format::Nvfp4.bytes(6), Some(3));
}

#[test]
fn each_format_is_listed_once() {
    assert_eq!(Format::ALL.iter().collect::<BTreeSet<_>>().len(), Format::ALL.len());
    let ids: BTreeSet<u32> = GGML.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, (0..GGML.len() as u32).collect());
    let formats: Vec<Format> = GGML.iter().filter_map(|(.., format)| *format).collect();
    assert!(formats.iter().all(|format| Format::ALL.contains(format)));
    assert_eq!(formats.iter().collect::<BTreeSet<_>>().len(), formats.len());
}

#[test]
fn ggml_types_are_named_even_if_unread() {
    let named = |id| (Format::ggml_name(id), Format::from_ggml(id).map(|format| format.to_string()));
    assert_eq!(named(12), (Some("Q4_K"), Some("Q4_K".into())));
    assert_eq!(named(40), (Some("NVFP4"), Some("NVFP4".into())));
    assert_eq!(named(15), (Some("Q8_K"), None));
    assert_eq!(named(42), (None, None));
    assert_eq!(format!("[{:>8}]", Format::F8E4m3), "[ F8_E4M3]");
}

#[test]
fn ggml_blocks_have_the_values_of_gguf() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/ggml.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let mut tested = BTreeSet::new();
    for format in (0..64).filter_map(Format::from_ggml).filter(|format| *format != Format::F32) {
        let bytes = file.tensor(&format!("{format}.bytes")).unwrap();
        let expected = file.tensor(&format!("{format}.values")).unwrap();
        let expected: Vec<f32> = expected.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        // The buffer is poisoned with a value that no block has.
        let mut found = vec![1.25e-30; expected.len()];
        format.dequantize(bytes.data(), &mut found);
        let wrong = found.iter().zip(&expected).position(|(found, expected)| !same(*found, *expected));
        if let Some(i) = wrong {
            let elements = format.block().elements;
            let (block, element) = (i / elements, i % elements);
            panic!("{format}: block {block}, element {element}: {} instead of {}", found[i], expected[i]);
        }
        tested.insert(format);
    }
    assert_eq!(tested.len(), 25, "types of GGUF files other than F32");
}

/// The same bits, or both NaN.
fn same(found: f32, expected: f32) -> bool {
    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
}

/// The expected values are those of the OCP's 8-bit floating-point specification.
#[test]
fn eight_bit_floats_have_their_published_values() {
    let bytes = [0x00, 0x80, 0x01, 0x07, 0x08, 0x38, 0xb8, 0x7e, 0xfe, 0x7f, 0xff];
    let mut found = [1.25; 11];
    Format::F8E4m3.dequantize(&bytes, &mut found);
    let nan = f32::NAN;
    let unit = 2f32.powi(-9);
    let expected = [0.0, -0.0, unit, 7.0 * unit, 2f32.powi(-6), 1.0, -1.0, 448.0, -448.0, nan, nan];
    assert!(found.iter().zip(expected).all(|(found, expected)| same(*found, expected)), "{found:?}");

    let bytes = [0x00, 0x80, 0x01, 0x03, 0x04, 0x3c, 0xbc, 0x7b, 0x7c, 0xfc, 0x7d];
    Format::F8E5m2.dequantize(&bytes, &mut found);
    let unit = 2f32.powi(-16);
    let expected = [0.0, -0.0, unit, 3.0 * unit, 4.0 * unit, 1.0, -1.0, 57344.0, f32::INFINITY, -f32::INFINITY, nan];
    assert!(found.iter().zip(expected).all(|(found, expected)| same(*found, expected)), "{found:?}");
}

#[test]
fn exact_types_hold_every_recorded_value() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/ggml.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for format in Format::ALL {
        let values: Vec<f32> = match file.tensor(&format!("{format}.values")) {
            Ok(values) if Format::Nvfp4 != format => {
                values.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
            }
            _ => {
                let bytes: Vec<u8> = (0..=255).collect();
                let mut values = vec![0.0; bytes.len() * format.block().elements / format.block().bytes];
                format.dequantize(&bytes, &mut values);
                values
            }
        };
        let holds = |round: fn(f32) -> f32| values.iter().all(|value| same(round(*value), *value));
        let f16 = holds(|value| half::f16::from_f32(value).to_f32());
        let bf16 = holds(|value| half::bf16::from_f32(value).to_f32());
        match format.exact_dtype() {
            crate::tensor::DType::F16 => assert!(f16 && !bf16, "{format}"),
            crate::tensor::DType::Bf16 => assert!(bf16, "{format}"),
            _ => assert!(!f16 && !bf16, "{format}"),
        }
    }
}

#[test]
#[should_panic = "the bytes of 32 elements of Q4_0"]
fn cut_blocks_are_refused() {
    Format::Q4_0.dequantize(&[0; 17], &mut [0.0; 32]);
}
