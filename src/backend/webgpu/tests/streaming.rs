//! Streamed weights: they are in host memory, recordings copy them at each replay, and the results
//! are those of resident weights.

use super::skip;
use crate::backend::webgpu::driver::adapters::Adapters;
use crate::backend::webgpu::driver::variant::Shaders;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::matrix::{Matrix, Rows};
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::{WebGpu, WebGpuTensor};
use crate::backend::{Branch, GatherRowsOp, LinearOp, ResidualOp, Runtime, SwiGluOp};
use crate::error::Result;
use crate::numbers::noise;
use crate::tensor::{DType, Format, HostTensor, Scaled, Scales, Storage, StreamSource, Weight};
use bytes::Bytes;
use pollster::block_on;
use std::sync::Arc;

const WIDTH: usize = 64;

/// A backend that streams. `None`, with a line that says why, where this machine has none for
/// `shaders`.
fn open(shaders: Shaders, largest: u64) -> Option<WebGpu> {
    let opened = block_on(WebGpu::open_with(Adapters::Any, shaders, largest));
    let b = opened.map_err(|error| skip(&error.to_string())).ok()?;
    if b.overheads().streamed.is_none() {
        skip(&format!("{} does not stream", b.device()));
        return None;
    }
    Some(b)
}

fn host(dtype: DType, shape: &[usize], seed: u64) -> HostTensor {
    let values = noise(seed, shape.iter().product());
    let bytes: Vec<u8> = match dtype {
        DType::Bf16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        _ => return HostTensor::from_f32(shape, &values),
    };
    HostTensor::new(dtype, shape, bytes.into()).unwrap()
}

/// `rows` rows of Q8_0 or NVFP4, which has scales beside it.
fn quantized(format: Format, rows: usize, seed: u64) -> Weight<'static> {
    let random = |seed, count: usize| noise(seed, count).into_iter().map(|v| ((v + 1.0) * 127.99) as u8);
    let mut bytes: Vec<u8> = random(seed, rows * format.bytes(WIDTH).unwrap()).collect();
    let storage = if format == Format::Nvfp4 {
        let blocks = random(seed + 1, rows.next_multiple_of(128) * 4).map(|code| code % 0x7f).collect();
        let scales = Scales::Nvfp4 { blocks, tensor: 0.0123 };
        let matrix = Scaled::new(format, [rows, WIDTH], [rows, WIDTH], scales, None).unwrap();
        Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 }
    } else {
        bytes.chunks_exact_mut(format.block().bytes).for_each(|block| block[..2].copy_from_slice(&[0x11, 0x2a]));
        Storage::Plain(format)
    };
    Weight::quantized(storage, &[rows, WIDTH], Bytes::from(bytes)).unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Float(DType),
    Blocks(Format),
}

const KINDS: [Kind; 4] =
    [Kind::Float(DType::Bf16), Kind::Float(DType::F32), Kind::Blocks(Format::Q8_0), Kind::Blocks(Format::Nvfp4)];

impl Kind {
    fn weight(self, rows: usize, seed: u64) -> Weight<'static> {
        match self {
            Kind::Float(dtype) => host(dtype, &[rows, WIDTH], seed).into(),
            Kind::Blocks(format) => quantized(format, rows, seed),
        }
    }
}

fn is_of_host(matrix: &Matrix) -> bool {
    matrix.pieces.iter().all(|rows| match rows {
        Rows::Dense(piece) => piece.memory.is_of_host(),
        Rows::Unconverted(rows) => rows.piece.memory.is_of_host(),
        Rows::Quantized(piece) => {
            piece.matrices.iter().flatten().all(|segment| segment.bindings[0].memory.is_of_host())
        }
    })
}

