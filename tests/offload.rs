//! Sequential offload: the pictures are the same, and each network is loaded when it is needed and
//! freed afterwards.
#![cfg(feature = "embedded-model")]

#[path = "support/faulty/mod.rs"]
#[allow(dead_code)]
mod faulty;

use faulty::{Fault, Faulty};
use pollster::block_on;
use std::ops::ControlFlow;
use std::sync::Arc;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::pipeline::request::Request;
use zimage::pipeline::{Offload, Pipeline};
use zimage::{BackendChoice, Engine, LoadOptions, Model, Stage};

/// The name of a stage in these tests; all steps share one.
fn seen(stage: Stage) -> String {
    match stage {
        Stage::Load { done: 0, of } => format!("load {of}"),
        Stage::Load { .. } => "loading".into(),
        Stage::TextEncoder => "text".into(),
        Stage::Step { .. } => "step".into(),
        Stage::Vae => "vae".into(),
        _ => "?".into(),
    }
}

fn load<B: Backend>(backend: B, offload: Offload) -> (Pipeline<B>, Vec<String>) {
    let mut stages = Vec::new();
    let progress = &mut |stage| {
        stages.push(seen(stage));
        ControlFlow::Continue(())
    };
    let pipeline = block_on(Pipeline::load_with(backend, &Model::embedded().unwrap(), offload, progress)).unwrap();
    stages.dedup();
    (pipeline, stages)
}

/// Two prompts with two pictures each, in batches of two, with guidance.
fn request() -> Request {
    Request {
        prompts: vec!["a red fox".into(), "a ship in a storm at night".into()],
        width: Some(48),
        height: Some(64),
        steps: Some(2),
        guidance: Some(2.0),
        count: 2,
        batch: 2,
        ..Request::new("")
    }
}

fn draw<B: Backend>(pipeline: &Pipeline<B>) -> (Vec<Vec<u8>>, Offload, Vec<String>) {
    let mut stages = Vec::new();
    let progress = &mut |stage| {
        stages.push(seen(stage));
        ControlFlow::Continue(())
    };
    let job = request().check(pipeline.config()).unwrap();
    let (pictures, drawn) = block_on(pipeline.generate(&job, progress)).unwrap();
    stages.dedup();
    (pictures.iter().map(|picture| picture.bytes().to_vec()).collect(), drawn.offload, stages)
}

#[test]
fn sequential_offload_draws_the_same_pictures() {
    let (resident, loaded) = load(Cpu::new(), Offload::None);
    let (known, offload, stages) = draw(&resident);
    assert_eq!((known.len(), offload), (4, Offload::None));
    assert_eq!(stages, ["text", "step", "vae", "text", "step", "vae"]);

    let (in_turn, first) = load(Cpu::new(), Offload::Sequential);
    let encoder = Arc::downgrade(&block_on(in_turn.text_encoder()).unwrap());
    assert!(encoder.upgrade().is_some());
    let (pictures, offload, stages) = draw(&in_turn);
    assert!(pictures == known && offload == Offload::Sequential);
    assert!(encoder.upgrade().is_none(), "the text encoder is still there");
    // All prompts are encoded before the transformer is loaded, which then stays.
    let transformer = &stages[1];
    assert_eq!(stages, ["text", transformer, "loading", "step", "vae", "step", "vae"]);
    let bytes = |stage: &str| stage.strip_prefix("load ").unwrap().parse::<u64>().unwrap();
    assert_eq!(bytes(&first[0]) + bytes(transformer), bytes(&loaded[0]));

    // The next request loads the text encoder again. The transformer is freed for it; the VAE is
    // not loaded.
    let transformer_before = Arc::downgrade(&block_on(in_turn.transformer()).unwrap());
    let (pictures, _, stages) = draw(&in_turn);
    assert!(pictures == known);
    assert!(transformer_before.upgrade().is_none(), "the first transformer is still there");
    let text = &stages[0];
    assert_eq!(stages, [text, "loading", "text", transformer, "loading", "step", "vae", "step", "vae"]);
    assert!(bytes(text) < bytes(&first[0]));
}

