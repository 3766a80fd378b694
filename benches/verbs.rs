//! The hot verbs on `cpu`, at the sizes of the embedded default (256×256: 288 tokens of 256) and, for the products, at
//! a slice of full-size Z-Image. `cargo bench --bench verbs`; criterion prints elements as FLOP, so "Gelem/s" is GFLOP/s.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pollster::block_on;
use std::hint::black_box;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::conformance::noise;
use zimage::tensor::HostTensor;

fn tensor(shape: &[usize]) -> HostTensor {
    HostTensor::from_f32(shape, &noise(1, shape.iter().product()))
}

/// Stored as bf16, as models are: the upper halves of f32.
fn weight(shape: &[usize]) -> HostTensor {
    let values = noise(2, shape.iter().product());
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect();
    HostTensor::new(zimage::tensor::DType::Bf16, shape, bytes.into()).expect("two bytes an element")
}

fn products(c: &mut Criterion) {
    let b = Cpu::new();
    let mut group = c.benchmark_group("product");
    group.sample_size(20);
    for (name, m, n, k) in [("emoji qkv", 288, 768, 256), ("z-image qkv, 288 tokens", 288, 11520, 3840)] {
        let x = b.upload(&tensor(&[1, m, k])).expect("upload");
        let w = block_on(b.upload_linear(&[weight(&[n, k]).into()], &[])).expect("upload");
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        group.bench_function(format!("linear, {name}"), |bench| bench.iter(|| b.linear(black_box(&x), &w)));
    }
    let (m, f, k) = (288, 682, 256);
    let x = b.upload(&tensor(&[1, m, k])).expect("upload");
    let w = block_on(b.upload_swiglu(&weight(&[f, k]).into(), &weight(&[f, k]).into())).expect("upload");
    group.throughput(Throughput::Elements((4 * m * f * k) as u64));
    group.bench_function("swiglu, emoji", |bench| bench.iter(|| b.swiglu(black_box(&x), &w)));

    let heads = Heads { query: 4, key_value: 4, dim: 64 };
    let qkv = b.upload(&tensor(&[1, m, heads.fused_width()])).expect("upload");
    group.throughput(Throughput::Elements((4 * m * m * k) as u64));
    group.bench_function("attention, emoji", |bench| {
        bench.iter(|| b.attention(black_box(&qkv), heads, Mask { causal: false, lengths: None }));
    });

    let geometry = Conv2d { stride: 1, pad: [1; 4], upsample: false };
    for (side, channels) in [(64, 128), (256, 32)] {
        let x = b.upload(&tensor(&[1, side, side, channels])).expect("upload");
        let w = b.upload_conv2d(&weight(&[channels, channels, 3, 3]), None).expect("upload");
        group.throughput(Throughput::Elements((2 * side * side * channels * channels * 9) as u64));
        group.bench_function(format!("conv2d, {side}×{side}×{channels}"), |bench| {
            bench.iter(|| b.conv2d(black_box(&x), &w, geometry, None));
        });
    }
    group.finish();
}

fn passes(c: &mut Criterion) {
    let b = Cpu::new();
    let mut group = c.benchmark_group("pass");
    let (m, d) = (288, 256);
    let mut x = b.upload(&tensor(&[1, m, d])).expect("upload");
    let y = b.upload(&tensor(&[1, m, d])).expect("upload");
    let norm = b.upload(&weight(&[d])).expect("upload");
    group.throughput(Throughput::Bytes((4 * 4 * m * d) as u64));
    group.bench_function("residual_norm, emoji", |bench| {
        bench.iter(|| {
            let branch = Branch { y: &y, norm: Some(&norm), gate: None, eps: 1e-5 };
            b.residual_norm(black_box(&mut x), branch, RmsNorm { weight: &norm, scale: None, eps: 1e-5 })
        });
    });
    let (side, channels) = (256, 32);
    let x = b.upload(&tensor(&[1, side, side, channels])).expect("upload");
    let (w, bias) = (b.upload(&weight(&[channels])).expect("upload"), b.upload(&weight(&[channels])).expect("upload"));
    group.throughput(Throughput::Bytes((2 * 4 * side * side * channels) as u64));
    group.bench_function("group_norm with SiLU, 256×256×32", |bench| {
        bench.iter(|| b.group_norm(black_box(&x), &w, &bias, 16, 1e-6, true));
    });
    group.finish();
}

criterion_group!(verbs, products, passes);
criterion_main!(verbs);
