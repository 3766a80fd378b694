//! One picture of the embedded default on `cpu`: 256×256 with its own steps and
//! guidance, loading excluded. Run with
//! `cargo bench --bench picture`.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use std::ops::ControlFlow;
use zimage::pipeline::request::Request;
use zimage::{BackendChoice, Engine, Model};

fn picture(c: &mut Criterion) {
    let model = Model::embedded().expect("the embedded default");
    let engine = pollster::block_on(Engine::load(&model, BackendChoice::Cpu, &mut |_| ControlFlow::Continue(())))
        .expect("its weights");
    let mut group = c.benchmark_group("picture");
    group.sample_size(10);
    group.bench_function("embedded default", |bench| {
        let request = Request { seed: 7, ..Request::new("a red fox") };
        bench.iter(|| {
            pollster::block_on(engine.generate(&request, &mut |_| ControlFlow::Continue(()))).expect("a picture")
        });
    });
    group.finish();
}

criterion_group!(pictures, picture);
criterion_main!(pictures);