#[test]
fn auto_offloads_where_memory_is_short() {
    let with = |bytes| load(Faulty::new(Cpu::new(), Fault::FreeMemory(bytes)), Offload::Auto).0.plan().offload();
    assert_eq!(with(u64::MAX), Offload::None);
    assert_eq!(with(0), Offload::Sequential);
    // The limit covers the weights and the activations.
    let (pipeline, stages) = load(Faulty::new(Cpu::new(), Fault::FreeMemory(u64::MAX)), Offload::None);
    let weights: u64 = stages[0].strip_prefix("load ").unwrap().parse().unwrap();
    let peak = pipeline.plan().peak;
    assert!(peak > weights);
    assert_eq!([weights, peak].map(with), [Offload::Sequential, Offload::None]);
    assert_eq!(load(Faulty::new(Cpu::new(), Fault::FreeMemory(0)), Offload::None).0.plan().offload(), Offload::None);
    assert_eq!(load(Cpu::new(), Offload::Auto).0.plan().offload(), Offload::None, "the free memory is unknown");
}

#[test]
fn limited_device_draws_without_options() {
    let (limited, _) = load(Faulty::new(Cpu::new(), Fault::FreeMemory(1 << 20)), Offload::Auto);
    let (pictures, offload, _) = draw(&limited);
    let (known, ..) = draw(&load(Cpu::new(), Offload::None).0);
    assert!(pictures == known && offload == Offload::Sequential);
}

#[test]
fn engine_reports_the_offload_mode() {
    let progress = &mut |_| ControlFlow::Continue(());
    let options = LoadOptions { residency: Offload::Sequential.into(), ..BackendChoice::Cpu.into() };
    let engine = block_on(Engine::load(&Model::embedded().unwrap(), options, progress)).unwrap();
    let output = block_on(engine.generate(&Request { count: 1, ..request() }, progress)).unwrap();
    assert_eq!((output.images.len(), output.run.offload), (2, Offload::Sequential));
    assert!(output.run.timings.load_ms > 0.0);
}

/// The names and shapes that a plan counts are those of the files.
#[test]
fn all_tensors_of_the_embedded_model_are_counted() {
    use zimage::model::device_bytes;
    use zimage::model::text_encoder::TextEncoder;
    use zimage::model::transformer::Transformer;
    use zimage::weights::{Part, Tensors};
    let (b, model) = (Cpu::new(), Model::embedded().unwrap());
    let tensors = |part| block_on(Tensors::of(model.folder(), part)).unwrap();
    // Without biases and norms.
    let matrices = |tensors: &Tensors, unused: &dyn Fn(&str) -> bool| -> u64 {
        let wanted = |(name, shape): &(&str, &[usize])| shape.len() > 1 && !unused(name) && !name.contains("pad_token");
        tensors.names().filter(wanted).map(|(name, shape)| device_bytes(&b, tensors, name, shape)).sum()
    };
    let config = model.config();
    let transformer = tensors(Part::Transformer);
    let counted = Transformer::bytes(&b, &transformer, &config.transformer);
    assert_eq!(counted.total(), matrices(&transformer, &|_| false));
    assert_eq!(counted.blocks.len(), config.transformer.n_layers + config.transformer.n_refiner_layers);
    let text_encoder = tensors(Part::TextEncoder);
    let counted = TextEncoder::bytes(&b, &text_encoder, &config.text_encoder);
    let unused = |name: &str| TextEncoder::<Cpu>::leaves(&config.text_encoder, name);
    assert_eq!(counted.total(), matrices(&text_encoder, &unused));
    assert!(counted.table > 0 && counted.largest() < counted.blocks[0].bytes);
    assert_eq!(tensors(Part::Vae).parameters(), config.vae.parameters());
}
