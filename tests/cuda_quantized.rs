//! Quantised weights on the `cuda` backend have the values that `gguf` and `comfy_kitchen` read
//! from the same bytes (`tests/formats`), rounded to BF16: bit for bit, with every code, subnormal
//! and infinite scales, and NaN.
//!
//! The tests run on the emulated device. With `ZIMAGE_TEST_ON_EMULATED_CUDA=1` in the environment
//! they run on the driver that the process finds, such as a GPU's.
#![cfg(feature = "cuda")]

#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;

use bytes::Bytes;
use emulated_cuda::emulated;
use half::bf16;
use pollster::block_on;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::sync::Arc;
use zimage::backend::cuda::{Cuda, Placement};
use zimage::backend::*;
use zimage::tensor::{Format, HostTensor, Scaled, Scales, Storage, Weight};

/// A quantised matrix, and the values that others read from it.
struct Recorded {
    name: String,
    storage: Storage,
    shape: [usize; 2],
    bytes: Bytes,
    values: Vec<f32>,
}

impl Recorded {
    /// Some of its rows.
    fn rows(&self, first: usize, end: usize) -> Self {
        let [rows, columns] = self.shape;
        let row = self.bytes.len() / rows;
        let storage = match &self.storage {
            Storage::Plain(format) => Storage::Plain(*format),
            Storage::Scaled { matrix, .. } => Storage::Scaled { matrix: matrix.clone(), first_row: first },
        };
        Self {
            name: format!("{}, rows {first}..{end}", self.name),
            storage,
            shape: [end - first, columns],
            bytes: self.bytes.slice(first * row..end * row),
            values: self.values[first * columns..end * columns].to_vec(),
        }
    }

    fn weight(&self) -> Weight<'static> {
        let weight = Weight::quantized(self.storage.clone(), &self.shape, self.bytes.clone());
        weight.unwrap_or_else(|| panic!("{}: bytes that do not fit", self.name))
    }

    /// The values as the device has them.
    fn rounded(&self) -> Vec<bf16> {
        self.values.iter().map(|value| bf16::from_f32(*value)).collect()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/formats/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The blocks of ggml's formats: one a row, and as wide a row as they fill, which exceeds a CTA.
fn blocks() -> Vec<Recorded> {
    let bytes = file("ggml");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut found = Vec::new();
    for format in [Format::Q4_0, Format::Q8_0, Format::Q4K, Format::Q5K, Format::Q6K] {
        let bytes = Bytes::copy_from_slice(file.tensor(&format!("{format}.bytes")).unwrap().data());
        let values = floats(file.tensor(&format!("{format}.values")).unwrap().data());
        let elements = format.block().elements;
        for (name, columns) in [("narrow", elements), ("wide", values.len())] {
            let (bytes, values) = (bytes.clone(), values.clone());
            let shape = [values.len() / columns, columns];
            found.push(Recorded {
                name: format!("{format} {name}"),
                storage: Storage::Plain(format),
                shape,
                bytes,
                values,
            });
        }
    }
    found
}

/// The matrices with scales beside them, and FP8 without, also at an odd width.
fn scaled() -> Vec<Recorded> {
    let bytes = file("scales");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut found = Vec::new();
    for name in file.names().into_iter().filter_map(|name| name.strip_suffix(".values")) {
        let weight = file.tensor(&format!("{name}.weight")).unwrap();
        let (format, in_a_byte) = match weight.dtype() {
            Dtype::F8_E4M3 => (Format::F8E4m3, 1),
            Dtype::U8 => (Format::Nvfp4, 2),
            _ => continue,
        };
        let values = file.tensor(&format!("{name}.values")).unwrap();
        let shape = [values.shape()[0], values.shape()[1]];
        let values = floats(values.data());
        let scales = match file.tensor(&format!("{name}.weight_scale")) {
            Err(_) => Scales::None,
            Ok(scale) if format == Format::Nvfp4 => {
                let tensor = floats(file.tensor(&format!("{name}.weight_scale_2")).unwrap().data())[0];
                Scales::Nvfp4 { blocks: Bytes::copy_from_slice(scale.data()), tensor }
            }
            Ok(scale) if scale.dtype() == Dtype::U8 => Scales::Mxfp8(Bytes::copy_from_slice(scale.data())),
            Ok(scale) if scale.shape().is_empty() => Scales::Tensor(floats(scale.data())[0]),
            Ok(scale) => Scales::Rows(floats(scale.data())),
        };
        if scales == Scales::None || matches!(scales, Scales::Rows(_)) {
            found.push(narrower(name, format, shape, weight.data(), &values, &scales));
        }
        let stored = [weight.shape()[0], weight.shape()[1] * in_a_byte];
        let matrix = Scaled::new(format, shape, stored, scales, None).unwrap();
        let bytes = Bytes::copy_from_slice(&weight.data()[..shape[0] * matrix.row_bytes()]);
        let storage = Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 };
        found.push(Recorded { name: name.to_owned(), storage, shape, bytes, values });
    }
    found
}

/// An unpadded matrix of bytes without its last three columns.
fn narrower(
    name: &str,
    format: Format,
    [rows, columns]: [usize; 2],
    bytes: &[u8],
    values: &[f32],
    scales: &Scales,
) -> Recorded {
    let width = columns - 3;
    let shape = [rows, width];
    let matrix = Arc::new(Scaled::new(format, shape, shape, scales.clone(), None).unwrap());
    Recorded {
        name: format!("{name}, narrower"),
        storage: match scales {
            Scales::None => Storage::Plain(format),
            _ => Storage::Scaled { matrix, first_row: 0 },
        },
        shape,
        bytes: bytes.chunks(columns).flat_map(|row| row[..width].to_vec()).collect(),
        values: values.chunks(columns).flat_map(|row| row[..width].to_vec()).collect(),
    }
}

