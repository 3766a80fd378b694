//! Whole pictures, with the model loaded as the pipeline loads it.

use super::Watched;
use super::report::{Pictures, Row};
use super::sizes::Sizes;
use super::stages::Bench;
use super::timing::{Spread, measured};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::Pipeline;
use crate::pipeline::progress::Timings;
use crate::pipeline::prompt::{MAX_TOKENS, Tokenizer};
use crate::pipeline::request::{Job, Request};

/// The rows of [`draw`]: a picture from request to pixels, and its parts.
pub(super) const PICTURE: [&str; 4] = ["picture", "picture/text_encoder", "picture/denoise", "picture/vae"];
const SEED: u64 = 42;

/// A picture with the model's own steps and guidance. Prompt and negative prompt differ and both
/// have the token count of `sizes`, so that both captions cost the same.
pub(super) async fn job(model: &Model, sizes: &Sizes<'_>) -> Result<Job> {
    let tokenizer = Tokenizer::load(model.folder()).await?;
    let [height, width] = sizes.picture;
    let request = Request {
        negative: vec![prompt(&tokenizer, "b", sizes.caption)?],
        width: Some(width),
        height: Some(height),
        seed: SEED,
        ..Request::new(prompt(&tokenizer, "a", sizes.caption)?)
    };
    request.check(model.config())
}

/// Draws the picture of `job` several times, and adds the rows of [`PICTURE`] that are `wanted`.
pub(super) async fn draw<B: Backend>(
    bench: &Bench<'_, B>,
    pipeline: &Pipeline<B>,
    job: &Job,
    load_ms: f64,
    wanted: impl Fn(&str) -> bool,
    watched: &mut Watched<'_>,
) -> Result<Pictures> {
    let mut tile = None;
    watched.measure(PICTURE[0])?;
    let run = async || {
        let (_, drawn) = pipeline.generate(job, watched).await?;
        tile = drawn.vae_tile;
        Ok(drawn.timings)
    };
    let timings: Vec<Timings> = measured(bench.runs, run).await?.into_iter().map(|(_, timings)| timings).collect();
    let peak_memory = bench.b.peak_memory();

    let spread = |part: &dyn Fn(&Timings) -> f64| Spread::of(&timings.iter().map(part).collect::<Vec<_>>());
    let parts: [&dyn Fn(&Timings) -> f64; 4] =
        [&|t| t.total_ms, &|t| t.text_encoder_ms, &|t| t.transformer_ms, &|t| t.vae_ms];
    let steps = job.steps;
    let guidance = job.guidance.scale;
    let tiled = tile.map_or(String::new(), |tile| format!(", decoded in tiles of {tile}×{tile}"));
    let picture = format!("{}×{}, {steps} steps, guidance {guidance}, seed {SEED}{tiled}", job.width, job.height);
    let whats = [
        picture,
        "tokens, text encoder and captions".into(),
        format!("noise, recording, {steps} steps"),
        "latents on the device to pixels on the host".into(),
    ];
    for ((name, part), what) in PICTURE.into_iter().zip(parts).zip(whats) {
        if wanted(name) {
            watched.row(Row::new(name, &what, spread(part), 1))?;
        }
    }
    watched.measure("steps back to back")?;
    let captions = if guidance > 0.0 { 2 } else { 1 };
    let (step, _) = bench.step(&*pipeline.transformer().await?, captions).await?;
    let loop_ms = spread(&|t| t.step_ms.iter().sum()).median;
    Ok(Pictures {
        steps,
        guidance,
        seed: SEED,
        load_ms,
        step_ms: step.median,
        loop_ms,
        idle_in_loop: (1.0 - steps as f64 * step.median / loop_ms).max(0.0),
        plan: pipeline.plan().to_string(),
        predicted_memory: pipeline.plan().peak,
        peak_memory,
    })
}

/// A prompt that has `tokens` tokens with its chat template, mostly one repeated word.
fn prompt(tokenizer: &Tokenizer, word: &str, tokens: usize) -> Result<String> {
    let count = |text: &str| tokenizer.encode(text).map(|found| found.ids.len() + found.cut);
    let mut prompt = String::new();
    let mut found = count("")?;
    if tokens <= found || tokens > MAX_TOKENS {
        let least = found + 1;
        return Err(Error::Request(format!(
            "a caption of {tokens} tokens is not possible: use {least} to {MAX_TOKENS}, the chat template's included"
        )));
    }
    while found < tokens {
        let longer = [format!("{prompt} {word}"), format!("{prompt}{word}"), format!("{prompt},")];
        let mut next = None;
        for text in longer {
            if count(&text)? == found + 1 {
                next = Some(text);
                break;
            }
        }
        let Some(text) = next else {
            return Err(Error::Request(format!("no caption of {tokens} tokens was found for this model's tokenizer")));
        };
        prompt = text;
        found += 1;
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Published;
    use crate::future::expect_ready;
    use std::path::Path;

    #[test]
    fn prompts_have_the_wanted_tokens() {
        let model = Published::Turbo.with_random_weights(None).unwrap();
        let json = expect_ready(model.folder().read("tokenizer/tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::read(&json, Path::new("tokenizer.json")).unwrap();
        for tokens in [20, 21, 128, MAX_TOKENS] {
            let [a, b] = ["a", "b"].map(|word| prompt(&tokenizer, word, tokens).unwrap());
            assert_ne!(a, b);
            for text in [a, b] {
                let found = tokenizer.encode(&text).unwrap();
                assert_eq!((found.ids.len(), found.cut), (tokens, 0));
            }
        }
        for tokens in [0, 19, MAX_TOKENS + 1] {
            assert!(prompt(&tokenizer, "a", tokens).unwrap_err().to_string().contains("use 20 to 512"));
        }
    }
}
