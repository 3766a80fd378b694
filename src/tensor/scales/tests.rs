//! Matrices with scales against the values of `comfy_kitchen`, which `tools/formats/make.py`
//! records.

use super::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/scales.safetensors");

/// A recorded matrix: its layout, its bytes in the file, and its values.
struct Case {
    layout: Scaled,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The recorded case of this name, with scales as its tensors say.
fn case(file: &SafeTensors<'_>, name: &str) -> Case {
    let weight = file.tensor(&format!("{name}.weight")).unwrap();
    let values = file.tensor(&format!("{name}.values")).unwrap();
    let scale = file.tensor(&format!("{name}.weight_scale")).ok();
    let bytes = |scale: &safetensors::tensor::TensorView<'_>| Bytes::copy_from_slice(scale.data());
    let (format, a_byte) = match weight.dtype() {
        Dtype::F8_E4M3 => (Format::F8E4m3, 1),
        Dtype::F8_E5M2 => (Format::F8E5m2, 1),
        Dtype::I8 => (Format::I8, 1),
        Dtype::U8 => (Format::Nvfp4, 2),
        other => panic!("{name}: {other:?}"),
    };
    let scales = match &scale {
        None => Scales::None,
        Some(scale) if format == Format::Nvfp4 => {
            let tensor = floats(file.tensor(&format!("{name}.weight_scale_2")).unwrap().data())[0];
            Scales::Nvfp4 { blocks: bytes(scale), tensor }
        }
        Some(scale) if scale.dtype() == Dtype::U8 => Scales::Mxfp8(bytes(scale)),
        Some(scale) if scale.shape().is_empty() => Scales::Tensor(floats(scale.data())[0]),
        Some(scale) => Scales::Rows(floats(scale.data())),
    };
    let rotation = name.strip_prefix("convrot").map(|rest| rest.split('.').next().unwrap().parse().unwrap());
    let [rows, columns] = *weight.shape() else { panic!("{name}: {:?}", weight.shape()) };
    let shape = [values.shape()[0], values.shape()[1]];
    let layout = Scaled::new(format, shape, [rows, columns * a_byte], scales, rotation).unwrap();
    // Rows of padding are not read.
    let bytes = weight.data()[..shape[0] * layout.row_bytes()].to_vec();
    Case { layout, bytes, values: floats(values.data()) }
}

/// The names of the recorded cases.
fn names(file: &SafeTensors<'_>) -> Vec<String> {
    file.names().iter().filter_map(|name| name.strip_suffix(".values")).map(str::to_owned).collect()
}

/// The same bits, or both NaN.
fn same(found: f32, expected: f32) -> bool {
    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
}

#[test]
fn scaled_rows_have_the_values_of_comfy_kitchen() {
    let file = std::fs::read(RECORDED).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let names = names(&file);
    assert_eq!(names.len(), 3 * 10 + 3 + 4 + 8);
    for name in &names {
        let Case { layout, bytes, values } = case(&file, name);
        let mut found = vec![1.25e-30; values.len()];
        layout.dequantize_rows(0, &bytes, &mut found);
        for (i, (found, expected)) in found.iter().zip(&values).enumerate() {
            // The sums of a rotation are rounded in another order, unless they are exact. The
            // values are a few units, so the tolerance is a few of their ulps.
            let close = name.ends_with(".rounded") && (found - expected).abs() <= 2e-6;
            let columns = layout.shape()[1];
            let at = [i / columns, i % columns];
            assert!(close || same(*found, *expected), "{name} {at:?}: {found} instead of {expected}");
        }
    }
}

#[test]
fn rows_are_dequantised_on_their_own() {
    let file = std::fs::read(RECORDED).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for name in names(&file) {
        let Case { layout, bytes, .. } = case(&file, &name);
        let [rows, columns] = layout.shape();
        let mut whole = vec![0.0; rows * columns];
        layout.dequantize_rows(0, &bytes, &mut whole);
        for first in 0..rows {
            for end in [first, first + 1, rows] {
                let bytes = &bytes[first * layout.row_bytes()..end * layout.row_bytes()];
                let mut piece = vec![1.25e-30; (end - first) * columns];
                layout.dequantize_rows(first, bytes, &mut piece);
                let expected = &whole[first * columns..end * columns];
                assert!(piece.iter().zip(expected).all(|(a, b)| same(*a, *b)), "{name}: rows {first}..{end}");
            }
        }
    }
}

#[test]
fn rotation_is_its_own_inverse() {
    for group in ROTATIONS {
        let codes: Vec<f32> = (0..group).map(|i| (i * i % 251) as f32 - 125.0).collect();
        let mut row = codes.clone();
        rotate(&mut row, group);
        assert_ne!(row, codes, "{group}");
        rotate(&mut row, group);
        assert_eq!(row, codes, "{group}");
    }
}

/// The mismatch as `expected / found`.
fn mismatch(format: Format, shape: [usize; 2], stored: [usize; 2], scales: Scales, rotation: Option<usize>) -> String {
    let mismatch = Scaled::new(format, shape, stored, scales, rotation).unwrap_err();
    format!("{} / {}", mismatch.expected, mismatch.found)
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let scales = |count| Bytes::from(vec![0; count]);
    let nvfp4 = |count| Scales::Nvfp4 { blocks: scales(count), tensor: 1.0 };
    let square = [32, 32];
    let of = |format, scales| mismatch(format, square, square, scales, None);
    assert_eq!(of(Format::I8, Scales::Rows(vec![1.0; 31])), "32 scales, one a row / 31");
    let tiles = "block scales 32 × 1, padded to multiples of 128 × 4 / 511 scales";
    assert_eq!(of(Format::F8E4m3, Scales::Mxfp8(scales(511))), tiles);
    let tiles = "block scales 32 × 2, padded to multiples of 128 × 4 / 1024 scales";
    assert_eq!(of(Format::Nvfp4, nvfp4(1024)), tiles);
    assert_eq!(of(Format::I8, nvfp4(512)), "NVFP4 for block scales of 16 columns / I8");
    assert_eq!(of(Format::Q4_0, Scales::Mxfp8(scales(512))), "F8_E4M3 for block scales of 32 columns / Q4_0");
    assert_eq!(of(Format::Nvfp4, Scales::Tensor(2.0)), "block scales beside NVFP4 / Tensor(2)");
    assert_eq!(of(Format::Q4K, Scales::None), "rows of Q4_K with a multiple of 256 columns / [32, 32]");
}

#[test]
fn other_sizes_than_the_matrix_or_its_padding_are_refused() {
    let scales = || Scales::Mxfp8(Bytes::from(vec![0; 512]));
    let of = |shape, stored| mismatch(Format::F8E4m3, shape, stored, scales(), None);
    assert_eq!(of([30, 40], [32, 32]), "[30, 40], or padded to multiples of 32 / [32, 32]");
    assert_eq!(of([30, 40], [31, 64]), "[30, 40], or padded to multiples of 32 / [31, 64]");
    assert_eq!(of([30, 40], [30, 40]), "rows of F8_E4M3 with a multiple of 32 columns / [30, 40]");
    let plain = mismatch(Format::F8E4m3, [30, 40], [32, 64], Scales::Tensor(1.0), None);
    assert_eq!(plain, "[30, 40] / [32, 64]");
    let most = usize::MAX;
    let huge = of([most, 0], [most, 0]);
    assert!(huge.starts_with("block scales"), "{huge}");
    for stored in [[30, 64], [32, 64]] {
        assert!(Scaled::new(Format::F8E4m3, [30, 40], stored, scales(), None).is_ok());
    }
}

#[test]
fn rotations_that_do_not_fit_are_refused() {
    let of = |format, columns, group| mismatch(format, [4, columns], [4, columns], Scales::Tensor(1.0), Some(group));
    let expected = "a rotation of 4, 16, 64, … 65536 columns that divides 512";
    for group in [0, 1, 2, 8, 128, 1024, usize::MAX] {
        assert_eq!(of(Format::I8, 512, group), format!("{expected} / {group}"));
    }
    assert_eq!(of(Format::F8E4m3, 512, 256), "a rotated matrix of I8 / F8_E4M3");
}

#[test]
fn a_matrix_without_columns_has_no_values() {
    let layout = Scaled::new(Format::I8, [3, 0], [3, 0], Scales::Tensor(1.0), None).unwrap();
    layout.dequantize_rows(0, &[], &mut []);
    assert_eq!(layout.row_bytes(), 0);
}

#[test]
#[should_panic = "rows 2..4 of 3"]
fn rows_past_the_end_are_refused() {
    let layout = Scaled::new(Format::I8, [3, 2], [3, 2], Scales::Tensor(1.0), None).unwrap();
    layout.dequantize_rows(2, &[0; 4], &mut [0.0; 4]);
}
