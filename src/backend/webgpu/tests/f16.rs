//! Conversion of matrices to F16.

use super::open;
use crate::backend::webgpu::driver::variant::Shaders;
use crate::backend::webgpu::matrix::f16::{convert, exponent, power_of_two, scale_exponent};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::tensor::{DType, HostTensor};
use half::f16;
use pollster::block_on;

/// Every F16, every BF16, and F32 at and around each rounding boundary: the device converts them
/// like the host, and writes zeros behind every row.
#[test]
fn the_device_rounds_like_the_host() {
    let Some(gpu) = open(Shaders::Half) else { return };
    let words: Vec<u32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32().to_bits()).collect();
    // Between two F16 values: at the first one, around their middle, and before the second one.
    let between = words.iter().flat_map(|bits| [0, 0x0fff, 0x1000, 0x1001, 0x1fff].map(|more| bits.wrapping_add(more)));
    let f32s: Vec<u8> = between.flat_map(u32::to_le_bytes).collect();
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (stored, dtype, bytes) in
        [(Stored::F32, DType::F32, f32s), (Stored::Bf16, DType::Bf16, all.clone()), (Stored::F16, DType::F16, all)]
    {
        // Rows of this width are padded.
        let width = 37;
        let row = width * dtype.size();
        let rows = bytes.len() / row;
        let tensor = HostTensor::new(dtype, &[rows, width], bytes[..rows * row].to_vec().into()).unwrap();
        for e in [0, -3, 14] {
            let mut upload = MatrixUpload::new(&gpu, "test", stored, [rows, width], 1, Place::Device).unwrap();
            upload.write(0, 0, &tensor).unwrap();
            let piece = upload.written().unwrap().remove(0);
            let piece = convert(&gpu, "test", stored, width, piece, e).unwrap();
            let stride = Stored::F16.row_stride(width);
            let found = WebGpuTensor::new(&[rows, stride], DType::F16, piece.memory);
            let found = block_on(gpu.download(&found)).unwrap();
            let element = |at: usize| f16::from_le_bytes([found.bytes()[2 * at], found.bytes()[2 * at + 1]]);
            for (i, value) in tensor.to_f32().into_iter().enumerate() {
                let expected = f16::from_f32(value * power_of_two(e));
                let found = element(i / width * stride + i % width);
                // The device may flush F32 below 2^-126 to zero.
                let same = expected.to_bits() == found.to_bits() || value.is_nan() && found.is_nan();
                assert!(same || !value.is_normal() && found == f16::ZERO, "{value:e} · 2^{e} from {dtype}: {found:e}");
            }
            let behind = (0..rows).flat_map(|row| (width..stride).map(move |i| row * stride + i));
            assert!(behind.map(element).all(|value| value.to_bits() == 0), "{dtype}: zeros behind the rows");
        }
    }
}

#[test]
fn scaled_magnitudes_fit_f16() {
    let values = [0.001f32, -3.25, 1.5];
    for stored in Stored::ALL {
        let bytes: Vec<u8> = match stored {
            Stored::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Stored::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            Stored::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        };
        let scale = power_of_two(scale_exponent(exponent(stored, &bytes)));
        assert!((16384.0..32768.0).contains(&(3.25 * scale)), "{scale}");
    }
    assert_eq!(exponent(Stored::Bf16, &[]), 0);
    assert_eq!(scale_exponent(0), 120);
    assert_eq!(scale_exponent(255), -114);
}
