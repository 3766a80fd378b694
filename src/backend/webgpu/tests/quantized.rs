//! Quantised matrices and tables against the host's `dequantize_rows`, and against `gguf`.

use super::skip;
use crate::backend::GatherRowsOp;
use crate::backend::gpu::quantized::keeps;
use crate::backend::webgpu::driver::adapters::Adapters;
use crate::backend::webgpu::driver::variant::Shaders;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::matrix::Matrix;
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::webgpu::{Runtime, WebGpu};
use crate::numbers::noise;
use crate::tensor::{Format, HostTensor, Scaled, Scales, Storage, Weight};
use bytes::Bytes;
use pollster::block_on;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of a file's matrix, and of each half of it. The second half crosses a tile of block scales.
const ROWS: usize = 150;
const HALF: usize = ROWS / 2;

fn open(shaders: Shaders, largest: u64) -> Option<WebGpu> {
    let opened = block_on(WebGpu::open_with(Adapters::Any, shaders, largest));
    opened.map_err(|error| skip(&error.to_string())).ok()
}

fn random(seed: u64, count: usize) -> Vec<u8> {
    noise(seed, count).into_iter().map(|v| ((v + 1.0) * 127.99) as u8).collect()
}

/// A matrix of a file.
struct Case {
    name: &'static str,
    storage: Storage,
    width: usize,
    bytes: Bytes,
}

impl Case {
    /// Random blocks whose scales at these offsets are from a list.
    fn blocks(name: &'static str, format: Format, width: usize, offsets: &[usize], scales: &[u16]) -> Self {
        let mut bytes = random(3, ROWS * format.bytes(width).unwrap());
        for (i, block) in bytes.chunks_exact_mut(format.block().bytes).enumerate() {
            for (j, &at) in offsets.iter().enumerate() {
                block[at..at + 2].copy_from_slice(&scales[(i + 3 * j) % scales.len()].to_le_bytes());
            }
        }
        Self { name, storage: Storage::Plain(format), width, bytes: bytes.into() }
    }

    /// Random codes, with `stored` columns in the file.
    fn scaled(name: &'static str, format: Format, width: usize, stored: usize, scales: Scales) -> Self {
        let mut bytes = random(4, ROWS * format.bytes(stored).unwrap());
        if format == Format::F8E4m3 {
            bytes.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code -= 1);
        }
        let matrix = Scaled::new(format, [ROWS, width], [ROWS, stored], scales, None).unwrap();
        let storage = Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 };
        Self { name, storage, width, bytes: bytes.into() }
    }

    /// Half of the rows, in pieces of four.
    fn half(&self, second: bool) -> Weight<'static> {
        let half = self.bytes.len() / 2;
        let bytes = if second { self.bytes.slice(half..) } else { self.bytes.slice(..half) };
        let storage = match &self.storage {
            Storage::Scaled { matrix, .. } if second => Storage::Scaled { matrix: matrix.clone(), first_row: HALF },
            storage => storage.clone(),
        };
        Weight::quantized(storage, &[HALF, self.width], bytes).unwrap().in_pieces(1)
    }
}

/// Every kept storage: rows that are no whole words, columns that are padded in the file, and F16
/// scales of both signs with subnormal ones, or only those.
fn cases() -> Vec<Case> {
    const SUBNORMAL: &[u16] = &[0x0001, 0x03ff, 0x8200, 0x0155];
    const ANY: &[u16] = &[0x0001, 0x03ff, 0x8200, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0x0000, 0x8000, 0x2a11];
    let mut cases = Vec::new();
    for scales in [SUBNORMAL, ANY] {
        cases.extend([
            Case::blocks("Q4_0", Format::Q4_0, 96, &[0], scales),
            Case::blocks("Q8_0", Format::Q8_0, 96, &[0], scales),
            Case::blocks("Q4_K", Format::Q4K, 512, &[0, 2], scales),
            Case::blocks("Q5_K", Format::Q5K, 256, &[0, 2], scales),
            Case::blocks("Q6_K", Format::Q6K, 256, &[208], scales),
        ]);
    }
    let f8 = |name, width, scales| Case::scaled(name, Format::F8E4m3, width, width, scales);
    // E8M0 codes whose products are normal numbers, and that of zero.
    let mxfp8 = random(5, 256 * 4).into_iter().map(|byte| if byte < 9 { 0 } else { 110 + byte % 24 });
    let nvfp4 = random(6, 256 * 4).into_iter().map(|code| code % 0x7f);
    let nvfp4 = Scales::Nvfp4 { blocks: nvfp4.collect(), tensor: 0.0123 };
    let rows = noise(7, ROWS);
    let plain = f8("F8_E4M3", 61, Scales::None);
    cases.extend([
        Case { storage: Storage::Plain(Format::F8E4m3), ..plain },
        f8("F8_E4M3 with no scale beside it", 61, Scales::None),
        f8("F8_E4M3 with a scale", 61, Scales::Tensor(0.0123)),
        f8("F8_E4M3 with row scales", 61, Scales::Rows(rows)),
        Case::scaled("MXFP8", Format::F8E4m3, 61, 64, Scales::Mxfp8(mxfp8.collect())),
        Case::scaled("NVFP4", Format::Nvfp4, 47, 48, nvfp4),
    ]);
    cases
}

