//! The backends and the pipeline against diffusers in float32, on two small random models, stage by
//! stage. Each pair of a stage and a backend has one test.

#[path = "support/golden.rs"]
mod golden;

use golden::{Golden, OnCpu, Tensors, Tested, download, floats, goldens, json, number, numbers, path, text};
use pollster::block_on;
use serde_json::Value;
use sha2::Digest;
use std::io::Write;
use std::ops::ControlFlow;
use zimage::backend::*;
use zimage::model::transformer::{Clock, ProbePoint, padded};
use zimage::model::vae::tiling::{Home, Tile};
use zimage::pipeline::guidance::Guidance;
use zimage::pipeline::noise;
use zimage::pipeline::progress::{self, Progress, Run};
use zimage::pipeline::request::Request;
use zimage::pipeline::schedule::Schedule;
use zimage::tensor::HostTensor;
use zimage::{Model, VaeTile};

/// Defines a test for each stage, in a module for each backend.
macro_rules! on {
    ($backend:ident, $tested:ident: $($stage:ident),+ $(,)?) => {
        mod $backend {
            $(#[test]
            fn $stage() {
                super::$stage::<super::golden::$tested>();
            })+
        }
    };
}

macro_rules! on_backends {
    ($($stage:ident),+ $(,)?) => {
        on!(cpu, OnCpu: $($stage),+);
        #[cfg(feature = "webgpu")]
        on!(webgpu_plain, OnPlainShaders: $($stage),+);
        #[cfg(feature = "webgpu")]
        on!(webgpu_direct, OnDirectShaders: $($stage),+);
        #[cfg(feature = "webgpu")]
        on!(webgpu_half, OnHalves: $($stage),+);
        #[cfg(feature = "webgpu")]
        on!(webgpu_cooperative, OnCooperativeMatrices: $($stage),+);
    };
}

on_backends![
    text_features,
    transformer_block_by_block,
    loops_step_by_step,
    whole_pictures,
    a_batch_draws_what_single_pictures_draw,
    autoencoder,
    autoencoder_in_tiles,
    guidance_and_its_cap,
    cancelling_ends_a_run_between_steps,
    the_embedded_default,
];

#[test]
fn tokens() {
    for golden in goldens::<OnCpu>() {
        for case in golden.cases("tokens") {
            let ids = golden.pipeline.tokenizer().encode(text(&case["prompt"])).unwrap().ids;
            let expected: Vec<u32> = numbers(&case["ids"]).into_iter().map(|id| id as u32).collect();
            assert_eq!(ids, expected, "{}: {}", golden.name, case["name"]);
        }
    }
}

fn text_features<T: Tested>() {
    for golden in goldens::<T>() {
        let encoder = block_on(golden.pipeline.text_encoder()).unwrap();
        let b = golden.pipeline.backend();
        let hidden = golden.pipeline.config().text_encoder.hidden_size;
        let encode = |case: &Value| golden.pipeline.tokenizer().encode(text(&case["prompt"])).unwrap().ids;
        let prompts: Vec<Vec<u32>> = golden.cases("text").iter().map(encode).collect();
        let tokens = padded(prompts.iter().map(Vec::len).max().unwrap());
        // All prompts are in one ragged batch; the goldens have block outputs for the first.
        let short = prompts[0].len() * hidden;
        let mut blocks = 0;
        let features = encoder.forward(b, &prompts, tokens, &mut |block, x| {
            blocks += 1;
            golden.expect(&format!("text.short.hidden.{}", block + 1), &download(b, x)?[..short], T::STAGE);
            Ok(())
        });
        assert_eq!(blocks, golden.pipeline.config().text_encoder.num_hidden_layers - 1);
        let features = download(b, &features.unwrap()).unwrap();
        for (i, (case, prompt)) in golden.cases("text").iter().zip(&prompts).enumerate() {
            let rows = &features[i * tokens * hidden..][..prompt.len() * hidden];
            golden.expect(&format!("text.{}.features", text(&case["name"])), rows, T::STAGE);
        }
    }
}

fn transformer_block_by_block<T: Tested>() {
    for golden in goldens::<T>() {
        for case in golden.cases("transformer") {
            transformer_case(&golden, case);
        }
    }
}

