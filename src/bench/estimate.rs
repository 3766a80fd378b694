//! The estimated time of a run, from the operations of its stages and the speeds of the device.

use super::sizes::Sizes;
use crate::backend::Backend;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::pipeline::plan::{Expected, Plan};
use crate::pipeline::progress::since;
use crate::tensor::{DType, HostTensor, StreamSource, Weight};
use crate::weights::RandomTensors;
use serde::Serialize;
use web_time::Instant;

/// Rows of the gemm that is timed.
const ROWS: usize = 1024;
/// Bytes of the matrix whose upload and streaming are timed.
const BYTES: usize = 64 << 20;
/// A series of calls lasts at least so many milliseconds.
const MIN_MS: f64 = 50.0;

/// Seconds of the parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Loading, with the files in the system's cache.
    pub load: f64,
    /// Encoding the prompts.
    pub text_encoder: f64,
    /// One denoising step.
    pub step: f64,
    /// Decoding one picture.
    pub vae: f64,
    /// Everything, for the steps and pictures of the request.
    pub total: f64,
}

impl Estimate {
    /// Times a gemm, an upload and a streamed matrix on the backend, and divides the work by their
    /// speeds. `files`: bytes of the model's files.
    ///
    /// # Errors
    /// Those of the backend.
    pub async fn of<B: Backend>(
        b: &B,
        config: &ModelConfig,
        plan: &Plan,
        expected: &Expected,
        [steps, pictures]: [usize; 2],
        files: u64,
    ) -> Result<Self> {
        let [width, height] = expected.size;
        let sizes = Sizes { config, picture: [height, width], caption: expected.tokens };
        let random = RandomTensors::default();
        let rate = gemm(b, &random, config.transformer.dim).await?;
        let [upload, stream] = copies(b, &random, config.transformer.dim, plan.transformer.source()).await?;
        let (batch, guided) = (expected.batch as f64, if expected.is_guided { 2 } else { 1 });
        let text_flop = expected.prompts as f64 * (sizes.text_flop() + sizes.caption_flop());
        // A single buffer is not overwritten while a gemm reads it.
        let copies_overlap = b.overheads().streamed.is_some_and(|buffers| buffers > 1);
        let with_copies = |work: f64, bytes: u64| match bytes as f64 / stream {
            copied if copies_overlap => work.max(copied),
            copied => work + copied,
        };
        let step = with_copies(batch * sizes.step_flop(guided) / rate, plan.streamed);
        let text_encoder = with_copies(text_flop / rate, plan.streamed_text);
        let vae = sizes.decoder_flop() / rate;
        let load = files as f64 / upload;
        let batches = pictures.div_ceil(expected.batch) as f64;
        let total = load + text_encoder + batches * steps as f64 * step + pictures as f64 * vae;
        Ok(Self { load, text_encoder, step, vae, total })
    }
}

/// Seconds of a call, from a series that lasts long enough.
async fn timed<B: Backend>(b: &B, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut calls = 1;
    loop {
        call()?;
        b.wait(b.event()?).await?;
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        b.wait(b.event()?).await?;
        let ms = since(start);
        if ms >= MIN_MS {
            return Ok(ms / 1e3 / f64::from(calls));
        }
        calls *= 4;
    }
}

/// Operations a second of a square gemm.
async fn gemm<B: Backend>(b: &B, random: &RandomTensors, dim: usize) -> Result<f64> {
    let x = b.upload(&random.normal(b.activations(), "x", &[1, ROWS, dim], 0.0, 1.0))?;
    let w = b.upload_linear(&[random.weight("w", &[dim, dim]).into()], &[]).await?;
    let seconds = timed(b, || b.linear(&x, &w).map(drop)).await?;
    Ok(2.0 * (ROWS * dim * dim) as f64 / seconds)
}

/// Bytes a second of uploads and of matrices streamed from `source`, if any are.
async fn copies<B: Backend>(
    b: &B,
    random: &RandomTensors,
    dim: usize,
    source: Option<StreamSource>,
) -> Result<[f64; 2]> {
    let rows = (BYTES / DType::Bf16.size() / dim).max(1);
    let matrix: HostTensor = random.weight("w", &[rows, dim]);
    let bytes = matrix.bytes().len() as f64;
    let weight = || Weight::from(&matrix);
    drop(b.upload_linear(&[weight()], &[]).await?);
    b.wait(b.event()?).await?;
    let start = Instant::now();
    drop(b.upload_linear(&[weight()], &[]).await?);
    b.wait(b.event()?).await?;
    let upload = bytes / since(start).max(1e-3) * 1e3;
    if source.is_none() {
        return Ok([upload, f64::INFINITY]);
    }
    let w = b.upload_linear(&[weight().streamed(source)], &[]).await?;
    let x = b.upload(&random.normal(b.activations(), "x", &[1, 1, dim], 0.0, 1.0))?;
    let seconds = timed(b, || b.linear(&x, &w).map(drop)).await?;
    Ok([upload, bytes / seconds])
}
