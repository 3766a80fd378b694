//! Single networks, as the pipeline runs them.

use super::Watched;
use super::report::Row;
use super::sizes::Sizes;
use super::timing::{Spread, since_start, timed};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::model::vae::tiling::VaeTile;
use crate::pipeline::guidance::Guidance;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::schedule::Schedule;
use crate::tensor::{DType, HostTensor};
use crate::weights::RandomTensors;

/// The rows of [`Bench::text_encoder`]: called as the pipeline calls it, and replayed,
/// without the host's work.
pub(super) const TEXT_ENCODER: [&str; 2] = ["stage/text_encoder", "stage/text_encoder/replayed"];
/// The rows of [`Bench::transformer`]: embedding and refining a caption, and a denoising step
/// without and with guidance.
pub(super) const TRANSFORMER: [&str; 3] = ["stage/captions", "stage/transformer/batch-1", "stage/transformer/batch-2"];
/// The rows of [`Bench::vae`]: from latents to a picture, with host work as in the pipeline, and
/// replayed.
pub(super) const VAE: [&str; 2] = ["stage/vae", "stage/vae/replayed"];

/// Replays of a step in each run.
const REPLAYS: usize = 4;
/// A step slower than this many milliseconds is replayed once per run.
const SLOW_STEP_MS: f64 = 2e3;

/// A backend, and the state that all stages need.
pub(super) struct Bench<'a, B> {
    pub b: &'a B,
    pub sizes: Sizes<'a>,
    pub random: &'a RandomTensors,
    pub activations: DType,
    pub runs: usize,
}