/// Three gemms and a gather for each of several activations: called, then recorded once and
/// replayed for each.
fn results(b: &WebGpu, kind: Kind, source: Option<StreamSource>) -> [Vec<Vec<f32>>; 2] {
    let weight = |rows, seed| kind.weight(rows, seed).streamed(source);
    let first = block_on(b.upload_linear(&[weight(300, 1), weight(84, 2)], &[])).unwrap();
    let pair = block_on(b.upload_swiglu(&weight(100, 3), &weight(100, 4))).unwrap();
    let last = block_on(b.upload_linear(&[weight(64, 5)], &[])).unwrap();
    let table = block_on(b.upload_table(&weight(300, 6))).unwrap();
    for matrix in [&first.matrix, &pair.matrix, &last.matrix] {
        assert_eq!(is_of_host(matrix), source.is_some(), "{kind:?}");
    }
    let ids = b.upload(&HostTensor::from_u32(&[5], &[299, 0, 127, 128, 3])).unwrap();
    let steps = |b: &WebGpu, x: &WebGpuTensor| -> Result<[WebGpuTensor; 4]> {
        Ok([b.linear(x, &first)?, b.swiglu(x, &pair)?, b.linear(x, &last)?, b.gather_rows(&table, &ids)?])
    };
    let inputs = [7, 8, 9].map(|seed| host(DType::F32, &[1, 5, WIDTH], seed));
    let read = |outs: &[WebGpuTensor; 4]| {
        outs.iter().flat_map(|out| block_on(b.download(out)).unwrap().to_f32()).collect::<Vec<f32>>()
    };
    let called = inputs.iter().map(|x| read(&steps(b, &b.upload(x).unwrap()).unwrap())).collect();

    // The activation is the running sum, so a replay reads what the one before wrote.
    let zero = HostTensor::from_f32(&[1, 5, WIDTH], &[0.0; 5 * WIDTH]);
    let mut x = b.upload(&zero).unwrap();
    let added = b.upload(&inputs[0]).unwrap();
    let mut outs = None;
    let recording = b.record(|b| {
        b.residual(&mut x, Branch { y: &added, norm: None, gate: None, eps: 0.0 })?;
        outs = Some(steps(b, &x)?);
        Ok(())
    });
    let recording = recording.unwrap();
    let outs = outs.unwrap();
    let replayed = (0..3).map(|_| {
        b.replay(&recording).unwrap();
        read(&outs)
    });
    [called, replayed.collect()]
}

#[test]
fn streamed_weights_give_the_results_of_resident_ones() {
    for shaders in [Shaders::Plain, Shaders::Direct, Shaders::Half] {
        // Matrices in one piece, and in several.
        for limit in [u64::MAX, 32 << 10] {
            let Some(b) = open(shaders, limit) else { return };
            for kind in KINDS {
                let resident = results(&b, kind, None);
                for source in [StreamSource::Memory, StreamSource::Files] {
                    let streamed = results(&b, kind, Some(source));
                    for (resident, streamed) in resident.iter().flatten().zip(streamed.iter().flatten()) {
                        assert!(
                            resident.iter().all(|value| value.is_finite())
                                && resident.iter().any(|&value| value != 0.0)
                        );
                        assert!(resident == streamed, "{shaders:?} within {limit} bytes: {kind:?} from {source:?}");
                    }
                }
                let [_, replayed] = &resident;
                assert!(
                    replayed[0] != replayed[1] && replayed[1] != replayed[2],
                    "every replay has another activation"
                );
            }
        }
    }
}

/// Uploads a matrix of so many rows and multiplies by it.
fn multiply(b: &WebGpu, rows: usize, source: Option<StreamSource>) {
    let weight = Kind::Float(DType::F32).weight(rows, 1).streamed(source);
    let w = block_on(b.upload_linear(&[weight], &[])).unwrap();
    let x = b.upload(&host(DType::F32, &[1, 1, WIDTH], 2)).unwrap();
    let out = block_on(b.download(&b.linear(&x, &w).unwrap())).unwrap();
    assert_eq!(out.shape(), [1, 1, rows]);
}

#[test]
fn streamed_matrices_take_the_memory_of_one_piece() {
    // Pieces of 256 KiB.
    let rows = 16 << 10;
    let bytes = (rows * WIDTH * 4) as u64;
    let limit = 256 << 10;
    let peak = |source| {
        let b = open(Shaders::Plain, limit)?;
        let before = b.0.pool.peak();
        multiply(&b, rows, source);
        multiply(&b, rows / 2, source);
        Some(b.0.pool.peak() - before)
    };
    let Some(resident) = peak(None) else { return };
    assert!(resident >= bytes, "{resident}");
    for source in [StreamSource::Memory, StreamSource::Files] {
        let Some(streamed) = peak(Some(source)) else { return };
        // A piece, the activations and the output.
        assert!(streamed < 2 * limit + (rows * 4) as u64, "{streamed} from {source:?}");
    }
}

#[test]
fn conversion_to_f16_reuses_its_scratch() {
    let Some(b) = open(Shaders::Half, 256 << 10) else { return };
    let gpu: &Gpu = &b.0;
    let before = gpu.pool.peak();
    for stored in [Stored::F32, Stored::Bf16] {
        let [rows, width] = [8 << 10, WIDTH];
        let mut upload = MatrixUpload::new(gpu, "test", stored, [rows, width], 1, Place::Host).unwrap();
        upload.write(0, 0, &host(stored.dtype(), &[rows, width], 3)).unwrap();
        let matrix = upload.finish().unwrap();
        assert!(is_of_host(&matrix) && matrix.pieces.len() >= 4 && matrix.stored == Stored::F16);
    }
    // One piece of F32, and one of F16.
    let peak = gpu.pool.peak() - before;
    assert!(peak <= (256 + 256) << 10, "{peak}");
}