/// The rows of each matrix as gemms read them.
fn dense(gpu: &Gpu, matrix: &Matrix, matrices: usize) -> BTreeMap<(usize, usize), Vec<u8>> {
    let mut found = BTreeMap::new();
    for rows in &matrix.pieces {
        let piece = matrix.piece(gpu, rows).unwrap();
        let stride = 4 * matrix.stride4();
        let tensor = WebGpuTensor::new(&[matrices * piece.rows, stride], matrix.stored.dtype(), piece.memory);
        let bytes = block_on(gpu.download(&tensor)).unwrap();
        for (i, row) in bytes.bytes().chunks_exact(stride * matrix.stored.size()).enumerate() {
            found.insert((i / piece.rows, piece.first + i % piece.rows), row.to_vec());
        }
    }
    found
}

/// Asserts that `matrices`, each of stacked parts, are in gemms what an upload of their values is.
fn like_an_upload_of_the_values(name: &str, gpu: &Gpu, matrices: &[&[Weight<'_>]]) {
    let rows = matrices[0].iter().map(Weight::rows).sum();
    let dims = [rows, matrices[0][0].shape()[1]];
    let quantized = block_on(Matrix::quantized(gpu, "test", matrices, dims)).unwrap();
    let stored = Stored::of(matrices.iter().copied().flatten());
    let mut upload = MatrixUpload::new(gpu, "test", stored, dims, matrices.len(), Place::Device).unwrap();
    for (matrix, parts) in matrices.iter().enumerate() {
        let take = |first, rows: HostTensor| upload.write(first, matrix, &rows);
        block_on(Weight::each_piece(parts, take)).unwrap();
    }
    let uploaded = upload.finish().unwrap();
    assert_eq!((quantized.stored, quantized.scale), (uploaded.stored, uploaded.scale), "{name}");
    let [found, expected] = [quantized, uploaded].map(|matrix| dense(gpu, &matrix, matrices.len()));
    assert_eq!(expected.len(), rows * matrices.len(), "{name}");
    for (at, expected) in &expected {
        let found = &found[at];
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(found.len() == expected.len() && differs.is_none(), "{name}: row {at:?} at byte {differs:?}");
    }
}

#[test]
fn quantised_matrices_equal_uploads_of_their_values() {
    for (shaders, limit) in [Shaders::Plain, Shaders::Half].into_iter().flat_map(|s| [(s, u64::MAX), (s, 8 << 10)]) {
        let Some(b) = open(shaders, limit) else { return };
        for case in cases() {
            let [first, second] = [false, true].map(|second| case.half(second));
            like_an_upload_of_the_values(case.name, &b.0, &[&[case.half(false), case.half(true)]]);
            like_an_upload_of_the_values(case.name, &b.0, &[&[first], &[second]]);
        }
        let cases = cases();
        let of = |name| cases.iter().find(|case| case.name == name).unwrap();
        let [q4_0, q8_0, q5_k, q6_k] = ["Q4_0", "Q8_0", "Q5_K", "Q6_K"].map(of);
        like_an_upload_of_the_values("Q4_0 on Q8_0", &b.0, &[&[q4_0.half(true), q8_0.half(false)]]);
        like_an_upload_of_the_values("Q6_K beside Q5_K", &b.0, &[&[q6_k.half(true)], &[q5_k.half(true)]]);
    }
}

/// All rows of a table, gathered two at a time, because outputs have a limit too.
fn gathered(b: &WebGpu, table: &Weight<'_>) -> Vec<f32> {
    let ids: Vec<u32> = (0..table.rows() as u32).collect();
    let table = block_on(b.upload_table(table)).unwrap();
    let gather = |ids: &[u32]| {
        let ids = b.upload(&HostTensor::from_u32(&[ids.len()], ids)).unwrap();
        block_on(b.download(&b.gather_rows(&table, &ids).unwrap())).unwrap().to_f32()
    };
    ids.chunks(2).flat_map(gather).collect()
}

#[test]
fn quantised_tables_have_the_values_of_the_host() {
    for limit in [u64::MAX, 4 << 10] {
        let Some(b) = open(Shaders::Plain, limit) else { return };
        for case in cases() {
            let mut expected = vec![0.0; HALF * case.width];
            let half = case.bytes.len() / 2;
            let Case { name, storage, bytes, .. } = &case;
            storage.dequantize_rows(HALF, &bytes[half..], &mut expected);
            let found = gathered(&b, &case.half(true));
            let wrong = found.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
            assert!(found.len() == expected.len() && wrong.is_none(), "{name}: value {wrong:?}");
        }
    }
}

/// Infinite and NaN scales give values that are not finite, and nothing else does.
#[test]
fn ggml_blocks_have_the_values_of_gguf() {
    let Some(b) = open(Shaders::Plain, u64::MAX) else { return };
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/ggml.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for format in [Format::Q4_0, Format::Q8_0, Format::Q4K, Format::Q5K, Format::Q6K] {
        assert!(keeps(format));
        let bytes = Bytes::copy_from_slice(file.tensor(&format!("{format}.bytes")).unwrap().data());
        let values = file.tensor(&format!("{format}.values")).unwrap();
        let expected: Vec<f32> = values.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let table = Weight::quantized(Storage::Plain(format), values.shape(), bytes).unwrap();
        for (i, (found, expected)) in gathered(&b, &table).iter().zip(&expected).enumerate() {
            let same = if expected.is_finite() { found.to_bits() == expected.to_bits() } else { !found.is_finite() };
            assert!(same, "{format}: value {i}: {found} instead of {expected}");
        }
    }
}