fn all() -> Vec<Recorded> {
    let mut all = blocks();
    all.extend(scaled());
    // Rows from inside a tile of scales, and across two.
    let parts = all.iter().filter(|matrix| matrix.shape[0] > 4);
    let parts: Vec<Recorded> = parts.map(|matrix| matrix.rows(3, matrix.shape[0] - 1)).collect();
    all.extend(parts);
    assert!(all.len() > 40, "only {} matrices", all.len());
    all
}

fn cuda() -> Cuda {
    Cuda::open(0, Placement::Separate).unwrap()
}

/// The same bits, or both NaN.
fn same(found: bf16, expected: bf16) -> bool {
    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
}

fn elements(tensor: &HostTensor) -> Vec<bf16> {
    tensor.bytes().as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b)).collect()
}

#[test]
fn every_kept_format_is_tested() {
    emulated("every_kept_format_is_tested", &[], || {
        let b = cuda();
        for format in Format::ALL {
            let tested = all().iter().any(|matrix| matrix.storage.format() == format);
            assert_eq!(b.keeps(format), tested, "{format}");
        }
    });
}

#[test]
fn gathered_rows_have_the_recorded_values() {
    emulated("gathered_rows_have_the_recorded_values", &[], || {
        let b = cuda();
        for matrix in all() {
            let [rows, columns] = matrix.shape;
            let table = block_on(b.upload_table(&matrix.weight())).unwrap();
            let ids: Vec<u32> = (0..rows as u32).rev().collect();
            let ids = b.upload(&HostTensor::from_u32(&[rows], &ids)).unwrap();
            let found = block_on(b.download(&b.gather_rows(&table, &ids).unwrap())).unwrap();
            let expected = matrix.rounded();
            let expected = expected.chunks(columns).rev().flatten();
            let found = elements(&found);
            assert_eq!(found.len(), rows * columns);
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let at = [rows - 1 - i / columns, i % columns];
                assert!(same(*found, *expected), "{} {at:?}: {found} instead of {expected}", matrix.name);
            }
        }
    });
}

/// Columns of a matrix as products with unit vectors. A row that is not finite makes all of its
/// products NaN.
fn has_these_columns(b: &Cuda, w: &<Cuda as LinearOp>::Linear, name: &str, values: &[bf16], tokens: usize) {
    let [rows, columns] = w.dims();
    let picked: Vec<usize> = (0..tokens).map(|token| (token * 7919 + columns - 1) % columns).collect();
    let mut x = vec![0.0; tokens * columns];
    picked.iter().enumerate().for_each(|(token, column)| x[token * columns + column] = 1.0);
    let x = b.upload(&HostTensor::from_f32(&[1, tokens, columns], &x)).unwrap();
    let found = block_on(b.download(&b.linear(&x, w).unwrap())).unwrap().to_f32();
    for (row, values) in values.chunks(columns).enumerate() {
        let finite = values.iter().all(|value| value.is_finite());
        for (token, column) in picked.iter().enumerate() {
            let (found, expected) = (found[token * rows + row], values[*column].to_f32());
            let right = if finite { found == expected } else { found.is_nan() || found == expected };
            assert!(right, "{name} [{row}, {column}]: {found} instead of {expected}");
        }
    }
}

/// Products by the gemv and by gemms.
fn linears_are_recorded() {
    let b = cuda();
    for matrix in all() {
        let w = block_on(b.upload_linear(&[matrix.weight()], &[])).unwrap();
        let values = matrix.rounded();
        for tokens in [3, 40, 70] {
            has_these_columns(&b, &w, &matrix.name, &values, tokens);
        }
    }
}

#[test]
fn linears_have_the_recorded_values() {
    emulated("linears_have_the_recorded_values", &[], linears_are_recorded);
}

#[test]
fn hopper_linears_have_the_recorded_values() {
    let settings = [("EMULATED_CUDA_CAPABILITY", "9")];
    emulated("hopper_linears_have_the_recorded_values", &settings, linears_are_recorded);
}

fn stacked_parts_are_in_order() {
    let b = cuda();
    let found = blocks();
    let of = |name: &str| found.iter().find(|matrix| matrix.name == name).unwrap();
    let [q4, q6] = ["Q4_K narrow", "Q6_K narrow"].map(of);
    // Two parts that become one upload, another format, and the first one again.
    let parts = [q4.rows(0, 5), q4.rows(9, 16), q6.rows(0, 18), q4.rows(20, 21)];
    let weights: Vec<Weight<'_>> = parts.iter().map(Recorded::weight).collect();
    let values: Vec<bf16> = parts.iter().flat_map(Recorded::rounded).collect();
    let w = block_on(b.upload_linear(&weights, &[])).unwrap();
    has_these_columns(&b, &w, "stacked", &values, 40);
    // A part in floats makes all of them dense.
    let floats = HostTensor::from_f32(&[18, 256], &q6.values);
    let weights = [q4.rows(0, 5).weight(), Weight::from(&floats)];
    let w = block_on(b.upload_linear(&weights, &[])).unwrap();
    has_these_columns(&b, &w, "mixed", &[q4.rows(0, 5).rounded(), q6.rounded()].concat(), 40);
}

#[test]
fn stacked_parts_keep_their_formats_and_order() {
    emulated("stacked_parts_keep_their_formats_and_order", &[], stacked_parts_are_in_order);
}

#[test]
fn hopper_stacked_parts_keep_their_formats_and_order() {
    let settings = [("EMULATED_CUDA_CAPABILITY", "9")];
    emulated("hopper_stacked_parts_keep_their_formats_and_order", &settings, stacked_parts_are_in_order);
}