fn transformer_case<T: Tested>(golden: &Golden<T>, case: &Value) {
    let prefix = format!("transformer.{}", text(&case["name"]));
    let transformer = block_on(golden.pipeline.transformer()).unwrap();
    let (b, config) = (golden.pipeline.backend(), &golden.pipeline.config().transformer);
    let (batch, lengths) = (number(&case["batch"]), numbers(&case["caption_tokens"]));
    let (image, captions) = (number(&case["image_padded"]), numbers(&case["caption_padded"]));
    let longest = captions.iter().copied().max().unwrap();

    // Rows after the end of a caption must not affect the result.
    let mut features = vec![1e3; batch * longest * config.cap_feat_dim];
    for (i, features) in features.chunks_exact_mut(longest * config.cap_feat_dim).enumerate() {
        let own = golden.tensors.f32(&format!("{prefix}.caption.{i}")).to_f32();
        features[..own.len()].copy_from_slice(&own);
    }
    let features = b.upload(&HostTensor::from_f32(&[batch, longest, config.cap_feat_dim], &features)).unwrap();

    let blocks = case["blocks"].as_bool().unwrap();
    let mut seen = 0;
    let mut compare = |stage: ProbePoint, x: &<T::Backend as Runtime>::Tensor| {
        let values = download(b, x)?;
        let (name, rows) = match stage {
            ProbePoint::Timestep => {
                golden.expect(&format!("{prefix}.t_emb"), &values, T::STAGE);
                return Ok(());
            }
            ProbePoint::EmbedPatches => ("image_tokens".into(), vec![image; batch]),
            ProbePoint::EmbedCaption => ("caption_tokens".into(), captions.clone()),
            ProbePoint::NoiseRefiner(k) => (format!("noise_refiner.{k}"), vec![image; batch]),
            ProbePoint::ContextRefiner(k) => (format!("context_refiner.{k}"), captions.clone()),
            ProbePoint::Layer(k) => (format!("layers.{k}"), captions.iter().map(|caption| image + caption).collect()),
        };
        for (i, rows) in rows.iter().enumerate().take(if blocks { batch } else { 0 }) {
            let item = &values[i * values.len() / batch..][..rows * config.dim];
            golden.expect(&format!("{prefix}.{name}.{i}"), item, T::STAGE);
            seen += 1;
        }
        Ok(())
    };
    let refined = transformer.captions(b, &features, &lengths, &mut compare).unwrap();
    let items: Vec<usize> = (0..batch).collect();
    let size = [number(&case["height"]), number(&case["width"])];
    let sequence = transformer.sequence(b, &refined, batch, &items, size).unwrap();
    let latents = b.upload(&golden.tensors.f32(&format!("{prefix}.latents"))).unwrap();
    let times: Vec<f32> = floats(&case["times"]).iter().map(|t| t * config.t_scale as f32).collect();
    let times = b.upload(&HostTensor::from_f32(&[1, batch], &times)).unwrap();
    let step = b.upload(&HostTensor::from_u32(&[1], &[0])).unwrap();
    let clock = Clock { times: &times, step: &step };
    let velocity = transformer.forward(b, &latents, clock, &refined, &sequence, &mut compare).unwrap();
    golden.expect(&format!("{prefix}.velocity"), &download(b, &velocity).unwrap(), T::STAGE);
    let stages = 2 + 2 * config.n_refiner_layers + config.n_layers;
    assert_eq!(
        seen,
        if blocks { stages * batch } else { 0 },
        "{}: {prefix}: not every block was compared",
        golden.name
    );
}

#[test]
fn schedules() {
    for golden in goldens::<OnCpu>() {
        let config = golden.pipeline.config();
        for steps in numbers(&golden.cases["schedule"]["steps"]) {
            let schedule = Schedule::new(&config.scheduler, steps, [32, 32]).unwrap();
            let recorded = |what: &str| golden.tensors.f32(&format!("schedule.{steps}.{what}")).to_f32();
            assert_eq!(schedule.sigmas(), recorded("sigmas"), "{} steps", steps);
            assert_eq!(schedule.times(1.0), recorded("times"), "{} steps", steps);
            let guidance = Guidance { scale: 0.0, normalization: 0.0, truncation: 1.0 };
            let deltas: Vec<f32> = schedule.step_rows(&guidance).iter().map(|row| -row.prediction).collect();
            assert_eq!(deltas, recorded("deltas"), "{} steps", steps);
        }
    }
}

#[test]
fn noise_of_torch() {
    let (cases, tensors) = (json("noise.json"), Tensors::read("noise.safetensors"));
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let seed: i128 = case["seed"].to_string().parse().unwrap();
        let count = number(&case["count"]);
        let values = noise::normal(seed as u64, count);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let digest: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, text(&case["sha256"]), "{count} values of seed {seed}");
        let (part, name) = if case["whole"].as_bool().unwrap() {
            (&values[..], format!("noise.{seed}.{count}"))
        } else {
            (&values[..64], format!("noise.{seed}.{count}.head"))
        };
        assert_eq!(part, tensors.f32(&name).to_f32(), "{name}");
    }
}