impl<B: Backend> Bench<'_, B> {
    /// Waits for all earlier calls.
    async fn finish(&self) -> Result<()> {
        self.b.wait(self.b.event()?).await
    }

    /// The times of calling `run` and waiting for it.
    async fn called(&self, mut run: impl FnMut() -> Result<()>) -> Result<Spread> {
        timed(self.runs, async || {
            run()?;
            self.finish().await
        })
        .await
    }

    async fn replayed(&self, recording: &B::Recording) -> Result<Spread> {
        self.called(|| self.b.replay(recording)).await
    }

    fn tokens(&self) -> String {
        format!("{} tokens, {} with padding", self.sizes.caption, self.sizes.caption_tokens())
    }

    /// The rows of [`TEXT_ENCODER`] that are `wanted`.
    pub(super) async fn text_encoder(
        &self,
        encoder: &TextEncoder<B>,
        wanted: impl Fn(&str) -> bool,
        watched: &mut Watched<'_>,
    ) -> Result<()> {
        let b = self.b;
        let tokens = self.sizes.caption_tokens();
        let known = self.sizes.config.text_encoder.vocab_size as u32;
        let prompt: Vec<u32> = (0..self.sizes.caption as u32).map(|i| i.wrapping_mul(7919) % known).collect();
        let forward = |b: &B| encoder.forward(b, std::slice::from_ref(&prompt), tokens, &mut |_, _| Ok(()));
        let flop = Some(self.sizes.text_flop());
        let [called, replayed] = TEXT_ENCODER;
        if wanted(called) {
            watched.measure(called)?;
            let ms = self.called(|| forward(b).map(drop)).await?;
            watched.row(Row::new(called, &self.tokens(), ms, 1).with_flop(flop))?;
        }
        if wanted(replayed) {
            watched.measure(replayed)?;
            let ms = self.replayed(&b.record(|b| forward(b).map(drop))?).await?;
            watched.row(Row::new(replayed, &self.tokens(), ms, 1).with_flop(flop))?;
        }
        Ok(())
    }

    /// The rows of [`TRANSFORMER`] that are `wanted`.
    pub(super) async fn transformer(
        &self,
        transformer: &Transformer<B>,
        wanted: impl Fn(&str) -> bool,
        watched: &mut Watched<'_>,
    ) -> Result<()> {
        let sizes = &self.sizes;
        let [captions, alone, guided] = TRANSFORMER;
        if wanted(captions) {
            watched.measure(captions)?;
            let features = self.features(1)?;
            let run = || transformer.captions(self.b, &features, &[sizes.caption], &mut |_, _| Ok(())).map(drop);
            let ms = self.called(run).await?;
            watched.row(Row::new(captions, &self.tokens(), ms, 1).with_flop(Some(sizes.caption_flop())))?;
        }
        for (name, items) in [(alone, 1), (guided, 2)] {
            if wanted(name) {
                watched.measure(name)?;
                let (ms, calls) = self.step(transformer, items).await?;
                let what = format!("{items} × {} tokens and the Euler step", sizes.layer().tokens);
                watched.row(Row::new(name, &what, ms, calls).with_flop(Some(sizes.step_flop(items))))?;
            }
        }
        Ok(())
    }

    /// Text features of `captions` captions.
    fn features(&self, captions: usize) -> Result<B::Tensor> {
        let shape = [captions, self.sizes.caption_tokens(), self.sizes.config.transformer.cap_feat_dim];
        self.b.upload(&self.random.normal(self.activations, "features", &shape, 0.0, 1.0))
    }

    /// The times of a denoising step of one picture as the pipeline records it, with one caption
    /// or, if guided, two. Also returns the number of replays queued before the host waits, which
    /// hide the launch time.
    pub(super) async fn step(&self, transformer: &Transformer<B>, captions: usize) -> Result<(Spread, usize)> {
        let b = self.b;
        let sizes = &self.sizes;
        let features = self.features(captions)?;
        let lengths = vec![sizes.caption; captions];
        let refined = transformer.captions(b, &features, &lengths, &mut |_, _| Ok(()))?;
        // Each replay takes the next step of the schedule.
        let schedule = Schedule::new(&sizes.config.scheduler, REPLAYS * (self.runs + 4), sizes.latents())?;
        let scale = if captions > 1 { 4.0 } else { 0.0 };
        let guidance = Guidance { scale, normalization: 0.0, truncation: 1.0 };
        let noise = self.latents();
        let mut sampler = Sampler::upload(b, &noise, &schedule, &guidance, &sizes.config.transformer)?;
        let items: Vec<usize> = (0..captions).collect();
        let step = sampler.record(b, transformer, &refined, &items)?;
        let replay = async |times: usize| {
            (0..times).try_for_each(|_| b.replay(&step.recording))?;
            self.finish().await
        };
        // If a step takes seconds, the launch time does not matter.
        let times = if since_start(async || replay(1).await).await? < SLOW_STEP_MS { REPLAYS } else { 1 };
        Ok((timed(self.runs, async || replay(times).await).await?.divided(times), times))
    }

    fn latents(&self) -> HostTensor {
        let [height, width] = self.sizes.latents();
        let shape = [1, self.sizes.config.vae.latent_channels, height, width];
        self.random.normal(DType::F32, "latents", &shape, 0.0, 1.0)
    }

    /// The rows of [`VAE`] that are `wanted`.
    pub(super) async fn vae(
        &self,
        vae: &Vae<B>,
        wanted: impl Fn(&str) -> bool,
        watched: &mut Watched<'_>,
    ) -> Result<()> {
        let b = self.b;
        let latents = self.latents();
        let mut tiles = vae.decoder_tiles(b, VaeTile::Auto, self.sizes.picture, |_| true);
        let [height, width] = self.sizes.picture;
        let flop = Some(self.sizes.decoder_flop());
        let [called, replayed] = VAE;
        if wanted(called) {
            watched.measure(called)?;
            let run = async || vae.decode_picture(b, &b.upload(&latents)?, 0, &mut tiles).await.map(drop);
            let ms = timed(self.runs, run).await?;
            let what = format!("{height}×{width} from host to host");
            let what = match tiles.pixels() {
                Some(tile) => format!("{what}, in tiles of {tile}×{tile}"),
                None => what,
            };
            watched.row(Row::new(called, &what, ms, 1).with_flop(flop))?;
        }
        if wanted(replayed) && tiles.pixels().is_none() {
            watched.measure(replayed)?;
            let latents = b.upload(&latents)?;
            let ms = self.replayed(&b.record(|b| vae.decode(b, &latents, 0..1).map(drop))?).await?;
            watched.row(Row::new(replayed, &format!("{height}×{width}"), ms, 1).with_flop(flop))?;
        }
        b.trim();
        Ok(())
    }
}
