//! A model with remote files: it loads by byte ranges, draws the same picture as the model on disk,
//! and turns every transfer failure into an error.

#[path = "support/slow.rs"]
mod slow;

use pollster::block_on;
use slow::{PIECE, Slow};
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
#[cfg(feature = "webgpu")]
use zimage::backend::webgpu::{Adapters, Shaders, WebGpu};
use zimage::weights::ModelFolder;
use zimage::{BackendChoice, Engine, ErrorKind, Model, Request, Stage};

/// The files of the embedded default.
fn emoji() -> Arc<Slow> {
    Slow::new("models/emoji", "text_encoder/model.safetensors")
}

fn remote(files: &Arc<Slow>) -> Model {
    let folder = block_on(ModelFolder::remote("emoji", files.clone())).unwrap();
    block_on(Model::new(folder)).unwrap()
}

/// True if this machine has a device for `backend`; otherwise prints a line.
fn present(backend: &BackendChoice) -> bool {
    #[cfg(feature = "webgpu")]
    if let BackendChoice::WebGpu(shaders, adapters) = backend
        && let Err(error) = block_on(WebGpu::open_with(adapters.clone(), *shaders, u64::MAX))
    {
        let _ = writeln!(std::io::stderr(), "skipped: webgpu: {error}");
        return false;
    }
    true
}

/// Asserts that loading matrices and tables in pieces does not change the picture. With
/// `on_device`, few pieces are in host memory at a time.
fn draws_the_same_picture(backend: BackendChoice, on_device: bool) {
    if !present(&backend) {
        return;
    }
    let files = emoji();
    let mut seen = Vec::new();
    let mut watch = |stage| {
        if let Stage::Load { done, of } = stage {
            seen.push((done, of));
        }
        ControlFlow::Continue(())
    };
    let far = block_on(Engine::load(&remote(&files), backend.clone(), &mut watch)).unwrap();
    let (last, of) = seen[seen.len() - 1];
    assert!(seen[0] == (0, of) && last == of && seen.is_sorted(), "{seen:?}");

    let whole: u64 = ["text_encoder/model", "transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
        .iter()
        .map(|file| fs::metadata(files.path(&format!("{file}.safetensors"))).unwrap().len())
        .sum();
    assert!(of <= whole && of > whole / 2, "{of} of {whole} bytes are weights");
    let (reads, longest) = (files.reads.load(SeqCst), files.longest.load(SeqCst));
    assert!(reads > 1000 && (longest as u64) < whole / 20, "{reads} reads, the longest of {longest} bytes");

    let held = files.held.most.load(SeqCst);
    assert!(!on_device || held < 8 * PIECE as usize, "{held} bytes of the text encoder were allocated at once");

    let near = Model::open(&files.path("")).unwrap();
    let near = block_on(Engine::load(&near, backend, &mut |_| ControlFlow::Continue(()))).unwrap();
    let request = Request { seed: 7, steps: Some(1), width: Some(64), height: Some(64), ..Request::new("a red fox") };
    let draw = |engine: &Engine| block_on(engine.generate(&request, &mut |_| ControlFlow::Continue(()))).unwrap();
    assert_eq!(draw(&far).images, draw(&near).images);
}

#[test]
fn remote_model_draws_the_same_picture() {
    draws_the_same_picture(BackendChoice::Cpu, false);
}

#[cfg(feature = "webgpu")]
#[test]
fn remote_model_draws_the_same_on_webgpu() {
    draws_the_same_picture(BackendChoice::WebGpu(Shaders::Plain, Adapters::Any), true);
    draws_the_same_picture(BackendChoice::WebGpu(Shaders::Half, Adapters::Any), true);
}

fn can_be_cancelled_and_can_fail(backend: BackendChoice) {
    if !present(&backend) {
        return;
    }
    let files = emoji();
    let model = remote(&files);
    let mut all = 0;
    let mut count = |_| {
        all += 1;
        ControlFlow::Continue(())
    };
    drop(block_on(Engine::load(&model, backend.clone(), &mut count)).unwrap());
    // The run is interrupted in the first vectors, in a matrix, and shortly before its end.
    for most in [20, all / 3, all - 20] {
        let (mut calls, mut read) = (0, 0);
        let mut some = |_| {
            calls += 1;
            read = files.reads.load(SeqCst);
            if calls < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let cancelled = block_on(Engine::load(&model, backend.clone(), &mut some)).expect_err("cancelled");
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
        assert_eq!(calls, most);
        let more = files.reads.load(SeqCst) - read;
        assert!(more < 100, "it goes on reading: {more} times");
    }
    files.broken.store(true, SeqCst);
    let lost = block_on(Engine::load(&model, backend, &mut |_| ControlFlow::Continue(()))).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Files);
    assert!(lost.to_string().ends_with("the connection is lost"), "{lost}");
}

#[test]
fn loading_can_be_cancelled_and_can_fail() {
    can_be_cancelled_and_can_fail(BackendChoice::Cpu);
}

#[cfg(feature = "webgpu")]
#[test]
fn loading_can_be_cancelled_and_can_fail_on_webgpu() {
    can_be_cancelled_and_can_fail(BackendChoice::WebGpu(Shaders::Half, Adapters::Any));
}