/// Records the latents after every step.
struct Latents(Vec<HostTensor>);

impl Progress for Latents {
    fn update(&mut self, _: progress::Stage) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn wants_latents(&self) -> bool {
        true
    }
    fn latents(&mut self, latents: &HostTensor) {
        self.0.push(latents.clone());
    }
}

fn loops_step_by_step<T: Tested>() {
    for golden in goldens::<T>() {
        for case in golden.cases("loops") {
            loop_case(&golden, case);
        }
    }
}

fn loop_case<T: Tested>(golden: &Golden<T>, case: &Value) {
    let name = text(&case["name"]);
    let (pipeline, steps, count) = (&golden.pipeline, number(&case["steps"]), number(&case["count"]));
    let tokens = |prompts: &[&str]| -> Vec<Vec<u32>> {
        let each = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, count));
        each.map(|prompt| pipeline.tokenizer().encode(prompt).unwrap().ids).collect()
    };
    let prompts: Vec<&str> = case["prompts"].as_array().unwrap().iter().map(text).collect();
    let negatives = case["negatives"].as_array().map(|list| list.iter().map(text).collect());
    let negatives = negatives.unwrap_or(vec![""; prompts.len()]);
    let guidance = Guidance {
        scale: case["guidance"].as_f64().unwrap() as f32,
        normalization: case["cfg_normalization"].as_f64().unwrap() as f32,
        truncation: case["cfg_truncation"].as_f64().unwrap(),
    };
    let schedule = Schedule::new(&pipeline.config().scheduler, steps, [32, 32]).unwrap();
    let guided: Vec<bool> = case["guided"].as_array().unwrap().iter().map(|on| on.as_bool().unwrap()).collect();
    assert_eq!(schedule.guided(&guidance), guided, "{}: {name}", golden.name);

    let encoded = if guided.contains(&true) {
        block_on(pipeline.encode(&tokens(&prompts), &tokens(&negatives))).unwrap()
    } else {
        block_on(pipeline.encode(&tokens(&prompts), &[])).unwrap()
    };
    let noise = golden.tensors.f32(&format!("loop.{name}.noise"));
    let mut latents = Latents(Vec::new());
    let mut run = Run::new(&mut latents, steps);
    let last = block_on(pipeline.denoise(&noise, &encoded, &schedule, &guidance, &mut run)).unwrap();
    assert_eq!(latents.0.len(), steps);
    for (step, latents) in latents.0.iter().enumerate() {
        golden.expect(&format!("loop.{name}.step.{step}"), &latents.to_f32(), T::LATENTS);
    }
    let last = block_on(pipeline.backend().download(&last)).unwrap();
    assert_eq!(latents.0[steps - 1].bytes(), last.bytes());
    let pictures = decode(golden, &last);
    let pixels: Vec<u8> = pictures.iter().flat_map(|picture| picture.bytes().to_vec()).collect();
    expect_rgb(golden, &format!("loop.{name}.rgb"), &pixels);
}

/// Decodes latents to pictures, outside the loop.
fn decode<T: Tested>(golden: &Golden<T>, latents: &HostTensor) -> Vec<HostTensor> {
    let vae = golden.pipeline.vae();
    let size = [latents.shape()[2], latents.shape()[3]].map(|side| side * golden.pipeline.config().vae.scale_factor());
    let mut tiles = vae.decoder_tiles(golden.pipeline.backend(), VaeTile::Auto, size, |_| true);
    let latents = golden.pipeline.backend().upload(latents).unwrap();
    block_on(golden.pipeline.decode(&latents, &mut tiles)).unwrap()
}

/// Asserts a difference of at most 1 level, except for the backend's permitted share of outliers.
fn expect_rgb<T: Tested>(golden: &Golden<T>, name: &str, pixels: &[u8]) {
    let recorded = golden.tensors.u8(name);
    assert_eq!(pixels.len(), recorded.len(), "{}: {name}", golden.name);
    let far = pixels.iter().zip(recorded.bytes()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
    assert!(far * 1000 <= T::FAR * pixels.len(), "{}: {name}: {far} of {} values are wrong", golden.name, pixels.len());
}

fn whole_pictures<T: Tested>() {
    for golden in goldens::<T>() {
        // A request can ask for these loops: each picture's noise has its own seed.
        for name in ["picture", "cfg_truncated"] {
            let case = golden.cases("loops").iter().find(|case| case["name"] == name).unwrap();
            let request = Request {
                width: Some(number(&case["width"])),
                height: Some(number(&case["height"])),
                steps: Some(number(&case["steps"])),
                guidance: Some(case["guidance"].as_f64().unwrap() as f32),
                cfg_truncation: case["cfg_truncation"].as_f64().unwrap(),
                seed: number(&case["seeds"][0]) as u64,
                ..Request::new(text(&case["prompts"][0]))
            };
            let job = request.check(golden.pipeline.config()).unwrap();
            let mut ignore = |_| ControlFlow::Continue(());
            let (pictures, drawn) = block_on(golden.pipeline.generate(&job, &mut ignore)).unwrap();
            assert_eq!((drawn.timings.step_ms.len(), drawn.warnings.len()), (job.steps, 0));
            expect_rgb(&golden, &format!("loop.{name}.rgb"), pictures[0].bytes());
        }
    }
}

fn a_batch_draws_what_single_pictures_draw<T: Tested>() {
    let Some(golden) = Golden::<T>::load("sharded") else { return };
    let request = Request {
        prompts: vec!["a red fox".into(), "two owls on a wooden table beside a river".into()],
        width: Some(32),
        height: Some(48),
        steps: Some(2),
        guidance: Some(1.5),
        count: 2,
        seed: 7,
        ..Request::new("")
    };
    let draw = |batch| {
        let request = Request { batch, ..request.clone() };
        let job = request.check(golden.pipeline.config()).unwrap();
        block_on(golden.pipeline.generate(&job, &mut |_| ControlFlow::Continue(()))).unwrap().0
    };
    let alone: Vec<u8> = draw(1).iter().flat_map(|picture| picture.bytes().to_vec()).collect();
    let pictures: std::collections::HashSet<&[u8]> = alone.chunks_exact(alone.len() / 4).collect();
    assert_eq!(pictures.len(), 4, "two pictures are the same");
    for batch in [3, 4] {
        let together = draw(batch).into_iter().flat_map(|picture| picture.bytes().to_vec());
        let far = together.zip(&alone).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert_eq!(far, 0, "batch {batch}");
    }
}

fn autoencoder<T: Tested>() {
    for golden in goldens::<T>() {
        let vae = golden.pipeline.vae();
        let b = golden.pipeline.backend();
        let rgb = golden.tensors.u8("vae.encode.rgb");
        let pixels = b.upload(&rgb.reshaped(&[&[1], rgb.shape()].concat()).unwrap()).unwrap();
        let latents = vae.encode(b, &pixels).unwrap();
        golden.expect("vae.encode.latents", &download(b, &latents).unwrap(), T::STAGE);

        let latents = golden.tensors.f32("vae.decode.latents");
        let decoded = vae.decode_unrounded(b, &b.upload(&latents).unwrap(), 0..latents.shape()[0]).unwrap();
        let image = golden.tensors.f32("vae.decode.image");
        golden.expect("vae.decode.image", &channels_first(&download(b, &decoded).unwrap(), image.shape()), T::STAGE);
        let pictures = decode(&golden, &latents);
        let pixels: Vec<u8> = pictures.iter().flat_map(|picture| picture.bytes().to_vec()).collect();
        expect_rgb(&golden, "vae.decode.rgb", &pixels);
    }
}

/// Tiles give what diffusers computes without tiles. Tiles of 8 pixels are bands of one row.
fn autoencoder_in_tiles<T: Tested>() {
    for golden in goldens::<T>() {
        let vae = golden.pipeline.vae();
        let b = golden.pipeline.backend();
        let (rgb, latents) = (golden.tensors.u8("vae.encode.rgb"), golden.tensors.f32("vae.decode.latents"));
        let size = [rgb.shape()[0], rgb.shape()[1]];
        let image = golden.tensors.f32("vae.decode.image");
        let items = image.shape()[0];
        let device = b.upload(&latents).unwrap();
        for tile in [8, 16, 32] {
            let mut tiles = vae.encoder_tiles(b, VaeTile::Pixels(tile), size);
            let encoded = block_on(vae.encode_picture(b, &rgb, &mut tiles)).unwrap();
            assert_eq!((tiles.pixels(), tiles.warning()), (Some(tile), None));
            golden.expect("vae.encode.latents", &encoded.to_f32(), T::STAGE);

            for home in [Home::Device, Home::Host] {
                let tile = Tile { pixels: tile, home };
                let decode = |item| block_on(vae.decode_tiles_unrounded(b, &device, item, tile)).unwrap().to_f32();
                let decoded: Vec<f32> = (0..items).flat_map(decode).collect();
                golden.expect("vae.decode.image", &channels_first(&decoded, image.shape()), T::STAGE);
            }

            let mut tiles = vae.decoder_tiles(b, VaeTile::Pixels(tile), size, |_| true);
            let pictures = block_on(golden.pipeline.decode(&device, &mut tiles)).unwrap();
            assert_eq!((tiles.pixels(), pictures[0].shape()), (Some(tile), rgb.shape()));
            let pixels: Vec<u8> = pictures.iter().flat_map(|picture| picture.bytes().to_vec()).collect();
            expect_rgb(&golden, "vae.decode.rgb", &pixels);
        }
    }
}

/// Converts `[B, H, W, C]` to `[B, C, H, W]`, the given `shape`.
fn channels_first(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    let item =
        |item: &[f32]| (0..channels * pixels).map(|i| item[i % pixels * channels + i / pixels]).collect::<Vec<_>>();
    values.chunks_exact(channels * pixels).flat_map(item).collect()
}

fn guidance_and_its_cap<T: Tested>() {
    for golden in goldens::<T>() {
        let case = golden.cases("loops").iter().find(|case| case["name"] == "cfg_normalized").unwrap();
        let b = golden.pipeline.backend();
        let guidance = Guidance {
            scale: case["guidance"].as_f64().unwrap() as f32,
            normalization: case["cfg_normalization"].as_f64().unwrap() as f32,
            truncation: 1.0,
        };
        let steps = number(&case["steps"]);
        let schedule = Schedule::new(&golden.pipeline.config().scheduler, steps, [32, 32]).unwrap();
        let rows: Vec<f32> = schedule.step_rows(&guidance).iter().flat_map(SamplerRow::values).collect();
        let table = b.upload(&HostTensor::from_f32(&[steps, 7], &rows)).unwrap();
        let mut step = b.upload(&HostTensor::from_u32(&[1], &[0])).unwrap();
        let mut latents = b.upload(&golden.tensors.f32("loop.cfg_normalized.noise")).unwrap();
        for i in 0..steps {
            let prediction = b.upload(&golden.tensors.f32(&format!("loop.cfg_normalized.velocity.{i}"))).unwrap();
            let sampler = SamplerState { table: &table, history: None, noise: None };
            b.sampler_step(&mut latents, &prediction, sampler, &mut step).unwrap();
            let name = format!("loop.cfg_normalized.step.{i}");
            golden.expect(&name, &download(b, &latents).unwrap(), T::STEP);
        }
    }
}

fn cancelling_ends_a_run_between_steps<T: Tested>() {
    let Some(golden) = Golden::<T>::load("single") else { return };
    let request = Request { width: Some(16), height: Some(16), steps: Some(5), ..Request::new("a red fox") };
    let job = request.check(golden.pipeline.config()).unwrap();
    let mut seen = Vec::new();
    let result = block_on(golden.pipeline.generate(&job, &mut |stage| {
        seen.push(stage);
        let stop = matches!(stage, progress::Stage::Step { done: 2, .. });
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }));
    assert!(matches!(result, Err(zimage::Error::Cancelled)));
    let step = |done| progress::Stage::Step { done, of: 5 };
    assert_eq!(seen, [progress::Stage::TextEncoder, step(0), step(1), step(2)]);
}

/// The embedded default draws the same picture as diffusers, from prompt to pixels.
fn the_embedded_default<T: Tested>() {
    let model = Model::open(&path("../../models/emoji")).unwrap();
    let Some(golden) = Golden::<T>::of("emoji", &model) else { return };
    let cases = golden.cases.as_array().unwrap();
    let drawn = if std::env::var_os("ZIMAGE_SLOW").is_some() { cases.len() } else { T::QUICK.min(cases.len()) };
    if drawn < cases.len() {
        // The test harness hides the stdout of passing tests, but not this.
        let left = cases.len() - drawn;
        let line = format!("skipped: webgpu: {left} pictures of the embedded default; tests/run --all draws them");
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    for (i, case) in cases[..drawn].iter().enumerate() {
        let request = Request {
            negative: vec![text(&case["negative"]).into()],
            width: Some(number(&case["width"])),
            height: Some(number(&case["height"])),
            steps: Some(number(&case["steps"])),
            guidance: Some(case["guidance"].as_f64().unwrap() as f32),
            seed: number(&case["seed"]) as u64,
            ..Request::new(text(&case["prompt"]))
        };
        let job = request.check(golden.pipeline.config()).unwrap();
        let mut latents = Latents(Vec::new());
        let (pictures, _) = block_on(golden.pipeline.generate(&job, &mut latents)).unwrap();
        golden.expect(&format!("{i}.latents"), &latents.0[job.steps - 1].to_f32(), T::LATENTS);
        expect_rgb(&golden, &format!("{i}.rgb"), pictures[0].bytes());
    }
}
